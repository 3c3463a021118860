#!/usr/bin/python
# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: ascend_env_info
short_description: Tell the environment that CANN and NNAL need
version_added: 1.0.0
description:
  - Sources the vendor's C(set_env.sh) scripts once, in a clean bash, and returns what they set, so that nothing else has to source anything.
  - Repairs what the scripts are known to get wrong. Adds the driver's libraries, removes empty and doubled entries of search paths, and tells NNAL the
    C++ ABI instead of letting it guess from whichever Python is first.
  - Says which folder should hold C(libhccl.so), C(libascend_hal.so) and C(libatb.so) when the resulting E(LD_LIBRARY_PATH) does not have them.
extends_documentation_fragment:
  - npuops.ktransformers.attributes
  - npuops.ktransformers.attributes.reads
options:
  ascend_root:
    description: Where the vendor's packages are installed.
    type: path
    default: /usr/local/Ascend
  version:
    description: Which installed CANN version, or V(latest) for the one that C(latest) stands for.
    type: str
    default: latest
  cxx_abi:
    description:
      - The C++ ABI that the installed torch was built with; torch 2.3.1 and its neighbours have V(0).
      - Without it, NNAL's script asks the C(torch) of O(python), and takes 1 when there is none.
    type: int
    choices: [0, 1]
  python:
    description: Path of the Python that will use CANN. Its folder comes first in E(PATH).
    type: path
  extra:
    description: More variables. Values for E(PATH), E(LD_LIBRARY_PATH) and E(PYTHONPATH) come first in them, others replace the vendor's.
    type: dict
    default: {}
  driver_path:
    description: Folder of the driver. The default is the folder C(driver) below O(ascend_root).
    type: path
  imports:
    description:
      - Python modules that O(python) must be able to import in this environment, such as V(acl). One that fails is in RV(problems), with the missing path.
      - Not tried where O(python) is not there.
    type: list
    elements: str
    default: []
  files:
    description: Files that the environment is written down in, whose checksum and mode are wanted.
    type: list
    elements: path
    default: []
seealso:
  - module: npuops.ktransformers.npu_info
author: npuops contributors (@npuops)
"""

EXAMPLES = r"""
- name: Learn the environment of CANN for the conda environment's Python
  npuops.ktransformers.ascend_env_info:
    python: /opt/miniconda3/envs/py311/bin/python
    cxx_abi: 0
    imports: [acl]
  register: cann_environment

- name: Write it down for services and people
  ansible.builtin.copy:
    dest: /etc/npuops/npu.env
    content: "{{ cann_environment.env_file }}"
    mode: '0644'
"""

RETURN = r"""
found:
  description: Whether the environment could be had.
  returned: always
  type: bool
reason:
  description: Why it could not, or null.
  returned: always
  type: str
  sample: no CANN is installed below /usr/local/Ascend
version:
  description: The CANN version that the environment belongs to.
  returned: always
  type: str
  sample: 8.1.RC1
environment:
  description: All variables with their full values.
  returned: always
  type: dict
  sample: {ASCEND_TOOLKIT_HOME: /usr/local/Ascend/ascend-toolkit/latest}
paths:
  description: The entries of E(PATH), E(LD_LIBRARY_PATH) and E(PYTHONPATH), in order.
  returned: always
  type: dict
  sample: {LD_LIBRARY_PATH: [/usr/local/Ascend/driver/lib64/common, /usr/local/Ascend/driver/lib64/driver]}
problems:
  description: What is missing, each with V(id), V(severity), V(observed), V(expected) and V(repair).
  returned: always
  type: list
  elements: dict
  sample:
    - id: ascend_env_libatb
      severity: error
      observed: libatb.so is in none of the 9 folders of LD_LIBRARY_PATH
      expected: libatb.so in /usr/local/Ascend/nnal/atb/latest/atb/cxx_abi_0/lib (NNAL brings it)
      repair: install Ascend-cann-nnal_8.1.RC1
env_file:
  description: The variables as lines C(KEY="value") that bash and systemd's C(EnvironmentFile=) read alike.
  returned: always
  type: str
files:
  description: SHA-256 and mode of each of O(files), with a blank between them. Empty for one that is not there.
  returned: always
  type: dict
  sample: {/etc/npuops/npu.env: 01ba4719c80b6fe911b091a7c05124b64eeece964e09c058ef8f9805daca546b 0644}
left_out:
  description: Variables of the vendor's that are left out of the above, with the reason.
  returned: always
  type: dict
  sample: {ASDOPS_LOG_PATH: it points to the home of whoever sources the script; each program finds its own}
toolkit_home:
  description: Folder of the toolkit.
  returned: always
  type: str
  sample: /usr/local/Ascend/ascend-toolkit/latest
nnal_home:
  description: Folder of NNAL's libraries for the chosen C++ ABI, or null without NNAL.
  returned: always
  type: str
  sample: /usr/local/Ascend/nnal/atb/latest/atb/cxx_abi_0
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend.env import EnvironmentProblem, assemble
from ansible_collections.npuops.ktransformers.plugins.module_utils.file_digest import content_and_mode


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "ascend_root": {"type": "path", "default": "/usr/local/Ascend"},
            "version": {"type": "str", "default": "latest"},
            "cxx_abi": {"type": "int", "choices": [0, 1]},
            "python": {"type": "path"},
            "extra": {"type": "dict", "default": {}},
            "driver_path": {"type": "path"},
            "imports": {"type": "list", "elements": "str", "default": []},
            "files": {"type": "list", "elements": "path", "default": []},
        },
        supports_check_mode=True,
    )
    options = dict(module.params)
    files = {path: content_and_mode(path) for path in options.pop("files")}
    options["extra"] = {name: str(value) for name, value in options["extra"].items()}
    try:
        module.exit_json(changed=False, files=files, **assemble(**options))
    except EnvironmentProblem as exc:
        module.fail_json(msg=str(exc))


if __name__ == "__main__":
    main()
