# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Simulated setup.py, as the tree has it for x86_64: it asks cpufeature which instructions the CPU has."""

import sys

import cpufeature  # noqa: F401

sys.path.insert(0, "tools")
import simulated_build

simulated_build.build_wheel_file(sys.argv[1], "x86_64")
