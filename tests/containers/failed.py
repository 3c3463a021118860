#!/usr/bin/env python3
"""Tell in a few lines which tasks failed in the log of a scenario.

A reader of CI's output sees its end, often no more; what failed stands thousands of lines above it, before all that is cleaned up.

Usage: failed.py LOG
"""

from __future__ import annotations

import itertools
import re
import sys
from pathlib import Path
from typing import Iterator

_FAILED = re.compile(r"^(fatal|failed): \[")
_WIDTH = 300
_HEAD = 6
_TAIL = 16


def failures(log: str) -> Iterator[list[str]]:
    """Yield the lines of each failure that nothing ignored: where the task stands, then what it said."""
    lines = log.splitlines()
    task = origin = ""
    for number, line in enumerate(lines):
        if line.startswith(("TASK [", "RUNNING HANDLER [")):
            task, origin = line.rstrip("* "), ""
        elif line.startswith("Origin: "):
            origin = line
        elif _FAILED.match(line):
            # The result is indented; blank lines belong to its texts.
            result = list(itertools.takewhile(lambda text: not text or text.startswith(" "), lines[number + 1 :]))
            following = lines[number + 1 + len(result) : number + 2 + len(result)]
            if following != ["...ignoring"]:
                yield [origin or task, line, *filter(None, result)]


def brief(lines: list[str]) -> list[str]:
    """Shorten a failure to its head and, where another run's output is in it, what failed there, else its end."""
    if len(lines) > _HEAD + _TAIL:
        inner = [number for number, line in enumerate(lines) if number >= _HEAD and _FAILED.match(line.strip())]
        start = min(inner[-1], len(lines) - _TAIL) if inner else len(lines) - _TAIL
        lines = [*lines[:_HEAD], "    …", *lines[start : start + _TAIL]]
    return [line if len(line) <= _WIDTH else line[:_WIDTH] + "…" for line in lines]


if __name__ == "__main__":
    # The last ones: those before them may be what a scenario breaks on purpose, and catches.
    for failure in list(failures(Path(sys.argv[1]).read_text(encoding="utf-8", errors="replace")))[-2:]:
        print(*brief(failure), sep="\n")
