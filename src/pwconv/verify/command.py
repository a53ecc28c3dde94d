"""``pwconv verify`` on the command line."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pwconv.deny_list import DenyList
from pwconv.device import choose_device, open_context
from pwconv.documents import require_writable, write_document
from pwconv.errors import PwconvError
from pwconv.terminal import make_console, progress_bar
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
    console = make_console()

    def say(text: str) -> None:
        console.print(text, soft_wrap=True)

    variants = selected(options.only)
    if options.json:
        require_writable(options.json)
    info = choose_device(options.device)
    say(f"device {info}")
    deny_list = DenyList(info)
    try:
        if options.allow_all:
            _allow_all(deny_list, say)
            return True
        if options.deny:  # before a minute of work rather than after it
            _require_revisable(deny_list, options)
    except OSError as error:
        raise _unwritable(deny_list, error) from None
    # Not a Device, which a damaged deny list does not let open.
    context = open_context(info)
    try:
        with progress_bar(console) as progress:
            task = progress.add_task("", total=1.0)
            found = verify(
                context,
                variants,
                lambda what, share: progress.update(task, description=what, completed=share),
            )
    finally:
        context.close()
    # Files first: whoever reads what is printed may go away.
    problems: list[PwconvError] = []
    lines = []
    try:
        lines += _deny(deny_list, found) if options.deny else _advise(deny_list, found)
    except OSError as error:
        problems.append(_unwritable(deny_list, error))
    if options.json:
        try:
            write_document(to_document(info, found), options.json)
            lines.append(f"wrote {options.json}")
        except PwconvError as error:
            problems.append(error)
    console.print(make_table(found))
    for line in (*describe(found), *lines):
        say(line)
    if problems:
        raise PwconvError("; ".join(map(str, problems)))
    return bool(found.results) and not found.failed and not found.lost


def _unwritable(deny_list: DenyList, error: OSError) -> PwconvError:
    return PwconvError(f"{deny_list.file} cannot be written: {error}")


def _require_revisable(deny_list: DenyList, options: argparse.Namespace) -> None:
    """Raise unless what will be found can be put on the list."""
    deny_list.require_writable()
    _, problem = deny_list.examine()
    if problem and options.only:
        raise PwconvError(
            f"the deny list {deny_list.file} cannot be used: {problem}. It is written anew where "
            "everything is verified: leave --only out"
        )


def _deny(deny_list: DenyList, found: Verification) -> list[str]:
    """Revise the list; return what that changed, in lines."""
    before, problem = deny_list.examine()
    if problem and found.lost:
        return [
            f"the deny list {deny_list.file} cannot be used: {problem}. It was not written anew: "
            "not everything was verified"
        ]
    failed = {result.variant.name: _why(result) for result in found.failed}
    verified = [result.variant.name for result in found.results]
    after = deny_list.revise(verified, failed, anew=True)
    count = f"{len(after)} {'variant' if len(after) == 1 else 'variants'}"
    return [
        *(f"denied {name} ({why})" for name, why in failed.items()),
        *(f"allowed {name}: it passes now" for name in before if name not in after),
        f"deny list {deny_list.file}: {count}. Devices that are opened from now on do not run "
        "what is on it; 'pwconv verify --allow-all' removes it",
    ]


def _advise(deny_list: DenyList, found: Verification) -> list[str]:
    """Return what is denied wrongly or not yet, in lines."""
    denied, problem = deny_list.examine()
    lines = []
    if problem:
        lines.append(f"the deny list {deny_list.file} cannot be used: {problem}")
    if problem or any(result.variant.name not in denied for result in found.failed):
        lines.append("to keep layers and graphs from running what fails: pwconv verify --deny")
    if any(result.passed and result.variant.name in denied for result in found.results):
        lines.append(
            f"variants on the deny list {deny_list.file} pass now: 'pwconv verify --deny' takes "
            "them off it, 'pwconv verify --allow-all' removes it"
        )
    return lines


def _allow_all(deny_list: DenyList, say: Callable[[str], None]) -> None:
    if not os.path.lexists(deny_list.file):
        say(f"nothing is denied: {deny_list.file} does not exist")
        return
    denied, _ = deny_list.examine()
    deny_list.clear()
    for name, denial in denied.items():
        say(f"allowed {name} ({denial})")
    say(f"removed {deny_list.file}")


def _why(result: Result) -> str:
    """Return what is wrong with a variant, in a few words that a deny list takes."""
    first = result.failures[0]
    text = f"{first.kind} in {first.case}"[:_MOST_WHY]
    return "".join(character for character in text if character.isprintable())
