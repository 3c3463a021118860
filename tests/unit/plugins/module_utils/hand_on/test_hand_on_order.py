# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who fetches from whom."""

from __future__ import annotations

from collections import Counter

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.npuops.ktransformers.plugins.filter.hand_on_tree import FilterModule, hand_on_tree
from ansible_collections.npuops.ktransformers.plugins.module_utils.hand_on.order import tree


def waiting(*hosts, merged=("m",)):
    return {host: list(merged) for host in hosts}


@pytest.mark.parametrize(
    "asked, fanout, expected",
    [
        pytest.param({}, 2, {}, id="nobody"),
        pytest.param(waiting("a"), 2, {"a": ["m"]}, id="one"),
        pytest.param(waiting("a", "b", "c"), 1, {"a": ["m"], "b": ["a", "m"], "c": ["b", "a", "m"]}, id="chain"),
        pytest.param(
            waiting("a", "b", "c", "d", "e", "f", "g"),
            2,
            {"a": ["m"], "b": ["m"], "c": ["a", "m"], "d": ["a", "m"], "e": ["b", "m"], "f": ["b", "m"], "g": ["c", "a", "m"]},
            id="tree",
        ),
        pytest.param(waiting("a", "b", "c"), 9, {"a": ["m"], "b": ["m"], "c": ["m"]}, id="star"),
        pytest.param(
            waiting("a", "b", "c", merged=("m", "n")), 1, {"a": ["m", "n"], "b": ["n", "m"], "c": ["a", "m", "n"]}, id="two-that-merged"
        ),
        pytest.param({"a": ["m"], "x": ["n"], "b": ["m"]}, 1, {"a": ["m"], "x": ["n"], "b": ["a", "m"]}, id="two-fleets"),
        pytest.param({"a": ["a"], "b": []}, 2, {}, id="nobody-to-fetch-from"),
    ],
)
def test_tree(asked, fanout, expected):
    assert tree(asked, fanout) == expected
    assert list(tree(asked, fanout)) == [host for host in asked if host in expected]


@pytest.mark.parametrize("fanout", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 2, 7, 64, 200])
@pytest.mark.parametrize("merged", [["m"], ["m", "n", "o"]])
def test_any_tree_is_one(fanout, count, merged):
    """Nobody serves more than `fanout`, everybody hangs on somebody who merged, and the list of fallbacks stays short."""
    found = tree({f"h{number}": merged for number in range(count)}, fanout)
    assert len(found) == count
    parents = Counter(above[0] for above in found.values())
    assert max(parents.values()) <= fanout
    for host, above in found.items():
        assert host not in above and set(merged) <= set(above) and len(above) == len(set(above)) <= 3 + len(merged)
        steps = 0
        while host in found:
            host, steps = found[host][0], steps + 1
            assert steps <= count
        assert host in merged


@pytest.mark.parametrize("fanout", [0, -1])
def test_a_fanout_that_is_none(fanout):
    with pytest.raises(ValueError, match=f"^the fan-out is {fanout}; a number from 1 on was expected$"):
        tree(waiting("a"), fanout)


def test_the_filter():
    assert FilterModule().filters()["hand_on_tree"] is hand_on_tree
    assert hand_on_tree(waiting("a", "b", "c")) == {"a": ["m"], "b": ["m"], "c": ["a", "m"]}
    with pytest.raises(AnsibleFilterError, match="the fan-out is 0"):
        hand_on_tree(waiting("a"), 0)
    with pytest.raises(AnsibleFilterError, match="hand_on_tree was given list; a dictionary"):
        hand_on_tree(["a"])
