#!/usr/bin/python
# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
---
module: python_env_info
version_added: 1.0.0
short_description: Tell what a Python environment has, and how that differs from what is wanted
description:
  - Asks the environment itself, in one call. The interpreter, the distributions that are installed and where they came from,
    what conda noted, whether torch is a CPU build and of which C++ ABI, and which GLIBCXX versions the libstdc++ that Python loads offers.
  - Requirements are judged by the environment's interpreter, so that their markers mean the node.
extends_documentation_fragment:
  - npuops.ktransformers.attributes
  - npuops.ktransformers.attributes.reads
options:
  python:
    description: Interpreter of the environment.
    type: path
    required: true
  requirements:
    description: Requirements (PEP 508) that the environment should meet, such as C(numpy==1.26.4).
    type: list
    elements: str
    default: []
  constraints:
    description: Requirements that hold for what is installed, and ask for nothing to be installed.
    type: list
    elements: str
    default: []
  exclude:
    description: Names of distributions that are not compared, since somebody else is in charge of them.
    type: list
    elements: str
    default: []
  extensions:
    description: Also find out which GLIBCXX version the compiled extensions of the environment need. Reads the headers of every library in it.
    type: bool
    default: true
author:
  - npuops contributors (@npuops)
"""

EXAMPLES = r"""
- name: Compare the environment with the pins
  npuops.ktransformers.python_env_info:
    python: /opt/miniconda3/envs/py311/bin/python
    requirements: [numpy==1.26.4, torch==2.3.1]
  register: python_env
"""

RETURN = r"""
env:
  description: What the environment is.
  returned: success
  type: dict
  contains:
    found:
      description: Whether there is an interpreter with pip.
      type: bool
    reason:
      description: Why not, or null.
      type: str
    version:
      description: Version of the interpreter.
      type: str
      sample: 3.11.9
    prefix:
      description: Folder of the environment.
      type: str
    site_packages:
      description: Where its distributions are.
      type: str
    packages:
      description: Distributions by normalised name, each with RV(ignore:version), and RV(ignore:url) and RV(ignore:sha256) of the wheel where pip noted them.
      type: dict
    conda:
      description: Packages and versions that conda noted in the environment.
      type: dict
    torch:
      description: Version, CUDA version (null means a CPU build) and C++ ABI of torch, or null without torch.
      type: dict
    libstdcxx:
      description: Path of the libstdc++ that Python loads, the newest GLIBCXX version that it offers, the newest that is needed, and the file that needs it.
      type: dict
    broken:
      description: Distributions whose own requirements are not met, as C(pip check) would say it.
      type: list
      elements: str
differences:
  description: What is not as wanted. Each has RV(ignore:name), RV(ignore:wanted) and RV(ignore:found).
  returned: success
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.npuops.ktransformers.plugins.module_utils import python_env


def main():
    module = AnsibleModule(
        argument_spec={
            "python": {"type": "path", "required": True},
            "requirements": {"type": "list", "elements": "str", "default": []},
            "constraints": {"type": "list", "elements": "str", "default": []},
            "exclude": {"type": "list", "elements": "str", "default": []},
            "extensions": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    options = module.params

    def run(command, variables):
        return module.run_command(command, environ_update=variables)

    try:
        env = python_env.probe(run, options["python"], options["requirements"], options["constraints"])
        if options["extensions"]:
            env = python_env.with_needs(env)
    except (python_env.PythonEnvError, OSError) as exc:
        module.fail_json(msg=str(exc))
    found = python_env.differences(env, options["exclude"])
    env.pop("judged", None)
    module.exit_json(changed=False, env=env, differences=found)


if __name__ == "__main__":
    main()
