#!/usr/bin/python
# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation and argument spec of the action plugin of the same name."""

from __future__ import annotations

DOCUMENTATION = r"""
module: preflight
short_description: Collect what is wrong with a node before anything is changed
version_added: 1.0.0
description:
  - Takes checks that a role has made and keeps those that did not pass, so that all problems of a node are told at once.
  - While the variable C(npu_preflight_collect) is true it only collects; else it fails with the errors of this call, one a line.
  - With O(verdict=true) it fails when the collected problems hold an error that the variable C(preflight_accept) does not accept.
  - Runs on the controller alone, without any remote call.
extends_documentation_fragment:
  - npuops.ktransformers.attributes
  - npuops.ktransformers.attributes.controller
  - npuops.ktransformers.attributes.reads
options:
  role:
    description: Name of the role that made the checks.
    type: str
  checks:
    description: What was checked.
    type: list
    elements: dict
    default: []
    suboptions:
      id:
        description: Name of the check, unique in its role; C(preflight_accept) lists such names.
        type: str
        required: true
      ok:
        description: Whether the check passed.
        type: bool
        required: true
      severity:
        description: Whether a node that does not pass may be used all the same.
        type: str
        choices: [error, warning]
        default: error
      observed:
        description: What was found.
        type: str
        default: ''
      expected:
        description: What should have been found.
        type: str
        default: ''
      repair:
        description: The next thing to do.
        type: str
        default: ''
  verdict:
    description: Judge what was collected so far.
    type: bool
    default: false
notes:
  - >-
    The problems are kept as the fact C(npu_problems), a list of dictionaries with C(role), C(id), C(severity), C(observed),
    C(expected) and C(repair). Problems that an earlier run of Ansible left in a fact cache do not count.
author: npuops contributors (@npuops)
"""

EXAMPLES = r"""
- name: Check that this node can take CANN
  npuops.ktransformers.preflight:
    role: cann
    checks:
      - id: cann-architecture
        ok: "{{ ansible_facts['architecture'] in ['aarch64', 'x86_64'] }}"
        observed: "{{ ansible_facts['architecture'] }}"
        expected: aarch64 or x86_64
        repair: take the host out of the group npu

- name: Fail when something stands in the way
  npuops.ktransformers.preflight:
    verdict: true
"""

RETURN = r"""
problems:
  description: The checks of this call that did not pass; with O(verdict=true) all problems of the node.
  returned: always
  type: list
  elements: dict
  sample: [{role: cann, id: cann-architecture, severity: error, observed: riscv64, expected: aarch64 or x86_64, repair: take the host out}]
"""

from ansible.module_utils.basic import AnsibleModule

CHECK_SPEC = {
    "id": {"type": "str", "required": True},
    "ok": {"type": "bool", "required": True},
    "severity": {"type": "str", "choices": ["error", "warning"], "default": "error"},
    "observed": {"type": "str", "default": ""},
    "expected": {"type": "str", "default": ""},
    "repair": {"type": "str", "default": ""},
}
ARGUMENT_SPEC = {
    "role": {"type": "str"},
    "checks": {"type": "list", "elements": "dict", "default": [], "options": CHECK_SPEC},
    "verdict": {"type": "bool", "default": False},
}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    module.fail_json(msg="npuops.ktransformers.preflight is an action: it runs on the controller and not as a module")


if __name__ == "__main__":
    main()
