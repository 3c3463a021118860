# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of modules whose action plugin waits for work that goes on by itself on the node."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  reconnect_seconds:
    description: How long a lost connection to the node is tried again while the work goes on by itself, in seconds.
    type: int
    default: 600
"""

    # Of modules that may be called twice: to start on every node, and then to wait.
    STARTED = r"""
options:
  started:
    description:
      - RV(job) of an earlier task with O(wait=false), which is waited for. Work that has failed since then is not started again, so that what is told
        is why it failed.
    type: dict
"""
