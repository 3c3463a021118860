# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Receive weights as long work on the node, and show its progress."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.npuops.ktransformers.plugins.modules.weights_fetch import ARGUMENT_SPEC
from ansible_collections.npuops.ktransformers.plugins.plugin_utils.long_work import Dict, LongWork


class ActionModule(LongWork):
    _VALID_ARGS = frozenset(ARGUMENT_SPEC)

    def run(self, tmp: t.Optional[str] = None, task_vars: t.Optional[Dict] = None) -> Dict:
        result = super().run(tmp, task_vars)
        result.update(self.run_long("npuops.ktransformers.weights_fetch", self._task.args, task_vars or {}))
        return result

    def folder(self, args: Dict, state: Dict) -> str:
        return state.get("folder") or args.get("job_dir") or os.path.join(args["dest"], ".npuops-merge")

    def title(self, args: Dict) -> str:
        return f"the weights for {args['dest']}"
