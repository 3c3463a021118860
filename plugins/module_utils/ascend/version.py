# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The order of Ascend's version names.

Driver: X.Y.Z, X.Y.rcN, X.Y.rcN.M, X.Y.tN; firmware: five numbers; CANN: X.Y.RCN, X.Y.RCN.alphaNNN, X.Y.RCN.betaN, X.Y.Z.
The grammar is that of the vendor's own installer, https://pypi.org/project/ascend-deployer/ (library/process_npu.py).
"""
from __future__ import annotations

import re

_PART = re.compile(r"(\d+)|([a-z]+)\.?(\d*)")
# Below a plain number, weakest first. What isn't here (sph001, B150) comes on top of what it follows.
_PREVIEWS = {"dev": 0, "alpha": 1, "beta": 2, "t": 3, "rc": 4}
_NUMBER = 9
_ZERO = (_NUMBER, 0, 0)
_LENGTH = 12


def version_key(version: str) -> tuple:
    """A key that sorts versions from old to new: 25.0.rc1 < 25.0.rc1.1 < 25.0 = 25.0.0 < 25.0.1, 8.1.RC1.beta1 < 8.1.RC1.

    Every text has a key; a text without a version sorts first.
    """
    parts = []
    for number, word, count in _PART.findall(version.lower()):
        if number:
            parts.append((_NUMBER, int(number), 0))
        elif word in _PREVIEWS:
            parts.append((_PREVIEWS[word], int(count or 0), 0))
        elif count:
            parts.append((_NUMBER, 0, int(count)))
    # A missing part counts as 0: 25.0 is 25.0.0, and newer than 25.0.rc1.
    return tuple(parts + [_ZERO] * (_LENGTH - len(parts))) if parts else ()


def compare(one: str, other: str) -> int:
    """-1, 0 or 1: whether `one` is older than, the same as, or newer than `other`."""
    left, right = version_key(one), version_key(other)
    return (left > right) - (left < right)


def in_range(version: str, low: str, high: str) -> bool:
    """Whether `version` lies in one of the ranges of a vendor's version.info, e.g. [7.0.0,7.7.99].

    An upper bound with a point at its end takes in everything that begins with it: [25.0,25.0.] is 25.0.rc1 as well as 25.0.3.
    """
    if high.endswith(".") and (version + ".").startswith(high):
        return True
    return compare(low, version) <= 0 <= compare(high.rstrip("."), version)
