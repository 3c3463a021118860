# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Print a table of wanted and found, or the doctor's findings, for each host, and write them for machines."""

from __future__ import annotations

import os
import typing as t

from ansible import constants as C
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.npuops.ktransformers.plugins.modules.report import ARGUMENT_SPEC
from ansible_collections.npuops.ktransformers.plugins.plugin_utils import diagnosis, machine, summary

display = Display()


class ActionModule(ActionBase):
    TRANSFERS_FILES = False
    _requires_connection = False
    _VALID_ARGS = frozenset(ARGUMENT_SPEC)

    def run(self, tmp: t.Optional[str] = None, task_vars: t.Optional[t.Dict[str, t.Any]] = None) -> t.Dict[str, t.Any]:
        task_vars = task_vars or {}
        result = super().run(tmp, task_vars)
        args = self.validate_argument_spec(argument_spec=ARGUMENT_SPEC)[1]
        lines, content = (self._findings if args["what"] == "findings" else self._stages)(args, task_vars)
        for text, state in lines:
            display.display(text, color=self._colour(state))
        result.update(changed=False, ok=content["ok"], failures=content["failures"], table="\n".join(text for text, _state in lines))
        if args["json"]:
            try:
                machine.write(os.path.expanduser(args["json"]), content)
            except OSError as exc:
                result.update(failed=True, msg=f"{args['json']} cannot be written: {exc.strerror}; name a file in a folder that is there.")
        return result

    def _stages(self, args: t.Dict[str, t.Any], task_vars: t.Dict[str, t.Any]) -> t.Tuple[diagnosis.Lines, t.Dict[str, t.Any]]:
        lost = self._lost(task_vars)
        hosts = [
            summary.Host(name, summary.rows(self._told(task_vars, name, "npu_stages") or {}, args["stages"]), failed=name in lost)
            for name in args["hosts"]
        ]
        failures = summary.failures(hosts)
        return summary.table(hosts), machine.content(failures, {host.name: {"stages": host.rows} for host in hosts})

    def _findings(self, args: t.Dict[str, t.Any], task_vars: t.Dict[str, t.Any]) -> t.Tuple[diagnosis.Lines, t.Dict[str, t.Any]]:
        lines: diagnosis.Lines = []
        hosts, failures = {}, []
        for name in args["hosts"]:
            found = self._told(task_vars, name, "npu_findings")
            found = [diagnosis.NOTHING] if found is None else found
            hosts[name] = {"findings": found}
            failures += [dict(item, host=name) for item in diagnosis.errors(found)]
            lines += diagnosis.text(name, found)
        return [*lines, ("", None)], machine.content(failures, hosts)

    @staticmethod
    def _lost(task_vars: t.Dict[str, t.Any]) -> t.Set[str]:
        return set(task_vars.get("ansible_play_hosts_all") or []) - set(task_vars.get("ansible_play_hosts") or [])

    def _told(self, task_vars: t.Dict[str, t.Any], host: str, fact: str) -> t.Any:
        hostvars = task_vars["hostvars"]
        found = hostvars[host].get(fact) if host in hostvars else None
        return self._templar.template(found) if found else found

    @staticmethod
    def _colour(state: t.Optional[str]) -> t.Optional[str]:
        if state is None:
            return None
        return {"ok": C.COLOR_OK, "skipped": C.COLOR_SKIP}.get(state, C.COLOR_ERROR)  # pylint: disable=no-member
