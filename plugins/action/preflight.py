# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Collect the problems that the roles' preflight found, and judge them."""

from __future__ import annotations

import os
import typing as t

from ansible import constants as C
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible_collections.npuops.ktransformers.plugins.modules.preflight import ARGUMENT_SPEC
from ansible_collections.npuops.ktransformers.plugins.plugin_utils import problems as wording


class ActionModule(ActionBase):
    TRANSFERS_FILES = False
    _requires_connection = False
    _VALID_ARGS = frozenset(ARGUMENT_SPEC)

    def run(self, tmp: t.Optional[str] = None, task_vars: t.Optional[t.Dict[str, t.Any]] = None) -> t.Dict[str, t.Any]:
        task_vars = task_vars or {}
        result = super().run(tmp, task_vars)
        args = self.validate_argument_spec(argument_spec=ARGUMENT_SPEC)[1]
        accepted = self._accepted(task_vars)
        known = self._known(task_vars)
        new = [
            dict({key: value for key, value in check.items() if key != "ok"}, role=args["role"] or "")
            for check in args["checks"]
            if not check["ok"]
        ]
        everything = wording.without_twins(known + new)
        judged = everything if args["verdict"] else new
        result.update(changed=False, problems=judged)
        if args["verdict"] or not boolean(self._variable(task_vars, "npu_preflight_collect", False), strict=False):
            errors, others = wording.sort(judged, accepted)
            if errors:
                host = task_vars.get("inventory_hostname", "this host")
                result.update(failed=True, msg=wording.table(host, errors, others, accepted) if args["verdict"] else wording.lines(errors))
                return result
            result["warnings"] = [wording.line(problem, accepted) for problem in others]
        if new:
            result["ansible_facts"] = {"npu_problems": [dict(problem, run=_this_run()) for problem in everything]}
        return result

    def _accepted(self, task_vars: t.Dict[str, t.Any]) -> t.List[str]:
        value = self._variable(task_vars, "preflight_accept", [])
        return [value] if isinstance(value, str) else [str(name) for name in value or []]

    def _known(self, task_vars: t.Dict[str, t.Any]) -> t.List[t.Dict[str, t.Any]]:
        """Problems of this run so far: the fact, and what a playbook may have put in the variable by set_fact, which hides the fact."""
        fact = self._templar.template((task_vars.get("ansible_facts") or {}).get("npu_problems") or [])
        variable = self._variable(task_vars, "npu_problems", [])
        # A persistent fact cache brings back the problems of yesterday.
        persistent = C.CACHE_PLUGIN != "memory"  # pylint: disable=no-member
        known = [item for item in list(fact) + list(variable or []) if not (persistent and item.get("run", _this_run()) != _this_run())]
        return [{key: value for key, value in item.items() if key != "run"} for item in known]

    def _variable(self, task_vars: t.Dict[str, t.Any], name: str, default: t.Any) -> t.Any:
        return self._templar.template(task_vars[name]) if name in task_vars else default


def _this_run() -> str:
    """A name for this run of Ansible: its temporary folder is one of its own, and is inherited by the workers."""
    return os.path.basename(C.DEFAULT_LOCAL_TMP)  # pylint: disable=no-member
