# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stands for the compiled submodule cpuinfer_ext.moe (simulated)."""


class MOEConfig:
    """Sizes and addresses of the experts of one layer."""

    def __init__(self, *values):
        self.values = values


class MOE:
    """The experts of one layer, on the CPU."""

    def __init__(self, config):
        self.config = config
