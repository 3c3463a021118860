"""When each task began and ended on each host, as lines of JSON in the file that NPUOPS_TASKS names."""

from __future__ import annotations

import json
import os
import time
import typing as t

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: task_times
type: aggregate
short_description: Writes when each task ran on each host
description:
  - One line of JSON for a task and host, in the file that E(NPUOPS_TASKS) names.
"""


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "task_times"

    def __init__(self) -> None:
        super().__init__()
        self._started: dict[tuple[str, str], float] = {}

    def v2_runner_on_start(self, host: t.Any, task: t.Any) -> None:
        self._started[host.get_name(), task._uuid] = time.time()

    def _ended(self, result: t.Any) -> None:
        host, task = result._host.get_name(), result._task
        start = self._started.pop((host, task._uuid), None)
        if start is not None:
            with open(os.environ["NPUOPS_TASKS"], "a", encoding="utf-8") as file:
                file.write(json.dumps({"host": host, "task": task.get_name(), "action": task.action, "start": start, "end": time.time()}) + "\n")

    def v2_runner_on_ok(self, result: t.Any) -> None:
        self._ended(result)

    def v2_runner_on_failed(self, result: t.Any, ignore_errors: bool = False) -> None:
        del ignore_errors
        self._ended(result)

    def v2_runner_on_skipped(self, result: t.Any) -> None:
        self._ended(result)

    def v2_runner_on_unreachable(self, result: t.Any) -> None:
        self._ended(result)
