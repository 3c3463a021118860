# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.npuops.ktransformers.plugins.test.ascend_version import TestModule as Plugin

TESTS = Plugin().tests()


@pytest.mark.parametrize(
    "name, arguments, answer",
    [
        pytest.param("ascend_version", ("25.0", "25.0.0"), True, id="equal-by-default"),
        pytest.param("ascend_version", ("25.0.rc1", "25.0.rc1.1", "<"), True, id="older"),
        pytest.param("ascend_version", ("25.0.rc1.1", "25.0.rc1.1", ">="), True, id="at-least"),
        pytest.param("ascend_version", ("8.1.RC1", "8.1.RC1.beta1", "!="), True, id="different"),
        pytest.param("ascend_version_older_than", ("8.1.RC1.beta1", "8.1.RC1"), True, id="older-than"),
        pytest.param("ascend_version_newer_than", ("25.0.rc1", "25.0"), False, id="newer-than"),
        pytest.param("ascend_version_same_as", ("8.1.rc1", "8.1.RC1"), True, id="same-as"),
    ],
)
def test_answers(name, arguments, answer):
    assert TESTS[name](*arguments) is answer


@pytest.mark.parametrize(
    "arguments, message",
    [
        pytest.param(("25.0", "25.0", "~"), "ascend_version knows no operator '~'; use one of <, <=, ==, !=, >=, >.", id="operator"),
        pytest.param((None, "25.0"), "None is no Ascend version; expected something like 25.0.rc1.1 or 8.1.RC1.", id="not-installed"),
        pytest.param(("25.0", "latest"), "'latest' is no Ascend version; expected something like 25.0.rc1.1 or 8.1.RC1.", id="word"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(AnsibleFilterError) as refused:
        TESTS["ascend_version"](*arguments)
    assert str(refused.value) == message
