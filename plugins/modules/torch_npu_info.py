#!/usr/bin/python
# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
---
module: torch_npu_info
version_added: 1.0.0
short_description: Tell which torch_npu a Python environment has, where it came from, and whether it works
description:
  - In one call. The versions that a build of torch_npu depends on, the wheel that was built here before, the installed one, and, with
    O(probe=true), what torch_npu itself answers in the environment of CANN.
  - Says the cause and the remedy of known errors, and which operators a public torch_npu of the same version lacks.
extends_documentation_fragment:
  - npuops.ktransformers.attributes
  - npuops.ktransformers.attributes.reads
options:
  python:
    description: Interpreter of the environment.
    type: path
    required: true
  exec:
    description: The wrapper that sets the environment of CANN, such as C(/usr/local/bin/npu-exec). Empty runs the interpreter as it is.
    type: str
    default: ""
  operators:
    description: Names that C(torch_npu) or C(torch.ops.npu) must have.
    type: list
    elements: str
    default: []
  probe:
    description: Import torch_npu and ask it for NPUs and operators. Takes some seconds.
    type: bool
    default: true
  timeout:
    description: Seconds after which the probe is given up.
    type: int
    default: 300
  ascend_root:
    description: Where CANN is installed.
    type: path
    default: /usr/local/Ascend
  record:
    description: File in which a build noted its wheel, a dictionary as JSON.
    type: path
author:
  - npuops contributors (@npuops)
"""

EXAMPLES = r"""
- name: Ask torch_npu whether it can serve the guide's engine
  npuops.ktransformers.torch_npu_info:
    python: /opt/miniconda3/envs/py311/bin/python
    exec: /usr/local/bin/npu-exec
    operators: [_npu_matmul_dequant, _npu_flash_attention_mla]
"""

RETURN = r"""
found:
  description: Whether torch_npu is installed.
  returned: success
  type: bool
reason:
  description: Why not, or null.
  returned: success
  type: str
versions:
  description: What a build depends on, RV(ignore:python), RV(ignore:torch) and RV(ignore:cann), each null when it is not there.
  returned: success
  type: dict
  sample: {python: 3.11.9, torch: 2.3.1, cann: 8.1.RC1}
installed:
  description: Version, URL and SHA-256 of the wheel that pip noted, and C(version_file) with its C(suffix) after a plus sign. Null without torch_npu.
  returned: success
  type: dict
record:
  description: What O(record) holds, or null.
  returned: success
  type: dict
seen:
  description: What torch_npu answered, or null when it was not asked.
  returned: success
  type: dict
problems:
  description: What stands in the way of serving, each with RV(ignore:id), RV(ignore:severity), RV(ignore:observed), RV(ignore:expected), RV(ignore:repair).
  returned: success
  type: list
  elements: dict
"""

import json
import os
import re
import subprocess

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.npuops.ktransformers.plugins.module_utils import python_env, torch_npu
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend.records import read_cann


def read_record(path):
    try:
        with open(path, encoding="utf-8") as stream:
            record = json.load(stream)
    except (OSError, ValueError):
        return None
    # A record of a wheel that is gone is worth nothing.
    return record if isinstance(record, dict) and os.path.isfile(record.get("path") or "") else None


def version_suffix(path):
    """'+git1234567' in torch_npu/version.py, '' without."""
    try:
        with open(path, encoding="utf-8") as stream:
            match = re.search(r"^__version__\s*=\s*['\"][^'\"+]*(\+[^'\"]*)?['\"]", stream.read(), re.M)
    except OSError:
        return ""
    return match.group(1) or "" if match else ""


def installed(env):
    there = env["packages"].get("torch-npu")
    if not there:
        return None
    path = os.path.join(env["site_packages"], "torch_npu", "version.py")
    return dict(there, version_file=path, suffix=version_suffix(path))


def ask(python, wrapper, operators, timeout):
    """What torch_npu answers. It may print anything, hang or crash, so it gets a process and a limit of its own."""
    command = torch_npu.probe_command(python, [wrapper] if wrapper else [], operators)
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=False,
                              text=True, errors="replace", env=dict(os.environ, PYTHONNOUSERSITE="1"))
    except subprocess.TimeoutExpired:
        return torch_npu.read_probe(0, "", f"no answer within {timeout} s")
    except OSError as exc:
        return torch_npu.read_probe(127, "", f"{command[0]} does not run: {exc.strerror}")
    return torch_npu.read_probe(done.returncode, done.stdout, done.stderr)


def missing(reason, repair):
    return {"id": "torch_npu-missing", "severity": "error", "observed": reason, "expected": "torch_npu in the environment", "repair": repair}


def main():
    module = AnsibleModule(
        argument_spec={
            "python": {"type": "path", "required": True},
            "exec": {"type": "str", "default": ""},
            "operators": {"type": "list", "elements": "str", "default": []},
            "probe": {"type": "bool", "default": True},
            "timeout": {"type": "int", "default": 300},
            "ascend_root": {"type": "path", "default": "/usr/local/Ascend"},
            "record": {"type": "path"},
        },
        supports_check_mode=True,
    )
    options = module.params
    env = python_env.probe(lambda command, variables: module.run_command(command, environ_update=variables), options["python"])
    there = installed(env) if env["found"] else None
    reason = env["reason"] or (None if there else f"torch_npu is not installed in {env['prefix']}")
    seen, problems = None, []
    if reason:
        problems = [missing(reason, "--tags torch_npu_opplugin" if env["found"] else "--tags conda_py311")]
    elif options["probe"]:
        seen = ask(options["python"], options["exec"], options["operators"], options["timeout"])
        problems = torch_npu.problems(seen, options["operators"])
    module.exit_json(
        changed=False, found=there is not None, reason=reason, installed=there, seen=seen, problems=problems,
        record=read_record(options["record"]) if options["record"] else None,
        versions={"python": env["version"], "torch": (env["torch"] or {}).get("version"), "cann": read_cann(options["ascend_root"])["latest"]},
    )


if __name__ == "__main__":
    main()
