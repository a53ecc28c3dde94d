"""``pwconv verify`` on the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from pwconv.deny_list import DenyList
from pwconv.device import Device
from pwconv.documents import require_writable, write_document
from pwconv.errors import PwconvError
from pwconv.progress import progress_bar
from pwconv.verify.report import describe, make_table, to_document
from pwconv.verify.run import Result, Verification, selected, verify

_MOST_WHY = 80


def add_parser(commands: Any) -> None:
    """Add the command to a parser's."""
    parser = commands.add_parser(
        "verify", help="check every kernel that the device can run against float64"
    )
    parser.add_argument(
        "-d",
        "--device",
        help="index, or part of a name; by default $PWCONV_DEVICE, or the first GPU",
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="PART",
        help="verify the variants whose names contain this; may be repeated",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything found")
    lists = parser.add_mutually_exclusive_group()
    lists.add_argument(
        "--deny",
        action="store_true",
        help="put what fails on the device's deny list, and take off it what passes: layers and "
        "graphs never run what is on it",
    )
    lists.add_argument(
        "--allow-all",
        action="store_true",
        help="remove the device's deny list, and verify nothing",
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> bool:
    console = Console()

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    variants = selected(options.only)
    if options.json:
        require_writable(options.json)
    with Device(options.device) as device:
        say(f"device {device.info}")
        deny_list = DenyList(device.info)
        try:
            if options.allow_all:
                _allow_all(deny_list, say)
                return True
            if options.deny:
                deny_list.revise((), {})  # before a minute of work rather than after it
            with progress_bar(console) as progress:
                task = progress.add_task("", total=1.0)
                found = verify(
                    device._logical,
                    variants,
                    lambda what, share: progress.update(task, description=what, completed=share),
                )
            console.print(make_table(found))
            for line in describe(found):
                say(line)
            if options.deny:
                _deny(deny_list, found, say)
            else:
                _advise(deny_list, found, say)
        except OSError as error:
            raise PwconvError(f"{deny_list.file} cannot be written: {error}") from None
    if options.json:
        write_document(to_document(device.info, found), options.json)
        say(f"wrote {options.json}")
    return bool(found.results) and not found.failed and not found.lost


def _deny(deny_list: DenyList, found: Verification, say: Callable[[str], None]) -> None:
    before = deny_list.read()
    failed = {result.variant.name: _why(result) for result in found.failed}
    after = deny_list.revise([result.variant.name for result in found.results], failed)
    for name, why in failed.items():
        say(f"denied {name} ({why})")
    for name in before:
        if name not in after:
            say(f"allowed {name}: it passes now")
    count = f"{len(after)} {'variant' if len(after) == 1 else 'variants'}"
    say(
        f"deny list {deny_list.file}: {count}. Devices that are opened from now on do not run "
        "what is on it; 'pwconv verify --allow-all' removes it"
    )


def _advise(deny_list: DenyList, found: Verification, say: Callable[[str], None]) -> None:
    """Say what is denied wrongly or not yet."""
    denied = deny_list.read()
    new = [r.variant.name for r in found.failed if r.variant.name not in denied]
    if new:
        say("to keep layers and graphs from running what fails: pwconv verify --deny")
    if any(result.passed and result.variant.name in denied for result in found.results):
        say(
            f"variants on the deny list {deny_list.file} pass now: 'pwconv verify --deny' takes "
            "them off it, 'pwconv verify --allow-all' removes it"
        )


def _allow_all(deny_list: DenyList, say: Callable[[str], None]) -> None:
    if not deny_list.file.exists():
        say(f"nothing is denied: {deny_list.file} does not exist")
        return
    denied = deny_list.read()
    deny_list.clear()
    for name, why in denied.items():
        say(f"allowed {name} ({why})")
    say(f"removed {deny_list.file}")


def _why(result: Result) -> str:
    """Return what is wrong with a variant, in a few words that a deny list takes."""
    first = result.failures[0]
    text = f"{first.kind} in {first.case}"[:_MOST_WHY]
    return "".join(character for character in text if character.isprintable())
