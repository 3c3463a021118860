# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A command as the work of a job, and what its log tells. Imports nothing of Ansible."""

from __future__ import annotations

import collections
import contextlib
import hashlib
import json
import os
import re
import shlex
import signal
import subprocess
import typing as t

from ansible_collections.npuops.ktransformers.plugins.module_utils import job

SHOW_ERRORS = [
    r"\berror:",
    r"^\s*[\w.]*(Error|Exception): ",
    r"\bERROR\b",
    r"No module named",
    r"CMake Error",
    r"^fatal:",
    r"undefined reference to",
    r"command not found",
    r"No space left on device",
    r"Permission denied",
    r"^Killed",
]
_CONTEXT = 2  # lines before and after the first error
_TAIL_LINES = 20
_TAIL_BYTES = 1 << 16
_LINE_BYTES = 2000
_SEARCH_BYTES = 256 << 20  # of a log, for its first error


def describe(folder: str, show_errors: t.Sequence[str]) -> t.Dict[str, t.Any]:
    """job.status(folder) with what the log tells.

    More keys: log_tail, error_lines (lists of str), failure (a sentence, None unless failed or interrupted).
    show_errors: regular expressions of the lines that tell an error.
    """
    state = job.status(folder)
    tail = log_tail(state["log"])
    state.update(log_tail=tail, error_lines=[], failure=None)
    if state["state"] == "running" and state["done"] is None:
        state["percent"] = percent_in(tail)
        state["message"] = next((line[:120] for line in reversed(tail) if line.strip()), None)
    if state["state"] in ("failed", "interrupted"):
        state["error_lines"], first = first_error(state["log"], show_errors) if state["state"] == "failed" else ([], None)
        state["failure"] = failure_of(state, first)
    return state


def failure_of(state: t.Dict[str, t.Any], first: t.Optional[str]) -> str:
    """One sentence for the user."""
    if state["state"] == "interrupted":
        return f"{state['title']} was interrupted: {state['error']}; run the playbook again to go on (log: {state['log']})"
    cause = f"{first} ({state['error']})" if first and first not in (state["error"] or "") else state["error"]
    return f"{state['title']} failed: {cause}; the whole log is {state['log']} on {state['host']}"


def log_tail(path: str) -> t.List[str]:
    """The last lines of a log; of a line that was overwritten by carriage returns, what is left to see."""
    try:
        with open(path, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    return [_visible(line) for line in text.split("\n")[-_TAIL_LINES - 1 :] if line][-_TAIL_LINES:]


def _visible(line: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", line.rstrip("\r\n").rpartition("\r")[2])[:_LINE_BYTES]


def percent_in(lines: t.Sequence[str]) -> t.Optional[float]:
    """How far a build says it is: [12/345] of ninja, [ 42%] of cmake and make."""
    for line in reversed(lines):
        match = re.match(r"\s*\[\s*(?:(\d+)\s*/\s*(\d+)|(\d+)\s*%)\s*\]", line)
        if match and match.group(3):
            return min(100.0, float(match.group(3)))
        if match and int(match.group(2)):
            return round(min(100.0, 100.0 * int(match.group(1)) / int(match.group(2))), 1)
    return None


def first_error(path: str, patterns: t.Sequence[str]) -> t.Tuple[t.List[str], t.Optional[str]]:
    """The first line that one of the patterns matches, with its neighbours, and by itself; what is said first is the cause.

    Lines that only show a command (+ …) are none.
    """
    wanted = [re.compile(pattern) for pattern in patterns]
    before: t.Deque[str] = collections.deque(maxlen=_CONTEXT)
    found: t.Optional[str] = None
    lines: t.List[str] = []
    try:
        with open(path, "rb") as file:
            while file.tell() < _SEARCH_BYTES:
                raw = file.readline(_LINE_BYTES)
                if not raw:
                    break
                line = _visible(raw.decode("utf-8", "replace"))
                if found is None and not line.startswith("+") and any(pattern.search(line) for pattern in wanted):
                    found = line
                    lines = [*before, line]
                elif found is not None:
                    lines.append(line)
                    if len(lines) >= len(before) + 1 + _CONTEXT:
                        break
                if found is None:
                    before.append(line)
    except OSError:
        pass
    return lines, found.strip() if found else None


def command_of(params: t.Mapping[str, t.Any]) -> t.Callable[[job.Progress], t.Dict[str, t.Any]]:
    """The work for job.run: run params' command (a list) in chdir with environment added; ended when the worker is asked to end."""
    environment = {key: str(value) for key, value in params["environment"].items()}
    command, chdir = params["command"], params["chdir"] or "/"

    def work(progress: job.Progress) -> t.Dict[str, t.Any]:
        progress.log("+ " + " ".join(shlex.quote(word) for word in command))
        try:
            process = subprocess.Popen(
                command, cwd=chdir, env=dict(os.environ, **environment), stdin=subprocess.DEVNULL, pass_fds=job.belongs_to_job()
            )
        except OSError as exc:
            raise job.JobError(f"{command[0]} can't be run in {chdir}: {exc}")
        try:
            code = process.wait()
        except BaseException:
            _end(process)
            raise
        if code:
            words = f"killed by {_signal_name(-code)}" if code < 0 else f"exit status {code}"
            raise job.JobError(words, result={"rc": code})
        return {"rc": 0}

    return work


def _end(process: t.Any) -> None:
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)
        return
    process.kill()
    process.wait()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def digest_of(params: t.Mapping[str, t.Any]) -> str:
    """What is being done, and on what it depends, as one word."""
    value = [params[key] for key in ("command", "chdir", "environment", "digest")]
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
