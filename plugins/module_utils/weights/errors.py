# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors and problems of the weights library.

A *WeightsError* ends the work: a file that cannot be read as what it claims to be, a disk that is full.
A *problem* is one finding of a check; checks collect them, so that the user sees all of them at once.
"""

from __future__ import annotations

from typing import Any, Dict, Iterable, List, Optional

Problem = Dict[str, Any]


class WeightsError(Exception):
    """Something about a weight file is not as it must be; the message names file, byte offset, fact and remedy.

    path and offset (bytes from the start of the file) are None where the error belongs to no single place.
    """

    def __init__(self, message: str, path: Optional[str] = None, offset: Optional[int] = None) -> None:
        self.message = message
        self.path = path
        self.offset = offset
        place = ""
        if path is not None:
            place = f"{path}: " if offset is None else f"{path}: byte {offset}: "
        super().__init__(printable(place + message))


def is_whole(value: Any) -> bool:
    """Whether a value of JSON or GGUF is a whole number: no bool, and no gguf.Array, which are ints to isinstance."""
    return value.__class__ is int


def printable(text: str) -> str:
    """Text that can be sent as UTF-8, whatever bytes a file or file name held."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def problem(ident: str, observed: str, expected: str, repair: str, severity: str = "error") -> Problem:
    """One finding: ident is stable (tests and preflight_accept use it), the rest is text for the user."""
    return {"id": ident, "severity": severity, "observed": printable(observed), "expected": expected, "repair": repair}


def errors_of(problems: Iterable[Problem]) -> List[Problem]:
    return [item for item in problems if item["severity"] == "error"]


def sentence(item: Problem) -> str:
    """The problem as one line for a human."""
    return f"{item['observed'].rstrip('.')}; expected {item['expected'].rstrip('.')}. {item['repair']}"


def shortened(names: Iterable[str], limit: int = 3) -> str:
    """A list of names, cut after `limit`, that says how many there are."""
    items = list(names)
    text = ", ".join(items[:limit])
    return text if len(items) <= limit else f"{text} and {len(items) - limit} more"
