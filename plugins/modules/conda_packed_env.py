#!/usr/bin/python
# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A conda environment from an archive of conda-pack."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: conda_packed_env
version_added: 1.0.0
short_description: Make a conda environment from an archive of conda-pack
description:
  - Does nothing where the environment is there and its Python runs.
  - Otherwise reads the whole archive first. One that is damaged, for another architecture, has another version of Python or lacks packages is refused before
    anything is unpacked.
  - Unpacks beside the place, renames, and runs C(conda-unpack), which writes the new prefix into the files.
extends_documentation_fragment:
  - npuops.ktransformers.attributes
options:
  src:
    description: Path on the node of the archive, a C(.tar.gz) as C(conda-pack) writes it.
    type: path
    required: true
  prefix:
    description: Folder of the environment.
    type: path
    required: true
  python_version:
    description: Version of Python that the environment must have, major and minor.
    type: str
    required: true
  packages:
    description: Packages of conda that the environment must have. What follows a name is not compared.
    type: list
    elements: str
    default: []
  home:
    description: Folder that programs use in place of the user's home.
    type: path
attributes:
  check_mode:
    support: full
    description: Never fails because the archive is not there yet.
  diff_mode:
    support: full
    description: Shows the packages of conda that the environment gets.
author:
  - npuops contributors (@npuops)
"""

EXAMPLES = r"""
- name: Make the environment without conda
  npuops.ktransformers.conda_packed_env:
    src: /var/lib/npuops/media/conda/py311-aarch64.tar.gz
    prefix: /opt/miniconda3/envs/py311
    python_version: "3.11"
    packages: [libstdcxx-ng]
"""

RETURN = r"""
reason:
  description: Why something is done, in words, or null when the environment is there.
  returned: success
  type: str
  sample: /opt/miniconda3/envs/py311/bin/python does not exist
packages:
  description: Packages and versions of conda in the archive. Empty when nothing is done, or in check mode without the archive.
  returned: success
  type: dict
"""

import os
import platform

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.npuops.ktransformers.plugins.module_utils import packed_env, python_env
from ansible_collections.npuops.ktransformers.plugins.module_utils.packed_env import PackedEnvError


def make(module):
    options = module.params

    def run(command, variables):
        return module.run_command(command, environ_update=variables)

    env = python_env.probe(run, os.path.join(options["prefix"], "bin", "python"))
    if env["found"]:
        return {"changed": False, "reason": None, "packages": {}}
    packages = {}
    if not module.check_mode or os.path.exists(options["src"]):
        packed = packed_env.inspect(options["src"])
        wrong = packed_env.problems(packed, options["python_version"], platform.machine(), options["packages"])
        if wrong:
            raise PackedEnvError(f"{os.path.basename(options['src'])} does not fit: {'; '.join(wrong)}; pack such an environment with conda-pack.")
        packages = packed.packages
        if not module.check_mode:
            packed_env.unpack(options["src"], options["prefix"], run, python_env.isolated(options["home"]))
    listing = "".join(f"{name}={packages[name]}\n" for name in sorted(packages))
    return {"changed": True, "reason": env["reason"], "packages": packages, "diff": {"before": "", "after": listing}}


def main():
    module = AnsibleModule(
        argument_spec={
            "src": {"type": "path", "required": True},
            "prefix": {"type": "path", "required": True},
            "python_version": {"type": "str", "required": True},
            "packages": {"type": "list", "elements": "str", "default": []},
            "home": {"type": "path"},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)
    try:
        result = make(module)
    except (PackedEnvError, OSError) as exc:
        module.fail_json(msg=str(exc))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
