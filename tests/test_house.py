"""The floors of the house: a module imports only from floors below its own."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "pwconv"

# Longest prefix first. Each folder is one floor.
FLOORS = {
    "pwconv.errors": 0,
    "pwconv.files": 0,
    "pwconv.terminal": 0,
    "pwconv.version": -1,
    "pwconv.reference": 0,
    "pwconv.vk": 1,
    "pwconv.layout": 1,
    "pwconv.documents": 1,
    "pwconv.dtypes": 1,
    "pwconv.activation": 1,
    "pwconv.shaders": 1,
    "pwconv.device_file": 2,
    "pwconv.dispatch": 2,
    "pwconv.staging": 2,
    "pwconv.tensor": 2,
    "pwconv.packed_weight": 2,
    "pwconv.deny_list": 3,
    "pwconv.explanation": 3,
    "pwconv.kernels": 3,
    "pwconv.timing": 3,
    "pwconv.tuning": 4,
    "pwconv.device": 5,
    "pwconv.layer": 6,
    "pwconv.verify": 6,
    "pwconv.modules": 7,
    "pwconv.functional": 8,
    "pwconv.graph": 8,
    "pwconv.demo": 8,
    "pwconv.models": 9,
    "pwconv.bench": 10,
    "pwconv.cli": 11,
    "pwconv.__main__": 12,
    "pwconv": 10,
}
OPEN_FOLDERS = (
    "pwconv.vk",
    "pwconv.kernels",
    "pwconv.timing",
    "pwconv.tuning",
    "pwconv.verify",
    "pwconv.graph",
    "pwconv.models",
    "pwconv.bench",
)


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def floor(module: str) -> int:
    parts = module.split(".")
    return next(
        FLOORS[".".join(parts[:length])]
        for length in range(len(parts), 0, -1)
        if ".".join(parts[:length]) in FLOORS and (length > 1 or len(parts) == 1)
    )


def imports(path: Path) -> set[str]:
    """Return the pwconv modules that a file imports when it runs, not only for its types."""
    found: set[str] = set()
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            node.body.clear()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "pwconv":
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                file = PACKAGE.parent / whole.replace(".", "/")
                is_module = file.with_suffix(".py").exists() or file.is_dir()
                found.add(whole if is_module else node.module)
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names if a.name.split(".")[0] == "pwconv"}
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=module_name)
def test_imports_go_down(path):
    module = module_name(path)
    for target in imports(path):
        same_folder = any(
            target.startswith(folder) and module.startswith(folder) for folder in OPEN_FOLDERS
        )
        assert same_folder or floor(target) < floor(module), f"{module} imports {target}"


def test_importing_pwconv_needs_no_vulkan():
    assert "pwconv.vk.api" in imports(PACKAGE / "vk/instance.py")
    for path in PACKAGE.rglob("*.py"):
        if path != PACKAGE / "vk" / "api.py":
            assert "import vulkan" not in path.read_text()
