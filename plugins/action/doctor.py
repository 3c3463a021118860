# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Look at a node for what the info modules do not tell, and judge all of it by the table of known failures."""

from __future__ import annotations

import os
import typing as t

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible_collections.npuops.ktransformers.plugins.module_utils import doctor
from ansible_collections.npuops.ktransformers.plugins.module_utils.doctor_table import TABLE
from ansible_collections.npuops.ktransformers.plugins.modules.doctor import ARGUMENT_SPEC

FAILED = ("failed", "interrupted")


class ActionModule(ActionBase):
    TRANSFERS_FILES = False
    _VALID_ARGS = frozenset(ARGUMENT_SPEC)

    def run(self, tmp: t.Optional[str] = None, task_vars: t.Optional[t.Dict[str, t.Any]] = None) -> t.Dict[str, t.Any]:
        result = super().run(tmp, task_vars)
        args = self.validate_argument_spec(argument_spec=ARGUMENT_SPEC)[1]
        seen = dict(args["seen"], errors=dict(args["seen"].get("errors") or {}))
        facts = None
        if not seen["errors"].get("connection"):
            facts = self._look(args, doctor.Seen(seen), seen["errors"], task_vars)
        findings = doctor.judge(dict(seen, facts=facts), TABLE)
        result.update(changed=False, ok=doctor.well(findings), findings=findings, facts=facts)
        return result

    def _look(self, args: t.Dict[str, t.Any], seen: doctor.Seen, errors: t.Dict[str, str], task_vars: t.Any) -> t.Optional[t.Dict[str, t.Any]]:
        """The module's answer; a node that cannot give one is told as an error, not as a failed task."""
        options = {name: value for name, value in args.items() if name != "seen"}
        logs = dict(args["logs"])
        for name, state in (("the build's log", seen("engine.build", {})), ("the smoke test's log", seen("engine.smoke", {}))):
            if state.get("state") in FAILED and state.get("log"):
                logs[name] = [state["log"], os.path.join(os.path.dirname(state["log"]), "output")]
        unit = seen("engine.unit", {})
        options.update(
            logs=logs,
            pids=args["pids"] + [item["pid"] for item in seen("node.smi.processes", [])],
            journal=args["journal"] or bool(unit) and unit.get("state") not in ("active", "activating"),
        )
        try:
            answer = self._execute_module(module_name="npuops.ktransformers.doctor", module_args=options, task_vars=task_vars)
        except AnsibleConnectionFailure as exc:
            errors["connection"] = str(exc)
            return None
        if answer.get("unreachable"):
            errors["connection"] = str(answer.get("msg"))
        elif answer.get("failed"):
            errors["doctor"] = str(answer.get("msg"))
        return answer.get("facts")
