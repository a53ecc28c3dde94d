"""PyInstaller's hook: the SPIR-V and heuristics.toml, which nothing imports, go along."""

from PyInstaller.utils.hooks import collect_data_files

datas = collect_data_files("pwconv", includes=["heuristics.toml", "spirv/*"])
