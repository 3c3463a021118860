#!/usr/bin/python
# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
---
module: python_wheel
version_added: 1.0.0
short_description: Have exactly this wheel installed in a Python environment, told apart by its checksum
description:
  - A wheel that was built here and a published one may have the same version, so the version proves nothing.
    What is compared is the SHA-256 that pip noted (C(direct_url.json)) when it installed the wheel from a file.
  - Dependencies are left as they are.
extends_documentation_fragment:
  - npuops.ktransformers.attributes
options:
  python:
    description: Interpreter of the environment.
    type: path
    required: true
  name:
    description: Name of the distribution.
    type: str
    required: true
  state:
    description: V(absent) removes the distribution when it was installed from a wheel in the folder of O(src), whichever that was.
    type: str
    choices: [present, absent]
    default: present
  src:
    description: Path of the wheel on the node. It does not have to be there when nothing is needed, and in check mode.
    type: path
    required: true
  sha256:
    description: SHA-256 of the wheel. Required for O(state=present).
    type: str
  home:
    description: Folder that pip uses in place of the user's home.
    type: path
    required: true
attributes:
  check_mode:
    support: full
    description: Never fails because the environment or the wheel is not there yet.
  diff_mode:
    support: full
    description: Shows version and checksum before and after.
author:
  - npuops contributors (@npuops)
"""

EXAMPLES = r"""
- name: Install the torch_npu that was built here
  npuops.ktransformers.python_wheel:
    python: /opt/miniconda3/envs/py311/bin/python
    name: torch_npu
    src: /var/lib/npuops/torch_npu/torch_npu-2.3.1.post6-cp311-cp311-linux_aarch64.whl
    sha256: 0c2f1f0f5b2a3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5
    home: /var/lib/npuops/home
"""

RETURN = r"""
reason:
  description: Why something is done, in words, or null.
  returned: success
  type: str
  sample: torch-npu 2.3.1.post6 is installed, but from another wheel
version_before:
  description: Version that was installed, or null.
  returned: success
  type: str
"""

import os
import urllib.parse

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.npuops.ktransformers.plugins.module_utils import python_env
from ansible_collections.npuops.ktransformers.plugins.module_utils.python_env import PythonEnvError


def reason_to_install(env, name, sha256):
    """Why the wheel has to be installed, or None."""
    if not env["found"]:
        return env["reason"]
    there = env["packages"].get(name)
    if there is None:
        return f"{name} is not installed"
    return None if there["sha256"] == sha256 else f"{name} {there['version']} is installed, but from another wheel"


def reason_to_remove(env, name, folder):
    """Why the distribution has to go, or None: only what came from a wheel in `folder` is ours."""
    there = env["packages"].get(name) or {}
    ours = os.path.dirname(urllib.parse.unquote(there.get("url") or "")) == "file://" + folder
    return f"{name} {there['version']} was installed from {folder}" if ours else None


def line(env, name):
    there = env["packages"].get(name)
    return f"{name}=={there['version']} sha256:{there['sha256']}\n" if there else ""


def bring(params, check, run, sha256_of):
    name = python_env.canonical(params["name"])
    present = params["state"] == "present"

    def probe():
        return python_env.probe(lambda command, variables: run(command, environ_update=variables), params["python"])

    before = probe()
    reason = reason_to_install(before, name, params["sha256"]) if present else reason_to_remove(before, name, os.path.dirname(params["src"]))
    after = f"{name} {os.path.basename(params['src'])} sha256:{params['sha256']}\n" if present else ""
    if reason and not check:
        if not before["found"]:
            raise PythonEnvError(f"{before['reason']}; create the environment first.")
        os.makedirs(params["home"], mode=0o755, exist_ok=True)
        command = [params["python"], "-I", "-m", "pip"]
        if present:
            if not os.path.exists(params["src"]) or sha256_of(params["src"]) != params["sha256"]:
                raise PythonEnvError(f"{params['src']} is missing or not the wheel with sha256 {params['sha256']}; bring it to the node first.")
            # With the checksum in the address every pip notes it; before 23.1 none does for a plain path.
            url = f"file://{urllib.parse.quote(os.path.abspath(params['src']))}#sha256={params['sha256']}"
            command += ["install", "--no-index", "--no-deps", "--force-reinstall", url]
        else:
            command += ["uninstall", "--yes", name]
        code, out, err = run(command, environ_update=dict(python_env.isolated(params["home"]), PIP_CONFIG_FILE=os.devnull))
        if code:
            errors = [text for text in err.splitlines() if text.startswith("ERROR:")]
            raise PythonEnvError(f"`{' '.join(command)}` ended with {code}: {errors[0] if errors else python_env.last_line(err, out)}")
        now = probe()
        left = reason_to_install(now, name, params["sha256"]) if present else None
        if left:
            raise PythonEnvError(f"pip ended well, yet {left}: its version is too old to note where a wheel came from; "
                                 "bring pip of the environment to 20.1 or later.")
        after = line(now, name)
    return {"changed": reason is not None, "reason": reason, "version_before": before["packages"].get(name, {}).get("version"),
            "diff": {"before": line(before, name), "after": after if reason else line(before, name)}}


def main():
    module = AnsibleModule(
        argument_spec={
            "python": {"type": "path", "required": True},
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "src": {"type": "path", "required": True},
            "sha256": {"type": "str"},
            "home": {"type": "path", "required": True},
        },
        required_if=[("state", "present", ["sha256"])],
        supports_check_mode=True,
    )
    os.umask(0o022)
    try:
        result = bring(module.params, module.check_mode, module.run_command, module.sha256)
    except (PythonEnvError, OSError) as exc:
        module.fail_json(msg=str(exc))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
