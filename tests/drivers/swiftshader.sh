#!/bin/sh
# Usage: swiftshader.sh FOLDER
#
# Makes FOLDER/python, a Python with pwconv on SwiftShader. Debian has no package of it, but Chromium
# brings it: two files of Debian sid's chromium-common, under sid's loader and validation layer.
# The last line on stderr says why when it fails.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
folder=$(cd "$1" && pwd)
debian=$(dirname "$folder")/debian-sid

fetch() {
    export APT_CONFIG="$debian/apt.conf"
    cd "$folder"
    rm -f ./*.deb
    if ! apt-get update -qq --error-on=any || ! apt-get download -qq chromium-common; then
        echo "Debian's package chromium-common cannot be fetched" >&2
        exit 1
    fi
    dpkg --fsys-tarfile chromium-common_*.deb | tar -x --strip-components=4 \
        ./usr/lib/chromium/libvk_swiftshader.so ./usr/lib/chromium/vk_swiftshader_icd.json ||
        { echo "Debian's package chromium-common has no SwiftShader" >&2; exit 1; }
    rm ./*.deb
}

"$here/debian.sh" sid "$debian"
# The manifest comes last in the package: with it, the library is whole.
[ -e "$folder/vk_swiftshader_icd.json" ] || fetch
"$here/use.sh" "$debian" "$folder/vk_swiftshader_icd.json" "$folder"
