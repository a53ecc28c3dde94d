"""Rewrite the golden tables, or describe the device at hand: see tables.py."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import tables

import pwconv
from support import paper


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", metavar="NAME", help="write devices/NAME.json, and no tables")
    options = parser.parse_args()
    if options.device:
        with pwconv.Device() as device:
            paper.write(device, tables.HERE / "devices" / f"{options.device}.json")
        return
    for name in tables.DEVICES:
        tables.choices_file(name).write_text("".join(f"{line}\n" for line in tables.choices(name)))
    tables.CASES.write_text("".join(f"{line}\n" for line in tables.cases()))


if __name__ == "__main__":
    main()
