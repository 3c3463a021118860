# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask the deployed model one question as long work on the node, and show how far the loading is."""

from __future__ import annotations

import typing as t

from ansible_collections.npuops.ktransformers.plugins.plugin_utils.long_work import Dict, LongWork


class ActionModule(LongWork):
    def run(self, tmp: t.Optional[str] = None, task_vars: t.Optional[Dict] = None) -> Dict:
        result = super().run(tmp, task_vars)
        result.update(self.run_long("npuops.ktransformers.ktransformers_smoke", self._task.args, task_vars or {}))
        return result

    def status_args(self, args: Dict) -> Dict:
        del args
        return {"show_errors": [r"(?!)"]}  # the module's own error names the cause; no line of the log is to stand before it

    def result(self, module_name: str, args: Dict, first: Dict, state: Dict, task_vars: Dict) -> Dict:
        return super().result(module_name, dict(args, again=False), first, state, task_vars)
