#!/usr/bin/python
# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A command as long work on a node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: job
short_description: Run a command as long work that survives the loss of the connection
version_added: 1.0.0
description:
  - Starts a command detached on the node and waits for it, showing on the controller how far it is.
  - Losing the connection, or stopping Ansible, does not stop the work. The next run with the same digest attaches to it, and does not do
    again what is done. Another digest is refused while the work is running.
  - Work whose process is gone without a result (killed, or the node restarted) is started again by the next run.
extends_documentation_fragment:
  - npuops.ktransformers.attributes
  - npuops.ktransformers.attributes.controller
  - npuops.ktransformers.long_work
options:
  job_dir:
    description: Directory of this job on the node; holds C(job.json), C(progress.json), C(result.json) and C(log).
    type: path
    required: true
  name:
    description: Name of the job. By default the last part of O(job_dir).
    type: str
  title:
    description: What the work is, in a few words, for progress and messages. By default O(name).
    type: str
  command:
    description: The command and its arguments. Needed for O(state=present). No shell is involved.
    type: list
    elements: str
    default: []
  chdir:
    description: Directory in which the command runs. By default V(/).
    type: path
  environment:
    description: Variables that are added to the environment of the command.
    type: dict
    default: {}
  digest:
    description:
      - What else the work depends on, such as versions and checksums. Together with O(command), O(chdir) and O(environment) it decides
        whether work that is done, or running, is the work that is wanted.
    type: list
    elements: str
    default: []
  wait:
    description: Whether to wait for the end. Else the job is only started, and looked at after two seconds.
    type: bool
    default: true
  state:
    description:
      - V(present) has the work done.
      - V(status) only says what is known of the job, and never fails because the work has failed.
      - V(absent) ends the work if it is running, and forgets it. The log stays.
    type: str
    choices: [present, status, absent]
    default: present
  show_errors:
    description: Regular expressions (of Python); the first line of the log that one of them matches is shown when the work has failed.
    type: list
    elements: str
    default:
      - '\berror:'
      - '^\s*[\w.]*(Error|Exception): '
      - '\bERROR\b'
      - 'No module named'
      - 'CMake Error'
      - '^fatal:'
      - 'undefined reference to'
      - 'command not found'
      - 'No space left on device'
      - 'Permission denied'
      - '^Killed'
attributes:
  check_mode:
    description: Tells whether the work would be done, and starts nothing.
    support: full
  diff_mode:
    description: Has nothing to show as a difference.
    support: none
author: npuops contributors (@npuops)
"""

EXAMPLES = r"""
- name: Build the wheel of torch_npu
  npuops.ktransformers.job:
    job_dir: /var/lib/npuops/jobs/torch_npu
    title: build torch_npu
    command: [/usr/local/bin/npu-exec, bash, ci/build.sh, --python=3.11]
    chdir: /var/lib/npuops/src/op-plugin
    environment: {MAX_JOBS: "32"}
    digest: ["v2.3.1-7.0.0", "8.1.RC1"]

- name: See whether it is still building
  npuops.ktransformers.job:
    job_dir: /var/lib/npuops/jobs/torch_npu
    state: status
  register: build
"""

RETURN = r"""
job:
  description: What is known of the job.
  returned: always
  type: dict
  contains:
    state:
      description: V(absent), V(running), V(done), V(failed) or V(interrupted).
      type: str
    digest:
      description: Digest of what is, or was, being done.
      type: str
    title:
      description: What it is.
      type: str
    folder:
      description: Directory of the job.
      type: str
    pid:
      description: Process that works, or has worked.
      type: int
    host:
      description: Host name of the node on which it works; another one where the directory is on a shared disk.
      type: str
    started:
      description: When it was started, in seconds since the epoch.
      type: float
    seconds:
      description: How long it has worked.
      type: float
    percent:
      description: How much is done; null when the work does not tell.
      type: float
    done:
      description: Amount that is done, in RV(job.unit).
      type: float
    total:
      description: Amount that there is to do, in RV(job.unit).
      type: float
    unit:
      description: Unit of the amounts.
      type: str
    rate:
      description: Amount in a second.
      type: float
    eta_seconds:
      description: How long it will still take.
      type: int
    message:
      description: What it is doing; the last line of the log of a command.
      type: str
    result:
      description: What the work has returned, with C(seconds), C(peak_rss_mb), and C(rc) of a command that failed.
      type: dict
    error:
      description: Why it failed.
      type: str
    failure:
      description: One sentence about the failure, with the first error of the log and the log's path; null when it did not fail.
      type: str
    error_lines:
      description: The first error in the log, with two lines before and after it.
      type: list
      elements: str
    log:
      description: Path of the log.
      type: str
    log_tail:
      description: Its last 20 lines.
      type: list
      elements: str
"""

import os
import re

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.npuops.ktransformers.plugins.module_utils import command_job, job

ARGUMENT_SPEC = {
    "job_dir": {"type": "path", "required": True},
    "name": {"type": "str"},
    "title": {"type": "str"},
    "command": {"type": "list", "elements": "str", "default": []},
    "chdir": {"type": "path"},
    "environment": {"type": "dict", "default": {}},
    "digest": {"type": "list", "elements": "str", "default": []},
    "wait": {"type": "bool", "default": True},
    "state": {"type": "str", "choices": ["present", "status", "absent"], "default": "present"},
    "show_errors": {"type": "list", "elements": "str", "default": command_job.SHOW_ERRORS},
    "reconnect_seconds": {"type": "int", "default": 600},
}


def present(module: AnsibleModule) -> None:
    params = module.params
    folder = params["job_dir"]
    name = params["name"] or os.path.basename(folder.rstrip("/"))
    title = params["title"] or name
    digest = command_job.digest_of(params)
    before = job.status(folder)
    if module.check_mode:
        answered = job.answers(before, digest, folder, title)
        module.exit_json(changed=not answered or before["state"] == "running", job=command_job.describe(folder, params["show_errors"]))
    after = job.run(folder, digest, title, command_job.command_of(params), None if params["wait"] else job.FIRST_WAIT)
    changed = after["started_here"] or before["state"] == "running"
    state = command_job.describe(folder, params["show_errors"])
    if state["failure"]:
        module.fail_json(msg=state["failure"], changed=changed, job=state)
    module.exit_json(changed=changed, job=state)


def absent(module: AnsibleModule) -> None:
    folder = module.params["job_dir"]
    there = job.status(folder)["state"] != "absent"
    if there and not module.check_mode:
        job.stop(folder)
        job.reset(folder)
    module.exit_json(changed=there, job=command_job.describe(folder, module.params["show_errors"]))


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    params = module.params
    try:
        for pattern in params["show_errors"]:
            re.compile(pattern)
    except re.error as exc:
        module.fail_json(msg=f"show_errors holds {pattern!r}, which is no regular expression: {exc}")
    try:
        if params["state"] == "status":
            module.exit_json(changed=False, job=command_job.describe(params["job_dir"], params["show_errors"]))
        elif params["state"] == "absent":
            absent(module)
        elif not params["command"]:
            module.fail_json(msg="command is empty: say what is to be run")
        else:
            present(module)
    except job.JobError as exc:
        module.fail_json(msg=str(exc), job=command_job.describe(params["job_dir"], params["show_errors"]))
    except OSError as exc:
        module.fail_json(msg=f"the job in {params['job_dir']} can't be worked with: {exc}")


if __name__ == "__main__":
    main()
