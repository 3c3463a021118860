#!/usr/bin/python
# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation and argument spec of the action plugin of the same name."""

from __future__ import annotations

DOCUMENTATION = r"""
module: report
short_description: Print what is wanted and what was found on each node, or what the doctor found
version_added: 1.0.0
description:
  - Prints a table for each host from its variable C(npu_stages), which every role's verify entry fills.
  - Hosts without rows and stages that nobody reported are shown as such, so that a host which failed on the way is seen.
  - Runs on the controller alone, without any remote call. It never fails for what it found; use RV(ok) to do so.
extends_documentation_fragment:
  - npuops.ktransformers.attributes
  - npuops.ktransformers.attributes.controller
  - npuops.ktransformers.attributes.reads
options:
  hosts:
    description: Names of the hosts to report on.
    type: list
    elements: str
    required: true
  stages:
    description: Labels of the stages that every host must have a row for, in the order in which they are printed.
    type: list
    elements: str
    default: [NPU, HDK, CANN, Python, torch_npu, merged weights, graph sinking, KTransformers]
  what:
    description: V(stages) prints the table of stages, V(findings) what M(npuops.ktransformers.doctor) found, from C(npu_findings).
    type: str
    choices: [stages, findings]
    default: stages
  json:
    description:
      - File on the controller that gets the same for machines, a dictionary with C(ok), C(failures) and C(hosts). Empty writes none.
      - Written whatever was found, in check mode too. It takes the place of an earlier one in one step.
    type: str
    default: ''
notes:
  - >-
    C(npu_stages) is a dictionary; each value has C(label), C(wanted), C(found), C(state) (V(ok), V(missing), V(different), V(skipped)
    or V(failed)) and optionally C(note).
author: npuops contributors (@npuops)
"""

EXAMPLES = r"""
- name: Say what every node has
  npuops.ktransformers.report:
    hosts: "{{ groups['npu'] }}"
  run_once: true
  register: npu_report

- name: Fail when a node is not as wanted
  ansible.builtin.assert:
    that: npu_report.ok
    quiet: true
"""

RETURN = r"""
ok:
  description: Whether there are no RV(failures).
  returned: always
  type: bool
failures:
  description: The rows that are neither V(ok) nor V(skipped), or the findings that are no mere warnings, each with its host.
  returned: always
  type: list
  elements: dict
  sample: [{host: node1, stage: CANN, wanted: 8.1.RC1, found: 8.0.0, state: different, note: ''}]
table:
  description: What was printed.
  returned: always
  type: str
"""

from ansible.module_utils.basic import AnsibleModule

LABELS = ["NPU", "HDK", "CANN", "Python", "torch_npu", "merged weights", "graph sinking", "KTransformers"]
ARGUMENT_SPEC = {
    "hosts": {"type": "list", "elements": "str", "required": True},
    "stages": {"type": "list", "elements": "str", "default": LABELS},
    "what": {"type": "str", "choices": ["stages", "findings"], "default": "stages"},
    "json": {"type": "str", "default": ""},
}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    module.fail_json(msg="npuops.ktransformers.report is an action: it runs on the controller and not as a module")


if __name__ == "__main__":
    main()
