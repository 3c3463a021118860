"""Counts what a playbook run costs: remote calls and seconds, for the benchmarks and the fleet. `plugins/` holds what Ansible loads for it.

`environment(calls, tasks)` goes into the environment of ansible-playbook; the nodes need `ansible_connection: counted_local` or `counted_ssh`.
"""

from __future__ import annotations

import json
import os
import time
import typing as t
from collections import Counter, defaultdict
from pathlib import Path

HERE = Path(__file__).resolve().parent


class Counted:
    """For a connection plugin: each command and each file transfer adds a line to the file that NPUOPS_CALLS names, when it has ended."""

    _play_context: t.Any

    def _address(self) -> str:
        return self._play_context.remote_addr

    def _counted(self, what: str, call: t.Callable[..., t.Any], *args: t.Any, **kwargs: t.Any) -> t.Any:
        start = time.time()
        try:
            return call(*args, **kwargs)
        finally:
            with open(os.environ["NPUOPS_CALLS"], "a", encoding="utf-8") as file:  # short lines, appended: whole in any order
                file.write(f"{start:.6f}\t{time.time():.6f}\t{self._address()}\t{what}\n")

    def exec_command(self, *args: t.Any, **kwargs: t.Any) -> t.Any:
        return self._counted("command", super().exec_command, *args, **kwargs)  # type: ignore[misc]

    def put_file(self, *args: t.Any, **kwargs: t.Any) -> None:
        self._counted("file sent", super().put_file, *args, **kwargs)  # type: ignore[misc]

    def fetch_file(self, *args: t.Any, **kwargs: t.Any) -> None:
        self._counted("file fetched", super().fetch_file, *args, **kwargs)  # type: ignore[misc]


class Call(t.NamedTuple):
    """start, end: seconds since the epoch."""

    start: float
    end: float
    address: str
    what: str


def environment(calls: Path, tasks: Path) -> dict[str, str]:
    """Variables for ansible-playbook; both files are emptied."""
    for path in (calls, tasks):
        path.write_text("", encoding="utf-8")
    return {
        "ANSIBLE_CONNECTION_PLUGINS": str(HERE / "plugins" / "connection"), "ANSIBLE_CALLBACK_PLUGINS": str(HERE / "plugins" / "callback"),
        "ANSIBLE_CALLBACKS_ENABLED": "task_times", "NPUOPS_CALLS": str(calls), "NPUOPS_TASKS": str(tasks), "PYTHONPATH": str(HERE),
    }


def ran(tasks: Path) -> list[dict[str, t.Any]]:
    """{host, task, action, start, end} of each task on each host, in the order in which they ended."""
    return [json.loads(line) for line in tasks.read_text(encoding="utf-8").splitlines()]


def called(calls: Path) -> list[Call]:
    """The remote calls, in the order in which they ended."""
    lines = (line.split("\t") for line in calls.read_text(encoding="utf-8").splitlines())
    return [Call(float(start), float(end), address, what) for start, end, address, what in lines]


def attribute(calls: Path, tasks: Path) -> tuple[dict[str, Counter[str]], dict[str, list[float]]]:
    """(calls per host and task, seconds of each task on each host). Only where a host's name is its address."""
    done = ran(tasks)
    seconds = defaultdict(list)
    for task in done:
        seconds[task["task"]].append(task["end"] - task["start"])
    counted: dict[str, Counter[str]] = defaultdict(Counter)
    for call in called(calls):
        during = [task["task"] for task in done if task["host"] == call.address and task["start"] <= call.start <= task["end"]]
        counted[call.address][during[-1] if during else "(between tasks)"] += 1
    return counted, seconds
