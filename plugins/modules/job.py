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
  reconnect_seconds:
    description: How long to try to reach the node again when the connection is lost while waiting.
    type: int
    default: 600
attributes:
  action:
    description: Has a plugin that runs on the controller, for the progress.
    support: full
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

import collections
import contextlib
import hashlib
import json
import os
import re
import shlex
import signal
import subprocess
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.npuops.ktransformers.plugins.module_utils import job

SHOW_ERRORS = [
    r"\berror:",
    r"^\s*[\w.]*(Error|Exception): ",
    r"\bERROR\b",
    r"No module named",
    r"CMake Error",
    r"^fatal:",
    r"undefined reference to",
    r"command not found",
    r"No space left on device",
    r"Permission denied",
    r"^Killed",
]
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
    "show_errors": {"type": "list", "elements": "str", "default": SHOW_ERRORS},
    "reconnect_seconds": {"type": "int", "default": 600},
}
_CONTEXT = 2  # lines before and after the first error
_TAIL_LINES = 20
_TAIL_BYTES = 1 << 16
_LINE_BYTES = 2000
_SEARCH_BYTES = 256 << 20  # of a log, for its first error


def describe(folder: str, show_errors: t.Sequence[str]) -> t.Dict[str, t.Any]:
    """job.status with what the log tells."""
    state = job.status(folder)
    tail = log_tail(state["log"])
    state.update(log_tail=tail, error_lines=[], failure=None)
    if state["state"] == "running" and state["done"] is None:
        state["percent"] = percent_in(tail)
        state["message"] = next((line[:120] for line in reversed(tail) if line.strip()), None)
    if state["state"] in ("failed", "interrupted"):
        state["error_lines"], first = first_error(state["log"], show_errors) if state["state"] == "failed" else ([], None)
        state["failure"] = failure_of(state, first)
    return state


def failure_of(state: t.Dict[str, t.Any], first: t.Optional[str]) -> str:
    """One sentence for the user."""
    if state["state"] == "interrupted":
        return f"{state['title']} was interrupted: {state['error']}; run the playbook again to go on (log: {state['log']})"
    cause = f"{first} ({state['error']})" if first and first not in (state["error"] or "") else state["error"]
    return f"{state['title']} failed: {cause}; the whole log is {state['log']} on {state['host']}"


def log_tail(path: str) -> t.List[str]:
    """The last lines of a log; of a line that was overwritten by carriage returns, what is left to see."""
    try:
        with open(path, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    return [_visible(line) for line in text.split("\n")[-_TAIL_LINES - 1 :] if line][-_TAIL_LINES:]


def _visible(line: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", line.rstrip("\r\n").rpartition("\r")[2])[:_LINE_BYTES]


def percent_in(lines: t.Sequence[str]) -> t.Optional[float]:
    """How far a build says it is: [12/345] of ninja, [ 42%] of cmake and make."""
    for line in reversed(lines):
        match = re.match(r"\s*\[\s*(?:(\d+)\s*/\s*(\d+)|(\d+)\s*%)\s*\]", line)
        if match and match.group(3):
            return min(100.0, float(match.group(3)))
        if match and int(match.group(2)):
            return round(min(100.0, 100.0 * int(match.group(1)) / int(match.group(2))), 1)
    return None


def first_error(path: str, patterns: t.Sequence[str]) -> t.Tuple[t.List[str], t.Optional[str]]:
    """The first line that one of the patterns matches, with its neighbours, and by itself; what is said first is the cause.

    Lines that only show a command (+ …) are none.
    """
    wanted = [re.compile(pattern) for pattern in patterns]
    before: t.Deque[str] = collections.deque(maxlen=_CONTEXT)
    found: t.Optional[str] = None
    lines: t.List[str] = []
    try:
        with open(path, "rb") as file:
            while file.tell() < _SEARCH_BYTES:
                raw = file.readline(_LINE_BYTES)
                if not raw:
                    break
                line = _visible(raw.decode("utf-8", "replace"))
                if found is None and not line.startswith("+") and any(pattern.search(line) for pattern in wanted):
                    found = line
                    lines = [*before, line]
                elif found is not None:
                    lines.append(line)
                    if len(lines) >= len(before) + 1 + _CONTEXT:
                        break
                if found is None:
                    before.append(line)
    except OSError:
        pass
    return lines, found.strip() if found else None


def command_of(params: t.Dict[str, t.Any]) -> t.Callable[[job.Progress], t.Dict[str, t.Any]]:
    """The work: run the command, and end it when the worker is asked to end."""
    environment = {key: str(value) for key, value in params["environment"].items()}
    command, chdir = params["command"], params["chdir"] or "/"

    def work(progress: job.Progress) -> t.Dict[str, t.Any]:
        progress.log("+ " + " ".join(shlex.quote(word) for word in command))
        try:
            process = subprocess.Popen(  # pylint: disable=consider-using-with
                command, cwd=chdir, env=dict(os.environ, **environment), stdin=subprocess.DEVNULL, pass_fds=job.belongs_to_job()
            )
        except OSError as exc:
            raise job.JobError(f"{command[0]} can't be run in {chdir}: {exc}")
        try:
            code = process.wait()
        except BaseException:
            end(process)
            raise
        if code:
            words = f"killed by {signal_name(-code)}" if code < 0 else f"exit status {code}"
            raise job.JobError(words, result={"rc": code})
        return {"rc": 0}

    return work


def end(process: t.Any) -> None:
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)
        return
    process.kill()
    process.wait()


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def digest_of(params: t.Dict[str, t.Any]) -> str:
    """What is being done, and on what it depends, as one word."""
    value = [params[key] for key in ("command", "chdir", "environment", "digest")]
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def present(module: AnsibleModule) -> None:
    params = module.params
    folder = params["job_dir"]
    name = params["name"] or os.path.basename(folder.rstrip("/"))
    title = params["title"] or name
    digest = digest_of(params)
    before = job.status(folder)
    if module.check_mode:
        answered = job.answers(before, digest, folder, title)
        module.exit_json(changed=not answered or before["state"] == "running", job=describe(folder, params["show_errors"]))
    after = job.run(folder, digest, title, command_of(params), None if params["wait"] else job.FIRST_WAIT)
    changed = after["started_here"] or before["state"] == "running"
    state = describe(folder, params["show_errors"])
    if state["failure"]:
        module.fail_json(msg=state["failure"], changed=changed, job=state)
    module.exit_json(changed=changed, job=state)


def absent(module: AnsibleModule) -> None:
    folder = module.params["job_dir"]
    there = job.status(folder)["state"] != "absent"
    if there and not module.check_mode:
        job.stop(folder)
        job.reset(folder)
    module.exit_json(changed=there, job=describe(folder, module.params["show_errors"]))


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True, required_if=[("state", "present", ["command"])])
    params = module.params
    try:
        for pattern in params["show_errors"]:
            re.compile(pattern)
    except re.error as exc:
        module.fail_json(msg=f"show_errors holds {pattern!r}, which is no regular expression: {exc}")
    try:
        if params["state"] == "status":
            module.exit_json(changed=False, job=describe(params["job_dir"], params["show_errors"]))
        elif params["state"] == "absent":
            absent(module)
        elif not params["command"]:
            module.fail_json(msg="command is empty: say what is to be run")
        else:
            present(module)
    except job.JobError as exc:
        module.fail_json(msg=str(exc), job=describe(params["job_dir"], params["show_errors"]))
    except OSError as exc:
        module.fail_json(msg=f"the job in {params['job_dir']} can't be worked with: {exc}")


if __name__ == "__main__":
    main()
