#!/usr/bin/python
# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
---
module: python_packages
version_added: 1.0.0
short_description: Bring the distributions of a Python environment to a locked set
description:
  - Compares what an environment has with a lock file and with requirements, and installs exactly what differs.
  - With O(lock) nothing is resolved and nothing is asked of the network. Every wheel comes from O(find_links) and must have a hash of the lock.
  - With O(index=true) pip resolves O(requirements) under O(constraints) from an index.
  - Ends with C(pip check) and with an import of O(imports), when something was installed.
extends_documentation_fragment:
  - npuops.ktransformers.attributes
options:
  python:
    description: Interpreter of the environment.
    type: path
    required: true
  requirements:
    description: Requirements (PEP 508) that must be met in the end.
    type: list
    elements: str
    default: []
  constraints:
    description: Requirements that hold for what gets installed, and ask for nothing to be installed.
    type: list
    elements: str
    default: []
  constraints_file:
    description: Where O(constraints) are written on the node, for the pip calls of others. Not written when not given.
    type: path
  lock:
    description: Path on the node of the lock, a requirements file with hashes. Needed unless O(index=true).
    type: path
  lock_sha256:
    description: SHA-256 that the lock must have. RV(needs_lock) says when the file on the node is another one or missing.
    type: str
  find_links:
    description: Folder on the node with the wheels of the lock.
    type: path
  exclude:
    description: Names of distributions that are left as they are, since somebody else is in charge of them.
    type: list
    elements: str
    default: []
  index:
    description: Install from a package index in place of a lock.
    type: bool
    default: false
  index_url:
    description: The index. Without it pip's own configuration on the node decides.
    type: str
  extra_index_urls:
    description: More indexes, such as the one that has the CPU builds of torch.
    type: list
    elements: str
    default: []
  imports:
    description: Modules that must be importable after something was installed.
    type: list
    elements: str
    default: []
  home:
    description: Folder that pip uses in place of the user's home, for its cache too.
    type: path
    required: true
  log:
    description: File that gets pip's output.
    type: path
    required: true
attributes:
  check_mode:
    support: full
    description: Never fails because the environment or the lock is not there yet.
  diff_mode:
    support: full
    description: Shows the versions before and after.
author:
  - npuops contributors (@npuops)
"""

EXAMPLES = r"""
- name: Bring the environment to the lock, without a network
  npuops.ktransformers.python_packages:
    python: /opt/miniconda3/envs/py311/bin/python
    requirements: [numpy==1.26.4, torch==2.3.1]
    lock: /var/lib/npuops/media/wheels/aarch64/requirements.lock
    find_links: /var/lib/npuops/media/wheels/aarch64
    home: /var/lib/npuops/home
    log: /var/lib/npuops/logs/pip.log
"""

RETURN = r"""
reason:
  description: Why something is done, in words, or null when the environment is as wanted.
  returned: success
  type: str
  sample: numpy is 2.0.1, ==1.26.4 is wanted
differences:
  description: What is not as wanted. Each has RV(ignore:name), RV(ignore:wanted) and RV(ignore:found).
  returned: success
  type: list
  elements: dict
needs_lock:
  description: Whether the lock has to be brought to the node first. What differs from it is unknown until then.
  returned: success
  type: bool
needs_wheels:
  description: Whether wheels have to be on the node to do it.
  returned: success
  type: bool
env:
  description: The environment, afterwards. See M(npuops.ktransformers.python_env_info).
  returned: success
  type: dict
"""

import os
import shlex
import tempfile

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.npuops.ktransformers.plugins.module_utils import python_env
from ansible_collections.npuops.ktransformers.plugins.module_utils.python_env import PythonEnvError


def lock_of(options, sha256):
    """(locked, needs_lock): the pins of the lock, [] and True when the right file is not on the node."""
    if options["index"]:
        return [], False
    path = options["lock"]
    if not os.path.exists(path) or (options["lock_sha256"] and sha256(path) != options["lock_sha256"]):
        return [], True
    with open(path, encoding="utf-8") as stream:
        return python_env.read_lock(stream.read(), path), False


def constraints_differ(options):
    if not options["constraints_file"]:
        return False
    try:
        with open(options["constraints_file"], encoding="utf-8") as stream:
            return stream.read() != constraints_text(options["constraints"])
    except FileNotFoundError:
        return True


def constraints_text(constraints):
    head = "# Written by npuops.ktransformers: holds for every pip call of the deployment (PIP_CONSTRAINT).\n"
    return head + "".join(line + "\n" for line in constraints)


def reason_to_install(env, differences, needs_lock):
    """Why the environment has to change, or None."""
    if not env["found"]:
        return env["reason"]
    if needs_lock:
        return "the lock of the wheels is not on the node"
    if not differences:
        return None
    first = differences[0]
    words = f"{first['name']} is {first['found']}, {first['wanted']} is wanted" if first["found"] else f"{first['name']}{first['wanted']} is not installed"
    return words + (f", and {len(differences) - 1} more" if len(differences) > 1 else "")


def pip_command(options, locked, differences, scratch):
    """The call that installs what differs; writes the files that it reads into `scratch`."""
    command = [options["python"], "-I", "-m", "pip", "install"]
    wanted = os.path.join(scratch, "requirements.txt")
    if options["index"]:
        limits = os.path.join(scratch, "constraints.txt")
        write(limits, "".join(line + "\n" for line in options["constraints"]))
        write(wanted, "".join(line + "\n" for line in options["requirements"]))
        return command + ["--constraint", limits, "--requirement", wanted]
    names = {item["name"] for item in differences}
    write(wanted, "".join(lock.line + "\n" for lock in locked if lock.name in names))
    # The lock is the whole set, so nothing is left to resolve; pip check proves it afterwards.
    return command + ["--no-index", "--find-links", options["find_links"], "--require-hashes", "--no-deps", "--requirement", wanted]


def write(path, text):
    with open(path, "w", encoding="utf-8") as stream:
        stream.write(text)


def first_error(*texts):
    """pip's own first word on what went wrong: the last line is often only a hint."""
    lines = [line.strip() for text in texts for line in text.splitlines()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    return errors[0] if errors else python_env.last_line(*texts)


class Packages:
    def __init__(self, module):
        self.module = module
        self.options = module.params
        self.environment = python_env.isolated(self.options["home"])
        if not self.options["index"]:
            # A pip.conf on the node may name an index or `user = true`.
            self.environment["PIP_CONFIG_FILE"] = os.devnull
        # Not as arguments: a URL may hold a token, and every user of the node can read a command line.
        if self.options["index_url"]:
            self.environment["PIP_INDEX_URL"] = self.options["index_url"]
        if self.options["extra_index_urls"]:
            self.environment["PIP_EXTRA_INDEX_URL"] = " ".join(self.options["extra_index_urls"])

    def run(self, command, variables):
        return self.module.run_command(command, environ_update=variables)

    def logged(self, command):
        code, out, err = self.run(command, self.environment)
        os.makedirs(os.path.dirname(self.options["log"]), exist_ok=True)
        with open(self.options["log"], "a", encoding="utf-8") as log:
            log.write(f"$ {' '.join(shlex.quote(word) for word in command)}\n{out}{err}(exit code {code})\n")
        return code, out, err

    def probe(self, locked):
        return python_env.probe(self.run, self.options["python"], self.options["requirements"], self.options["constraints"], locked)

    def install(self, locked, differences):
        os.makedirs(self.options["home"], mode=0o755, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="npuops-pip-") as scratch:
            code, out, err = self.logged(pip_command(self.options, locked, differences, scratch))
        if code:
            raise PythonEnvError(f"pip could not install {', '.join(item['name'] for item in differences)}: {first_error(err, out)}; "
                                 f"its whole output is in {self.options['log']}.")

    def prove(self, locked):
        """The environment afterwards. Raises PythonEnvError when it is not what was wanted, or does not work."""
        env = self.probe(locked)
        left = python_env.differences(env, self.options["exclude"])
        if left:
            raise PythonEnvError(f"pip ended well, yet {reason_to_install(env, left, False)}; see {self.options['log']}.")
        code, out, err = self.logged([self.options["python"], "-I", "-m", "pip", "check"])
        if code:
            raise PythonEnvError(f"the installed set contradicts itself, pip check says: {'; '.join((out or err).strip().splitlines())}; "
                                 "correct the lock or the requirements.")
        for name in self.options["imports"]:
            code, out, err = self.logged([self.options["python"], "-I", "-c", f"import {name}"])
            if code:
                words = python_env.last_line(err, out)
                raise PythonEnvError(f"{self.options['python']} cannot import {name}: {words}; the traceback is in {self.options['log']}.")
        return env

    def write_constraints(self):
        path = self.options["constraints_file"]
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        write(path + ".npuops-new", constraints_text(self.options["constraints"]))
        os.chmod(path + ".npuops-new", 0o644)
        os.replace(path + ".npuops-new", path)

    def bring(self):
        locked, needs_lock = lock_of(self.options, self.module.sha256)
        before = self.probe(locked)
        differences = python_env.differences(before, self.options["exclude"])
        problems = python_env.lock_problems(before, self.options["exclude"]) if locked else []
        if problems:
            raise PythonEnvError(f"{self.options['lock']} does not fit the stack: {'; '.join(problems)}; make the lock from the stack's requirements.")
        reason = reason_to_install(before, differences, needs_lock)
        limits = constraints_differ(self.options)
        env = before
        if not self.module.check_mode:
            if not before["found"]:
                raise PythonEnvError(f"{before['reason']}; create the environment first.")
            if needs_lock:
                raise PythonEnvError(f"{self.options['lock']} is not the lock with sha256 {self.options['lock_sha256']}; fetch it from the media first.")
            if limits:
                self.write_constraints()
            if reason:
                self.install(locked, differences)
                env = self.prove(locked)
        return self.answer(before, env, differences, reason, needs_lock, limits)

    def answer(self, before, env, differences, reason, needs_lock, limits):
        names = [item["name"] for item in differences]
        if env is before:
            after = "".join(f"{item['name']}{item['wanted']}\n" for item in differences)
        else:
            # pip may have brought more than what was asked for (index), so compare everything.
            names = [name for name in {**before["packages"], **env["packages"]} if before["packages"].get(name) != env["packages"].get(name)]
            after = python_env.listing(env["packages"], names)
        if limits:
            reason = reason or f"{self.options['constraints_file']} does not hold the constraints"
        env = {key: value for key, value in python_env.with_needs(env).items() if key != "judged"}
        return {
            "changed": bool(reason), "reason": reason, "differences": differences, "needs_lock": needs_lock,
            "needs_wheels": not self.options["index"] and (needs_lock or not before["found"] or bool(differences)), "env": env,
            "diff": {"before": python_env.listing(before["packages"], names), "after": after},
        }


def main():
    module = AnsibleModule(
        argument_spec={
            "python": {"type": "path", "required": True},
            "requirements": {"type": "list", "elements": "str", "default": []},
            "constraints": {"type": "list", "elements": "str", "default": []},
            "constraints_file": {"type": "path"},
            "lock": {"type": "path"},
            "lock_sha256": {"type": "str"},
            "find_links": {"type": "path"},
            "exclude": {"type": "list", "elements": "str", "default": []},
            "index": {"type": "bool", "default": False},
            "index_url": {"type": "str"},
            "extra_index_urls": {"type": "list", "elements": "str", "default": []},
            "imports": {"type": "list", "elements": "str", "default": []},
            "home": {"type": "path", "required": True},
            "log": {"type": "path", "required": True},
        },
        required_if=[("index", False, ["lock", "find_links"])],
        supports_check_mode=True,
    )
    os.umask(0o022)
    try:
        result = Packages(module).bring()
    except (PythonEnvError, OSError) as exc:
        module.fail_json(msg=str(exc))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
