#!/bin/sh
# Usage: use.sh DEBIAN ICD FOLDER
#
# Writes FOLDER/python: the Python of what debian.sh made in DEBIAN, on the one driver that the
# manifest ICD names.
set -eu

cat >"$3/python" <<END
#!/bin/sh
unset PWCONV_DEVICE PWCONV_VALIDATE
export VK_DRIVER_FILES='$2'
export VK_LAYER_PATH='$1/root/usr/share/vulkan/explicit_layer.d'
export VK_LOADER_LAYERS_DISABLE='~implicit~' # this machine's, made for its own loader
exec '$1/venv/bin/python' "\$@"
END
chmod +x "$3/python"
