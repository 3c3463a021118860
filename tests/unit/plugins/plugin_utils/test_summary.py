# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.npuops.ktransformers.plugins.plugin_utils import summary


@pytest.mark.parametrize(
    "stages, labels, expected",
    [
        pytest.param({}, ["A"], [], id="nothing-reported"),
        pytest.param({"x": {"label": "X", "state": "ok"}, "a": {"label": "A", "state": "ok"}}, ["A"], [("A", "ok"), ("X", "ok")], id="order"),
        pytest.param({"a": {"state": "ok"}}, [], [("a", "ok")], id="no-label"),
        pytest.param({"a": {"label": "A"}}, ["A"], [("A", "failed")], id="no-state"),
        pytest.param({"a": {"label": "A", "state": "ok"}}, ["B", "A"], [("B", "missing"), ("A", "ok")], id="not-reached"),
    ],
)
def test_rows(stages, labels, expected):
    assert [(row["stage"], row["state"]) for row in summary.rows(stages, labels)] == expected


def test_columns_are_as_wide_as_what_is_seen():
    stages = {"a": {"label": "A", "wanted": "重庆", "found": ["x", "y"], "state": "different", "note": "two\nlines"}}
    lines = [text for text, _state in summary.table([summary.Host("n", summary.rows(stages, []), failed=False)])]
    assert lines == ["", "n", "  stage  wanted  found       state", "  A      重庆    ['x', 'y']  different", "         two lines", ""]
