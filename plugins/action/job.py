# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run a command as long work on the node, and show its progress."""

from __future__ import annotations

import typing as t

from ansible_collections.npuops.ktransformers.plugins.modules.job import ARGUMENT_SPEC
from ansible_collections.npuops.ktransformers.plugins.plugin_utils.long_work import Dict, LongWork


class ActionModule(LongWork):
    _VALID_ARGS = frozenset(ARGUMENT_SPEC)

    def run(self, tmp: t.Optional[str] = None, task_vars: t.Optional[Dict] = None) -> Dict:
        result = super().run(tmp, task_vars)
        result.update(self.run_long("npuops.ktransformers.job", self._task.args, task_vars or {}))
        return result

    def status_args(self, args: Dict) -> Dict:
        return {"show_errors": args["show_errors"]} if args.get("show_errors") else {}

    def result(self, module_name: str, args: Dict, first: Dict, state: Dict, task_vars: Dict) -> Dict:
        if state["state"] == "absent":
            return dict(first, failed=True, msg=f"the job in {state['folder']} was removed while it was waited for", job=state)
        return dict(first, job=state)  # the last answer says it all
