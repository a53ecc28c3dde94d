"""No module is in a circle of imports, and importing pwconv needs little, and no Vulkan."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pwconv

PACKAGE = Path(__file__).parents[1] / "src" / "pwconv"


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in PACKAGE.rglob("*.py")}


def imported(path: Path) -> Iterator[str]:
    """Yield the pwconv modules that a file names: in functions and for its types alone, too.

    Not the packages around them, whose ``__init__`` only gather names for users.
    """
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import, which is not followed here"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield from [name for name in (whole, node.module) if name in MODULES][:1]


def reachable(start: str, graph: dict[str, set[str]]) -> set[str]:
    """Return what a module imports, and what that imports, and so on."""
    found: set[str] = set()
    pending = [start]
    while pending:
        new = graph[pending.pop()] - found
        found |= new
        pending += new
    return found


def test_no_module_is_in_a_circle():
    graph = {name: set(imported(path)) for name, path in MODULES.items()}
    assert "pwconv.vk.api" in graph["pwconv.vk.instance"]
    reach = {name: reachable(name, graph) for name in graph}
    assert not [name for name in graph if name in reach[name]]


def test_importing_pwconv_needs_no_vulkan():
    users = [name for name, path in MODULES.items() if "import vulkan" in path.read_text()]
    assert users == ["pwconv.vk.api"]


def imported_by(statement):
    """Return what a statement imports in a new process, numpy aside."""
    program = f"import sys, numpy; before = {{*sys.modules}}; {statement}"
    program += "; print({*sys.modules} - before)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return ast.literal_eval(done.stdout)


def test_a_graph_that_prints_nothing_does_without_rich():
    assert "rich" not in imported_by("import pwconv; pwconv.Graph, pwconv.Device")


def test_importing_pwconv_imports_little():
    """What opening a device, layers, graphs or the command line need comes when they are used."""
    imported = imported_by("import pwconv")
    assert not imported & {
        *("hashlib", "importlib.resources", "json", "logging", "platformdirs", "rich"),
        *("statistics", "tempfile", "vulkan"),
    }
    own = {name for name in imported if name.startswith("pwconv.")}
    later = {
        "bench",
        "cache",
        "cli",
        "graph",
        "layers",
        "ops",
        "timing",
        "tune",
        "verify",
    }
    assert not later & {name.split(".")[1] for name in own}
    assert len(own) <= 45


def test_a_package_shows_its_public_names_and_has_those_that_come_later():
    assert dir(pwconv) == sorted(pwconv.__all__)
    program = (
        "import pwconv; [print(getattr(pwconv, name)) for name in dir(pwconv)]; pwconv.nothing"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert len(done.stdout.splitlines()) == len(pwconv.__all__)
    assert "AttributeError: module 'pwconv' has no attribute 'nothing'" in done.stderr
