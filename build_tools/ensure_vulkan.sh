#!/bin/sh
# Usage: ensure_vulkan.sh PYTHON [--validation]
#
# Leaves a machine with a Vulkan device alone. On one without, installs the loader and Mesa's drivers,
# which bring a CPU device, through apt-get. With --validation the same for the validation layer.
set -eu

python=$1
want_layer=${2:-}

has_device() {
    "$python" -c 'import pwconv, sys; sys.exit(not pwconv.devices())' 2>/dev/null
}

has_layer() {
    "$python" -c 'import pwconv; pwconv.Device(validate=True).close()' 2>/dev/null
}

install() {
    if ! command -v apt-get >/dev/null; then
        echo "This machine has $missing, and no apt-get to install it with:" >&2
        echo "docs/drivers.md lists other systems." >&2
        exit 1
    fi
    sudo=
    if [ "$(id -u)" -ne 0 ]; then
        sudo=sudo
    fi
    echo "This machine has $missing: installing $* with ${sudo:+$sudo }apt-get."
    $sudo apt-get update -qq
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" \
        >/dev/null
}

missing="no Vulkan device"
if ! has_device; then
    install libvulkan1 mesa-vulkan-drivers
    has_device || { echo "There is still no Vulkan device." >&2; exit 1; }
fi
missing="no Vulkan validation layer"
if [ "$want_layer" = --validation ] && ! has_layer; then
    install vulkan-validationlayers
    has_layer || { echo "There is still no Vulkan validation layer." >&2; exit 1; }
fi
