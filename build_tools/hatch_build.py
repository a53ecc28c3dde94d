"""hatchling's hook: compile the shaders and put the SPIR-V into the wheel."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# hatchling loads this file by path, so its neighbours are not importable by themselves.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from compile_shaders import compile_all
from glslang import GlslError, requirement


class ShaderBuildHook(BuildHookInterface[Any]):
    """Compiles into src/pwconv/spirv, where an editable install finds it too."""

    def dependencies(self) -> list[str]:
        """Ask for the compiler, which an sdist needs none of, or say that there is none here."""
        try:
            return [requirement()] if self.target_name == "wheel" else []
        except GlslError as error:
            sys.exit(f"error: {error}")

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile before the wheel collects its files; an sdist carries the sources instead."""
        if self.target_name == "wheel":
            root = Path(self.root)
            compile_all(root / "shaders", root / "src" / "pwconv" / "spirv")
            build_data["artifacts"].append("src/pwconv/spirv/*")
