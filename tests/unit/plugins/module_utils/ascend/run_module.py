# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).parents[5]


def call(module: str, options: dict, check: bool = False, python: str = sys.executable) -> dict:
    """Run a module as Ansible would: its options as JSON on stdin, its answer as JSON on stdout."""
    arguments = {**options, "_ansible_check_mode": check, "_ansible_remote_tmp": "/tmp", "_ansible_diff": True}
    done = subprocess.run(
        [python, "-W", "ignore", str(CHECKOUT / f"plugins/modules/{module}.py")],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
        text=True,
        capture_output=True,
        env={"PYTHONPATH": f"{CHECKOUT}/collections", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )
    assert done.stdout, done.stderr
    answer = json.loads(done.stdout)
    answer.pop("invocation", None)
    return answer
