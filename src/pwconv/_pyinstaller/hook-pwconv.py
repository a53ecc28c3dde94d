"""PyInstaller's hook: the SPIR-V, which nothing imports, goes along."""

from PyInstaller.utils.hooks import collect_data_files

datas = collect_data_files("pwconv", subdir="spirv")
