#!/usr/bin/python
# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
---
module: ktransformers_overlay
version_added: 1.0.0
short_description: Change files of a source tree for this architecture, and bring the originals back
description:
  - The deployment guide copies five files of C(for_arm) over others and comments a requirement out. This module does it so that the originals
    are kept, in the folder C(.npuops-overlay) of the tree, and come back with O(state=absent).
  - A replacement whose source the tree does not have is left out. Public branches have merged what C(for_arm) held.
  - A file that somebody changed after the overlay was laid over it is refused.
extends_documentation_fragment:
  - npuops.ktransformers.attributes
  - npuops.ktransformers.overlay
options:
  path:
    description: The source tree on the node.
    type: path
    required: true
  state:
    description: Lay the overlay over the tree, or bring the originals back.
    type: str
    choices: [present, absent]
    default: present
attributes:
  check_mode:
    support: full
    description: Says which files would change. Without the tree nothing would.
  diff_mode:
    support: full
    description: Shows each file before and after.
author:
  - npuops contributors (@npuops)
"""

EXAMPLES = r"""
- name: Make the tree fit for Arm
  npuops.ktransformers.ktransformers_overlay:
    path: /opt/ktransformers
    replacements:
      - src: for_arm/CMakeLists.txt
        dest: csrc/ktransformers_ext/CMakeLists.txt
        machine: aarch64
    edits:
      - path: requirements-local_chat.txt
        pattern: ^(\s*cpufeature\s*)$
        replacement: '#\1'
        machine: aarch64
"""

RETURN = r"""
files:
  description: The files that are changed by the overlay, with the reason of each.
  returned: success
  type: list
  elements: dict
  sample: [{path: setup.py, reason: replaced by for_arm/setup.py, changed: true}]
digest:
  description: Changes when the files of the overlay do. What a build depends on.
  returned: success
  type: str
"""

import os
import platform

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.npuops.ktransformers.plugins.module_utils import overlay
from ansible_collections.npuops.ktransformers.plugins.module_utils.overlay import OverlayError


def shown(path, data):
    return {"header": path, "text": "" if data is None else data.decode("utf-8", "replace")}


def run(module):
    params = module.params
    tree = os.path.realpath(params["path"])
    if not os.path.isdir(tree):
        if module.check_mode or params["state"] == "absent":
            return {"changed": False, "files": [], "digest": overlay.digest([])}
        raise OverlayError(f"{params['path']} is no source tree; lay it first, with the entry point source of the role ktransformers.")
    present = params["state"] == "present"
    changes = overlay.plan(tree, params["replacements"] if present else [], params["edits"] if present else [], platform.machine())
    pending = [change for change in changes if change.pending]
    if not module.check_mode:
        overlay.apply(tree, changes)
    diff = []
    for change in pending:
        before = shown(change.path, change.now)
        after = shown(change.path, change.original if change.wanted is None else change.wanted)
        diff.append({"before_header": before["header"], "before": before["text"], "after_header": after["header"], "after": after["text"]})
    return {"changed": bool(pending), "digest": overlay.digest(changes), "diff": diff,
            "files": [{"path": change.path, "reason": change.reason, "changed": change.pending} for change in changes]}


def main():
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            **overlay.ARGUMENTS,
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    try:
        result = run(module)
    except (OverlayError, OSError) as exc:
        module.fail_json(msg=str(exc))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
