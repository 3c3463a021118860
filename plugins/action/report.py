# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Print a table of wanted and found for each host."""

from __future__ import annotations

import typing as t

from ansible import constants as C
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.npuops.ktransformers.plugins.modules.report import ARGUMENT_SPEC
from ansible_collections.npuops.ktransformers.plugins.plugin_utils import summary

display = Display()


class ActionModule(ActionBase):
    TRANSFERS_FILES = False
    _requires_connection = False
    _VALID_ARGS = frozenset(ARGUMENT_SPEC)

    def run(self, tmp: t.Optional[str] = None, task_vars: t.Optional[t.Dict[str, t.Any]] = None) -> t.Dict[str, t.Any]:
        task_vars = task_vars or {}
        result = super().run(tmp, task_vars)
        args = self.validate_argument_spec(argument_spec=ARGUMENT_SPEC)[1]
        in_play = set(task_vars.get("ansible_play_hosts_all") or [])
        lost = in_play - set(task_vars.get("ansible_play_hosts") or [])
        hosts = [
            summary.Host(name, summary.rows(self._stages(task_vars, name), args["stages"]), failed=name in lost) for name in args["hosts"]
        ]
        table = summary.table(hosts)
        for text, state in table:
            display.display(text, color=self._colour(state))
        failures = summary.failures(hosts)
        result.update(changed=False, ok=not failures, failures=failures, table="\n".join(text for text, _state in table))
        return result

    def _stages(self, task_vars: t.Dict[str, t.Any], host: str) -> t.Dict[str, t.Any]:
        hostvars = task_vars["hostvars"]
        found = hostvars[host].get("npu_stages") if host in hostvars else None
        return self._templar.template(found) if found else {}

    @staticmethod
    def _colour(state: t.Optional[str]) -> t.Optional[str]:
        if state is None:
            return None
        return {"ok": C.COLOR_OK, "skipped": C.COLOR_SKIP}.get(state, C.COLOR_ERROR)  # pylint: disable=no-member
