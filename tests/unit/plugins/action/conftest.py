# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real runs of ansible-playbook on this computer, each in a folder of its own.

NPUOPS_TARGET_PYTHON is the Python that modules run with, by default this one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

CHECKOUT = Path(__file__).resolve().parents[4]
RECORDER = '''
import json, os
from ansible.plugins.callback import CallbackBase
class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "recorder"
    def _keep(self, kind, result, **_kwargs):
        line = dict(kind=kind, host=result._host.get_name(), task=result._task.get_name(), result=result._result)
        with open(os.environ["RECORDER_FILE"], "a") as file:
            file.write(json.dumps(line, default=str) + "\\n")
    def v2_runner_on_ok(self, result): self._keep("ok", result)
    def v2_runner_on_failed(self, result, ignore_errors=False): self._keep("failed", result)
    def v2_runner_on_unreachable(self, result): self._keep("unreachable", result)
'''
# Becomes root for Ansible, and nobody for the kernel: tests run as any user.
BECOME = """
from __future__ import annotations
from ansible.plugins.become import BecomeBase
DOCUMENTATION = '''
name: pretend
short_description: only say that one is root
description: for tests
author: tests
options:
  become_user: {description: x, default: root, keyword: [{name: become_user}]}
  become_exe: {description: x, default: env, keyword: [{name: become_exe}]}
  become_flags: {description: x, default: "", keyword: [{name: become_flags}]}
  become_pass: {description: x}
'''
class BecomeModule(BecomeBase):
    name = "pretend"
    def build_become_command(self, cmd, shell):
        super().build_become_command(cmd, shell)
        return "env BECAME=yes " + self._build_success_command(cmd, shell)
"""


class Run:
    """What a playbook run said and did."""

    def __init__(self, rc: int, output: str, records: list) -> None:
        self.rc = rc
        self.output = output
        self.records = records

    def result(self, task: str, host: str | None = None) -> dict:
        """The last result of a task."""
        found = [record for record in self.records if record["task"] == task and host in (None, record["host"])]
        assert found, f"no result of task {task!r} in {self.output}"
        return dict(found[-1]["result"], kind=found[-1]["kind"])


class Controller:
    """Runs plays in a folder; `environment` adds variables of the process. `output` is the file that a run's output goes to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output = folder / "output"
        self.environment: dict[str, str] = {}
        (folder / "callbacks").mkdir()
        (folder / "callbacks" / "recorder.py").write_text(RECORDER)
        (folder / "become").mkdir()
        (folder / "become" / "pretend.py").write_text(BECOME)

    def __call__(self, plays, *options: str, inventory: dict | None = None, stdin=subprocess.DEVNULL) -> Run:
        records = self.folder / "records"
        records.unlink(missing_ok=True)
        if isinstance(plays, list) and plays and "hosts" not in plays[0]:
            plays = [{"hosts": "all", "gather_facts": False, "tasks": plays}]
        hosts = inventory or {"node1": {}}
        for values in hosts.values():
            values.setdefault("ansible_connection", "local")
            values.setdefault("ansible_python_interpreter", os.environ.get("NPUOPS_TARGET_PYTHON", sys.executable))
        (self.folder / "hosts.yml").write_text(yaml.safe_dump({"npu": {"hosts": hosts}}))
        (self.folder / "play.yml").write_text(yaml.safe_dump(plays, sort_keys=False))
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        env = {
            **{key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_") and key != "PYTHONUNBUFFERED"},
            "ANSIBLE_COLLECTIONS_PATH": str(CHECKOUT / "collections"),
            "ANSIBLE_CALLBACK_PLUGINS": str(self.folder / "callbacks"),
            "ANSIBLE_BECOME_PLUGINS": str(self.folder / "become"),
            "ANSIBLE_CALLBACKS_ENABLED": "recorder",
            "ANSIBLE_CALLBACK_RESULT_FORMAT": "yaml",
            "ANSIBLE_LOCALHOST_WARNING": "False",
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_REMOTE_TEMP": str(home / "remote-tmp"),
            "HOME": str(home),
            "RECORDER_FILE": str(records),
            **self.environment,
        }
        command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "hosts.yml", "play.yml", *options]
        with self.output.open("w") as output:
            run = subprocess.run(command, cwd=self.folder, env=env, stdin=stdin, stdout=output, stderr=subprocess.STDOUT, timeout=120, check=False)
        lines = records.read_text().splitlines() if records.exists() else []
        return Run(run.returncode, self.output.read_text(), [json.loads(line) for line in lines])


@pytest.fixture
def ansible(tmp_path):
    folder = tmp_path / "controller"
    folder.mkdir()
    return Controller(folder)
