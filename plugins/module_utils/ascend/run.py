# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Running the vendor's programs so that none of them can hang the caller."""
from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from dataclasses import dataclass

_OUTPUT_LIMIT = 4 * 1024 * 1024


@dataclass(frozen=True)
class Outcome:
    """How a program ended. `rc` is None when it was killed at the time limit or could not be started (then `reason` says why)."""

    rc: int | None
    output: str
    reason: str | None


def kill_group(process: subprocess.Popen) -> None:
    """Kill a process that leads its own session, with everything that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except OSError:
        pass
    try:
        process.wait(2)
    except subprocess.TimeoutExpired:
        pass  # stuck in the kernel, as with a dead device: nothing can end it, and nothing waits for it


def capture(command: list[str], timeout: float, environment: dict[str, str] | None = None, stdout_only: bool = False) -> Outcome:
    """Run a program with closed stdin and return what it printed.

    The output goes through a file: a grandchild that keeps a pipe open cannot hold the caller.
    """
    with tempfile.TemporaryFile() as output, open(os.devnull, "wb") as nothing:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=nothing if stdout_only else output,
                env=environment, start_new_session=True, cwd="/",
            )
        except OSError as exc:
            return Outcome(None, "", f"{command[0]} could not be started: {exc.strerror}")
        reason, rc = None, None
        try:
            rc = process.wait(timeout)
        except subprocess.TimeoutExpired:
            reason = f"{command[0]} did not answer within {timeout:g} s and was killed"
        finally:
            if rc is None:
                kill_group(process)
        output.seek(0)
        return Outcome(rc, output.read(_OUTPUT_LIMIT).decode("utf-8", "replace"), reason)
