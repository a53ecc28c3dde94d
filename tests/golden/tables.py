"""What devices choose, and what pwconv verify covers: as it is now, and where it is kept.

``python tests/golden/write.py`` rewrites all tables; look at what changed before keeping it.
``python tests/golden/write.py --device NAME`` describes the device at hand in devices/NAME.json:
the default one, which $PWCONV_DEVICE may name. Of the devices there, "phone" and "fixed-matrices"
are made up, from SwiftShader and the H100.
"""

from __future__ import annotations

from pathlib import Path

from problems import answer, problems

from pwconv.verify.run import FAMILIES, selected
from pwconv.verify.trials import Workbench
from support import inside, paper

HERE = Path(__file__).parent
WRITE = "python tests/golden/write.py"
DEVICES = sorted(file.stem for file in (HERE / "devices").glob("*.json"))
CASES = HERE / "cases.txt"


def choices_file(name: str) -> Path:
    return HERE / "choices" / f"{name}.txt"


def choices(name: str) -> list[str]:
    """Return a line for each problem: what it is, and what the device chooses.

    Of a layer that is the activations' storage, the weight's, the variant, its workgroup, and the
    number of dispatches if it is cut into several; of a graph the storage and each dispatch.
    """
    with paper.device(HERE / "devices" / f"{name}.json") as device:
        return [f"{what}: {answer(device, ask)}" for what, ask in problems()]


def cases() -> list[str]:
    """Return a line for each variant that is verified: its name, and those of its cases."""
    with paper.device(HERE / "devices" / "h100.json") as device:
        bench = Workbench(inside.context(device))
        trials = {v.name: FAMILIES[v.family](bench, v) for v in selected(())}
        return [f"{name}: {' | '.join(t.case for t in found)}" for name, found in trials.items()]


def pairs(lines: list[str]) -> set[tuple[str, str]]:
    """Return every variant with each of its cases."""
    split = (line.split(": ", 1) for line in lines)
    return {(variant, case) for variant, found in split for case in found.split(" | ")}
