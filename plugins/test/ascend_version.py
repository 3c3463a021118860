# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: ascend_version
author: npuops contributors (@npuops)
version_added: 1.0.0
short_description: Compare two Ascend versions
description:
  - Orders versions as Huawei's own installer does, which the test P(ansible.builtin.version#test) does not.
    25.0.rc1 is older than 25.0.rc1.1, and that older than 25.0; 8.1.RC1.beta1 is older than 8.1.RC1; 25.0 and 25.0.0 are the same.
  - The tests C(ascend_version_older_than), C(ascend_version_newer_than) and C(ascend_version_same_as) are this one with O(operator) fixed.
options:
  _input:
    description: The version to judge.
    type: str
    required: true
  version:
    description: The version to compare with.
    type: str
    required: true
  operator:
    description: How the two shall stand to each other.
    type: str
    choices: ['<', '<=', '==', '!=', '>=', '>']
    default: '=='
"""

EXAMPLES = r"""
- name: Refuse a driver that CANN 8.3 does not work with
  ansible.builtin.assert:
    that: npu_node.npu.driver.version is npuops.ktransformers.ascend_version('25.3.rc1', '>=')

- name: Say that an upgrade is due
  ansible.builtin.debug:
    msg: There is a newer driver
  when: npu_node.npu.driver.version is npuops.ktransformers.ascend_version_older_than('25.0.rc1.1')
"""

RETURN = r"""
_value:
  description: Whether the two versions stand to each other as asked.
  type: bool
"""

import operator
from typing import Callable

from ansible.errors import AnsibleFilterError
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend.version import compare

_OPERATORS = {"<": operator.lt, "<=": operator.le, "==": operator.eq, "!=": operator.ne, ">=": operator.ge, ">": operator.gt}


def ascend_version(version: object, other: object, operator: str = "==") -> bool:
    if operator not in _OPERATORS:
        raise AnsibleFilterError(f"ascend_version knows no operator {operator!r}; use one of {', '.join(_OPERATORS)}.")
    for value in (version, other):
        if not isinstance(value, str) or not any(letter.isdigit() for letter in value):
            raise AnsibleFilterError(f"{value!r} is no Ascend version; expected something like 25.0.rc1.1 or 8.1.RC1.")
    return _OPERATORS[operator](compare(str(version), str(other)), 0)


class TestModule:
    """Jinja tests of the collection."""

    def tests(self) -> dict[str, Callable]:
        return {
            "ascend_version": ascend_version,
            "ascend_version_older_than": lambda version, other: ascend_version(version, other, "<"),
            "ascend_version_newer_than": lambda version, other: ascend_version(version, other, ">"),
            "ascend_version_same_as": lambda version, other: ascend_version(version, other, "=="),
        }
