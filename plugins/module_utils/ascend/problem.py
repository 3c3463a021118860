# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The shape of a problem, and who would run a change."""
from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Runner:
    """Who would run the installer, on which architecture, and whether for real."""

    uid: int
    machine: str
    check_mode: bool = False


def problem(identity: str, observed: str, expected: str, repair: str, severity: str = "error") -> dict:
    """One entry of the list that every part of the collection returns."""
    return {"id": f"ascend_{identity}", "severity": severity, "observed": observed, "expected": expected, "repair": repair}
