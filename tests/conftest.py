"""A device for each Vulkan implementation found, with validation on."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Before anything opens a device: the suite has a cache of its own. What Mesa compiles, which takes
# most of the suite's time, is where Mesa always keeps it, for every process and for the next run.
os.environ.setdefault(
    "MESA_SHADER_CACHE_DIR", os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
)
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="pwconv-tests-")
# Before numpy: threads of its references would keep processors that drivers compute on.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

import pwconv
from pwconv import deny_list
from pwconv.tune import store as tune_store

settings.register_profile(
    "pwconv",
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.load_profile("pwconv")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--exhaustive",
        action="store_true",
        help="run what is marked exhaustive too: sweeps over every tile and type, fuzz, full sizes",
    )
    parser.addoption(
        "--fuzz",
        type=float,
        default=1.0,
        metavar="FACTOR",
        help="draw so many times the bad input; 1, the default, takes less than a minute",
    )
    parser.addoption(
        "--load",
        type=int,
        default=1000,
        metavar="CALLS",
        help="calls of mixed shapes in one process, over which memory must not grow (1000)",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--exhaustive"):
        left = [item for item in items if _is_exhaustive(item)]
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in set(left)]


def _is_exhaustive(item: pytest.Item) -> bool:
    """Return whether it is marked so, is fuzz, or crosses types and storages that others pair.

    What is of kernels, one by one, says itself in which ways they are tried.
    """
    settings = getattr(item, "callspec", None)
    way = settings and (settings.params.get("dtype"), settings.params.get("storage"))
    crossed = way in (("float32", "buffer"), ("float16", "texture3d"))
    return (
        item.get_closest_marker("exhaustive") is not None
        or "fuzz" in getattr(item, "fixturenames", ())
        or (crossed and item.path.parent.name != "ops")
    )


def pytest_report_header() -> list[str]:
    return [f"vulkan: {info.index}: {info}" for info in pwconv.devices()]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "device" in metafunc.fixturenames:
        found = pwconv.devices()
        assert found, "there is no Vulkan device to test on"
        metafunc.parametrize(
            "device", found, indirect=True, ids=lambda info: info.name.split()[0], scope="session"
        )


@pytest.fixture(scope="session")
def _devices() -> Iterator[dict[int, pwconv.Device]]:
    opened: dict[int, pwconv.Device] = {}
    yield opened
    for device in opened.values():
        device.close()


@pytest.fixture
def device(
    request: pytest.FixtureRequest, _devices: dict[int, pwconv.Device]
) -> Iterator[pwconv.Device]:
    """A device shared by the session; a validation message fails the test that caused it."""
    index = request.param.index
    if index not in _devices:
        _devices[index] = pwconv.Device(index, validate=True)
    yield _devices[index]
    _devices[index].synchronize()


@pytest.fixture
def own_device(device: pwconv.Device) -> Iterator[pwconv.Device]:
    """A device that the test may close or break."""
    with pwconv.Device(device.info.index, validate=True) as opened:
        yield opened


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(2026)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for tuning and deny lists; compiled pipelines stay where the suite finds them."""
    for module in (deny_list, tune_store):
        monkeypatch.setattr(module, "cache_folder", lambda kind, **_: tmp_path / kind)
    return tmp_path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for every file that is kept, of processes that the test starts too."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path
