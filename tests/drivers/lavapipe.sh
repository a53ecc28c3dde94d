#!/bin/sh
# Usage: lavapipe.sh FOLDER, a folder named lavapipe-SUITE
#
# Makes FOLDER/python, a Python with pwconv on the lavapipe of a Debian suite: lavapipe-bookworm is
# Mesa 22.3, lavapipe-sid the newest. The last line on stderr says why when it fails.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
folder=$(cd "$1" && pwd)
suite=${folder##*/lavapipe-}
debian=$(dirname "$folder")/debian-$suite

"$here/debian.sh" "$suite" "$debian"
"$here/use.sh" "$debian" "$(echo "$debian"/root/usr/share/vulkan/icd.d/lvp_icd*.json)" "$folder"
