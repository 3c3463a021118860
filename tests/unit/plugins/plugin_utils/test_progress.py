# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.npuops.ktransformers.plugins.plugin_utils.progress import Reporter, amount, span, words


@pytest.mark.parametrize(
    "value, unit, text",
    [
        (0, "B", "0 B"), (999, "B", "999 B"), (999.7, "B", "1.0 kB"), (1234, "B", "1.2 kB"), (12_345_678, "B", "12 MB"), (1.2e9, "B", "1.2 GB"),
        (404_430_187_616, "B", "404 GB"), (3.2e15, "B", "3200 TB"), (3, "files", "3 files"), (0.25, "files", "0.2 files"), (12.5, "files", "12 files"),
    ],
)  # fmt: skip
def test_amount(value, unit, text):
    assert amount(value, unit) == text


@pytest.mark.parametrize("seconds, text", [(0, "0 s"), (99.4, "99 s"), (99.6, "2 min"), (3600, "60 min"), (7500, "2 h 05 min")])
def test_span(seconds, text):
    assert span(seconds) == text


@pytest.mark.parametrize(
    "state, text",
    [
        pytest.param({"percent": 41.6, "rate": 1.2e9, "eta_seconds": 180, "unit": "B"}, "42 % 1.2 GB/s 3 min left", id="all"),
        pytest.param({"seconds": 70, "message": "[ 1/9]  cc\n-c"}, "after 70 s ([ 1/9] cc -c)", id="a-command"),
        pytest.param({"percent": 5.0, "rate": 0.0, "seconds": 3}, "5 % after 3 s", id="stalled"),
        pytest.param({}, "running", id="nothing-known"),
    ],
)
def test_words(state, text):
    assert words(state) == text


def test_a_line_only_when_enough_has_changed():
    reporter = Reporter("node1")
    said = []
    for now, percent, message in [
        (0, 0.0, "a"), (2, 4.9, "a"), (4, 5.0, "a"), (30, 5.1, "a"), (34, 5.2, "b"), (70, 5.2, "b"), (150, 5.2, "b"), (154, 5.2, "b"), (160, 100.0, "b"),
    ]:  # fmt: skip
        line = reporter.line({"state": "running", "title": "merge", "percent": percent, "message": message, "done": None}, float(now))
        if line:
            said.append((now, line))
    said.append((162, reporter.line({"state": "done", "title": "merge", "seconds": 162}, 162.0)))
    assert said == [
        (0, "node1: merge 0 % (a)"), (4, "node1: merge 5 % (a)"), (34, "node1: merge 5 % (b)"), (154, "node1: merge 5 % (b)"),
        (160, "node1: merge 100 % (b)"), (162, "node1: merge done after 3 min"),
    ]  # fmt: skip
