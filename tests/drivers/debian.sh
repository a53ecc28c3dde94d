#!/bin/sh
# Usage: debian.sh SUITE FOLDER
#
# Makes FOLDER/venv: pwconv and its tests in a virtual environment of a Debian suite's own Python
# (bookworm, trixie, sid), whose Vulkan loader and validation layer are the suite's as well.
#
# The packages are unpacked into FOLDER/root and not installed, and the suite's dynamic linker runs
# its Python on its libraries. That needs no root, no chroot and no mounts, so it works in a container
# too and leaves nothing behind, and children of Python that are not Python run on this machine's.
# What is there already is kept; only pwconv is installed again when pyproject.toml has changed.
# The last line on stderr says why when it fails.
set -eu

suite=$1
mkdir -p "$2"
folder=$(cd "$2" && pwd)
tree=$(cd "$(dirname "$0")/../.." && pwd)
root=$folder/root
export APT_CONFIG="$folder/apt.conf"

fail() {
    echo "$*" >&2
    exit 1
}

keyring=/usr/share/keyrings/debian-archive-keyring.gpg
command -v apt-get >/dev/null || fail "apt-get is needed to fetch Debian's packages"
[ -e "$keyring" ] || fail "the package debian-archive-keyring is needed to check Debian's packages"

unpack() {
    rm -rf "$folder/apt" "$folder/new" "$folder/venv"
    mkdir -p "$folder/apt/lists/partial" "$folder/apt/archives/partial" "$folder/new"
    : >"$folder/apt/status" # as if nothing were installed: every dependency is fetched
    arch=$(dpkg --print-architecture)
    echo "deb [arch=$arch signed-by=$keyring] http://deb.debian.org/debian $suite main" \
        >"$folder/apt/sources.list"
    # Signatures are checked, but not their age: an old mirror's sid is a driver too.
    cat >"$APT_CONFIG" <<END
Acquire::Check-Valid-Until "false";
Dir::Etc::SourceList "$folder/apt/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
Dir::State "$folder/apt";
Dir::State::status "$folder/apt/status";
Dir::Cache "$folder/apt";
Acquire::Languages "none";
Acquire::Retries "2";
Acquire::http::Timeout "20";
APT::Sandbox::User "root";
END
    apt-get update -qq --error-on=any || fail "Debian's archive cannot be read for $suite"
    apt-get install -qq -y --download-only --no-install-recommends \
        libvulkan1 mesa-vulkan-drivers vulkan-validationlayers python3-venv >/dev/null ||
        fail "Debian $suite's packages cannot be fetched"
    for package in "$folder"/apt/archives/*.deb; do
        dpkg -x "$package" "$folder/new" || fail "$(basename "$package") cannot be unpacked"
    done
    rm "$folder"/apt/archives/*.deb

    version=$(readlink "$folder/new/usr/bin/python3")
    rm "$folder/new/usr/bin/python3"
    cat >"$folder/new/usr/bin/python3" <<END
#!/bin/sh
# Python under the linker and the libraries of its own Debian. A venv's python is a link to this file.
root='$root'
triplet=\$(basename "\$root"/usr/lib/*-linux-gnu*)
set -- --library-path "\$root/lib/\$triplet:\$root/usr/lib/\$triplet" "\$root/usr/bin/$version" "\$@"
for linker in "\$root"/lib/*/ld-linux-*.so.* "\$root"/usr/lib/*/ld-linux-*.so.*; do
    [ ! -x "\$linker" ] || exec "\$linker" --argv0 "\$0" "\$@"
done
END
    chmod +x "$folder/new/usr/bin/python3"
    # By name alone, so that the linker's path decides, and not this machine's /usr.
    sed -i 's|\("library_path": *"\)/.*/|\1|' "$folder"/new/usr/share/vulkan/*.d/*.json
    mv "$folder/new" "$root"
}

install_pwconv() {
    [ -x "$folder/venv/bin/python" ] || "$root/usr/bin/python3" -m venv --without-pip "$folder/venv"
    # Only wheels: for a Python too new for one of them, pip then says which, and builds nothing.
    pip=$(echo "$root"/usr/share/python-wheels/pip-*.whl)/pip
    "$folder/venv/bin/python" "$pip" install --quiet \
        --disable-pip-version-check --only-binary=:all: pip --editable "${tree}[test]" ||
        fail "pip could not install pwconv and its tests on Debian $suite's Python"
    touch "$folder/venv/installed"
}

[ -d "$root" ] || unpack
if [ ! -e "$folder/venv/installed" ] || [ "$tree/pyproject.toml" -nt "$folder/venv/installed" ]; then
    install_pwconv
fi
