# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Simulated setup.py for Arm: no cpufeature, which exists for x86 alone."""

import sys

sys.path.insert(0, "tools")
import simulated_build

simulated_build.build_wheel_file(sys.argv[1], "aarch64")
