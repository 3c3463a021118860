# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import itertools

import pytest
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend.version import compare, in_range, version_key
from hypothesis import given
from hypothesis import strategies as st

# Each line from old to new, as released.
ORDERED = [
    ["6.0.rc1", "6.0.rc3", "6.0.0"],
    [
        "23.0.rc2",
        "23.0.rc3",
        "23.0.0",
        "23.0.5",
        "24.1.rc1",
        "24.1.0",
        "24.1.0.3",
        "25.0.t1",
        "25.0.rc1",
        "25.0.rc1_sph001",
        "25.0.rc1.1",
        "25.0.rc2",
        "25.0",
        "25.0.1",
        "25.2.0",
        "25.3.rc1",
    ],
    ["8.0.RC3", "8.1.RC1.alpha001", "8.1.RC1.alpha002", "8.1.RC1.beta1", "8.1.RC1", "8.1.RC1.B150", "8.2.RC1", "8.3.RC1.alpha003", "8.3.RC1", "8.5.0", "9.0.0"],
    ["7.1.0.3.220", "7.1.0.11.220", "7.7.0.1.231", "7.8.0.2.212"],
]


@pytest.mark.parametrize("line", ORDERED, ids=["deployer", "driver", "cann", "firmware"])
def test_order(line):
    for older, newer in itertools.combinations(line, 2):
        assert (compare(older, newer), compare(newer, older), compare(older, older)) == (-1, 1, 0), (older, newer)


@pytest.mark.parametrize("one, other", [("25.0", "25.0.0"), ("8.1.RC1", "8.1.rc1"), ("8.1.RC1", "8.1.RC1.0"), ("25.0.rc1", "25.0.RC.1")])
def test_same(one, other):
    assert compare(one, other) == 0


@pytest.mark.parametrize(
    "version, low, high, answer",
    [
        pytest.param("7.7.0.1.231", "7.0.0", "7.7.99", True, id="inside"),
        pytest.param("7.8.0.2.212", "7.0.0", "7.7.99", False, id="above"),
        pytest.param("6.4.0", "7.0.0", "7.7.99", False, id="below"),
        pytest.param("25.0.rc1.1", "25.0", "25.0.", True, id="a-point-takes-in-previews"),
        pytest.param("25.0.3", "25.0", "25.0.", True, id="a-point-takes-in-fixes"),
        pytest.param("25.00", "25.0", "25.0.", True, id="same-number"),
        pytest.param("25.2.0", "25.0", "25.0.", False, id="next"),
        pytest.param("23.0.0", "23.0.0", "23.0.0.", True, id="exact"),
    ],
)
def test_ranges(version, low, high, answer):
    assert in_range(version, low, high) is answer


@given(st.lists(st.text(max_size=20), min_size=3, max_size=3))
def test_any_texts_have_an_order(texts):
    one, two, three = sorted(texts, key=version_key)
    assert compare(one, two) <= 0 and compare(two, three) <= 0 and compare(one, three) <= 0
