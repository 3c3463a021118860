# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What modules promise alike."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options: {}
attributes:
  platform:
    description: Target systems.
    support: full
    platforms: linux
"""

    # It looks, and that is all.
    READS = r"""
options: {}
attributes:
  check_mode:
    description: Changes nothing, so check mode makes no difference.
    support: full
  diff_mode:
    description: There is never a difference.
    support: none
"""

    CONTROLLER = r"""
options: {}
attributes:
  action:
    description: Has a plugin that runs on the controller.
    support: full
"""
