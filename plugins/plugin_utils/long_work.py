# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Long work on a node, waited for from the controller: shared by the actions job and gguf_safetensors_merge.

The module is called with wait=false, which starts the work or attaches to it; then the node is asked every few seconds
by the module job (state=status), and the progress is shown. A lost connection is tried again: the work doesn't need it.
"""

from __future__ import annotations

import time
import typing as t

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.npuops.ktransformers.plugins.plugin_utils.progress import Reporter, span

display = Display()
Dict = t.Dict[str, t.Any]

RECONNECT_SECONDS = 600
FIRST_PAUSE = 2.0  # seconds between two questions, at the beginning
LONGEST_PAUSE = 15.0
_PATIENCE = 3  # failed questions in a row


class LongWork(ActionBase):
    """Base of an action whose module does long work."""

    TRANSFERS_FILES = False

    def run_long(self, module_name: str, args: Dict, task_vars: Dict) -> Dict:
        """Have the module's work done and wait for its end; its result.

        args: options of the module; `reconnect_seconds` among them is how long a lost connection is tried again, and `started` the job of an earlier
        task with wait=false: that is waited for, and when it has failed meanwhile, it is not started again.
        """
        args = dict(args)
        asked = args.pop("reconnect_seconds", None)
        started = args.pop("started", None) or {}
        reconnect = RECONNECT_SECONDS if asked is None else int(asked)
        waits = boolean(args.get("wait", True), strict=False)
        if self._task.check_mode or not waits or args.get("state", "present") != "present":
            return self._execute_module(module_name=module_name, module_args=args, task_vars=task_vars)
        first: Dict = {"changed": True, "job": dict(started)}
        if started.get("state") != "running":
            first = self._execute_module(module_name=module_name, module_args=dict(args, wait=False), task_vars=task_vars)
        state = first.get("job") or {}
        if first.get("failed") or state.get("state") != "running":
            return first
        host = task_vars.get("inventory_hostname", "")
        state.setdefault("title", self.title(args))
        end = self._wait(host, self.folder(args, state), state, reconnect, self.status_args(args), task_vars)
        if end.get("failed"):
            return dict(first, **end)
        if end["job"]["state"] not in ("done", "absent"):  # absent: somebody else who waited has cleared it away
            return dict(first, failed=True, msg=end["job"]["failure"] or end["job"]["error"], job=end["job"])
        result = self.result(module_name, args, first, end["job"], task_vars)
        return dict(result, changed=bool(first.get("changed") or result.get("changed")))

    def folder(self, args: Dict, state: Dict) -> str:
        """The job's folder on the node."""
        return state.get("folder") or args["job_dir"]

    def title(self, args: Dict) -> str:
        """What the work is, where the module doesn't say."""
        del args
        return "the work"

    def status_args(self, args: Dict) -> Dict:
        """More options for the module job when it asks for the state."""
        del args
        return {}

    def result(self, module_name: str, args: Dict, first: Dict, state: Dict, task_vars: Dict) -> Dict:
        """The task's result when the work is done: that of the module, which finds the work done."""
        del first, state
        return self._execute_module(module_name=module_name, module_args=dict(args, wait=True), task_vars=task_vars)

    def _wait(self, host: str, folder: str, state: Dict, reconnect: int, more: Dict, task_vars: Dict) -> Dict:
        """Ask until the job isn't running any more; the last answer of the module job, or why there is none."""
        reporter = Reporter(host)
        self._say(reporter.line(state, time.monotonic()))
        args = dict(more, job_dir=folder, state="status")
        digest = state.get("digest")
        pause = FIRST_PAUSE
        failures = 0
        while True:
            time.sleep(min(pause, (state.get("eta_seconds") or pause) + 1))
            pause = min(LONGEST_PAUSE, pause * 1.3)
            answer = self._ask(reporter, args, reconnect, task_vars)
            if answer.get("unreachable"):
                return answer
            if answer.get("failed"):
                failures += 1
                self._connection._shell.tmpdir = None  # it may have gone with a restart of the node
                if failures >= _PATIENCE:
                    return dict(answer, msg=f"{reporter.title} can't be looked after any more: {answer.get('msg')}; it may still be running in {folder}")
                continue
            failures = 0
            state = answer["job"]
            if digest and state["digest"] not in (digest, None):
                return {"failed": True, "msg": f"{reporter.title} has ended, and {folder} was taken over by other work ({state['title']})", "job": state}
            self._say(reporter.line(state, time.monotonic()))
            if state["state"] != "running":
                return answer

    def _ask(self, reporter: Reporter, args: Dict, reconnect: int, task_vars: Dict) -> Dict:
        """The module job's answer, however often the connection is lost within `reconnect` seconds."""
        lost: t.Optional[float] = None
        while True:
            try:
                answer = self._execute_module(module_name="npuops.ktransformers.job", module_args=args, task_vars=task_vars)
            except AnsibleConnectionFailure as exc:
                now = time.monotonic()
                if lost is None:
                    lost = now
                    self._say(reporter.lost(reconnect))
                if now - lost >= reconnect:
                    return {
                        "failed": True,
                        "unreachable": True,
                        "msg": f"the connection was lost {span(now - lost)} ago while {reporter.title} was running ({exc}); it goes on by itself: "
                        "run the playbook again to attach to it",
                    }
                self._reset_connection()
                time.sleep(min(FIRST_PAUSE, reconnect))
                continue
            if lost is not None:
                self._say(reporter.back())
            return answer

    def _reset_connection(self) -> None:
        self._connection._shell.tmpdir = None
        try:
            self._connection.reset()
        except (AnsibleError, AttributeError, NotImplementedError) as exc:
            display.vvv(f"the connection can't be reset: {exc}")

    def _say(self, line: t.Optional[str]) -> None:
        if line and not self._task.no_log:
            # Ansible flushes what it writes to stdout when the next task starts, which is too late where that is a file; stderr ends with each line.
            display.display(line, stderr=True)
