# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which versions of driver and CANN go together: the vendor's table, and what the packages' own version.info files ask for.

The table: https://pypi.org/project/ascend-deployer/ 26.0.0, downloader/software (CANN_*.json: required_soft; NPU_*.json: the driver of an HDK).
The lines required_*: https://github.com/leideng/CANN-8.1.RC1, <part>/script (common_func.inc, check_version_required.awk).
"""
from __future__ import annotations

import re

from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend.version import compare, version_key

# CANN -> (HDK that was published with it, the driver in that HDK)
HDK_OF_CANN = {
    "8.1.RC1": ("25.0.RC1", "25.0.rc1.1"),
    "8.2.RC1": ("25.2.0", "25.2.0"),
    "8.3.RC1": ("25.3.RC1", "25.3.rc1"),
    "8.5.0": ("25.5.0", "25.5.0"),
    "9.0.0": ("26.0.RC1", "26.0.rc1"),
}
_REQUIRED = re.compile(r"required_(?P<what>driver|package)_(?P<name>\w+)_version")
_SIGNS = ("", "=", "==", ">", "<", ">=", "<=")


def hdk_of(cann: str) -> tuple[str, str] | None:
    """The HDK that goes with a CANN version and its driver, or None where the table does not know it. 8.1.RC1.beta1 is 8.1.RC1."""
    version = re.sub(r"\.beta\d+$", "", cann, flags=re.IGNORECASE)
    return next((pair for known, pair in HDK_OF_CANN.items() if compare(known, version) == 0), None)


def older_than_the_pair(cann: str, driver: str) -> tuple[str, str] | None:
    """The HDK and driver that a CANN version goes with, when `driver` is older than that; a newer one serves an older CANN."""
    pair = hdk_of(cann)
    return pair if pair and compare(driver, pair[1]) < 0 else None


def _holds(version: str, condition: str) -> bool:
    """One condition, such as 7.7 (begins with it), >=7.6 or <=7.7. Only as many parts count as the condition has: 7.7.0.1 is <=7.7."""
    sign, bound = re.fullmatch(r"\s*([<>=]*)\s*(.*?)\s*", condition, re.DOTALL).groups()  # type: ignore[union-attr]
    if sign not in _SIGNS or not re.match(r"\d", bound):
        return True  # not understood: no reason to refuse
    parts = version.split(".")[: len(bound.split("."))]
    order = compare(".".join(parts), bound)
    if sign == ">":
        return order > 0 or (order == 0 and len(version.split(".")) > len(bound.split(".")))
    return {"<": order < 0, ">=": order >= 0, "<=": order <= 0}.get(sign, order == 0)


def satisfies(version: str, wanted: str) -> bool:
    """Whether a package's version meets a line such as ">=7.6, <=7.7" or "7.7, 7.9": alternatives, where a lower and an upper bound are one."""
    conditions = [condition.strip() for condition in wanted.replace('"', "").split(",") if condition.strip()]
    lower = None
    for condition in conditions:
        holds = _holds(version, condition)
        if condition.startswith(">"):
            lower = holds if lower is None else lower and holds
        elif condition.startswith("<") and lower is not None:
            if lower and holds:
                return True
            lower = None
        elif holds:
            return True
    return bool(lower) or not conditions


def driver_satisfies(version: str, wanted: str) -> bool:
    """Whether an interface of the driver meets what CANN asks: a lowest version, or a range such as [4.0.0,8.0.0)."""
    text = wanted.replace('"', "").strip()
    match = re.fullmatch(r"([\[(])([^,]*),([^,]*)([\])])", text)
    if not match:
        return not version_key(text) or compare(version, text) >= 0
    opening, low, high, closing = match.groups()
    above = not low.strip() or compare(version, low) > (0 if opening == "(" else -1)
    below = not high.strip() or compare(version, high) < (0 if closing == ")" else 1)
    return above and below


def required(info: dict[str, str]) -> list[tuple[str, str, str]]:
    """The lines of a version.info that ask for something: (driver or package, name, wanted)."""
    found = []
    for key, wanted in info.items():
        match = _REQUIRED.fullmatch(key)
        if match:
            found.append((match.group("what"), match.group("name"), wanted.replace('"', "").strip()))
    return found
