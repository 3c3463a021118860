#!/usr/bin/python
# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: weights_fetch
short_description: Receive merged weights from nodes that serve them
version_added: 1.0.0
description:
  - Receives a folder that M(npuops.ktransformers.gguf_safetensors_merge) has made on another node, from servers that
    M(npuops.ktransformers.weights_serve) runs. Files that are there already, or in part, are not received again.
  - Each file is compared with its checksum when it has arrived, flushed to disk, and only then gets the name under which the engine would
    read it. The manifest comes last.
  - Where the folder is the very one that a server serves (a shared file system), nothing is copied.
  - The work runs detached on the node. A lost connection of Ansible costs nothing - calling the module again attaches to it.
extends_documentation_fragment:
  - npuops.ktransformers.attributes
  - npuops.ktransformers.attributes.controller
  - npuops.ktransformers.long_work
  - npuops.ktransformers.long_work.started
options:
  dest:
    description: Folder for the weights. Made when it is not there.
    type: path
    required: true
  urls:
    description:
      - Servers, in order of preference. One that is dead, or slower than O(min_rate_mb_s) while another one is not, is passed over for a
        while. A server that is itself still receiving is waited for as long as it gets on.
      - Without any only what is in O(dest) is looked at, and the task fails when that is not the complete merge.
    type: list
    elements: str
    default: []
  token:
    description: What the servers ask for.
    type: str
  plan:
    description: Digest of the merge that is wanted, RV(npuops.ktransformers.gguf_safetensors_merge#module:plan.digest). By default any complete one.
    type: str
  expected_bytes:
    description: Bytes of the merge, where they are known before a server is asked. Room on the disk is then checked in check mode, too.
    type: int
    default: 0
  reserve_mb:
    description: Megabytes (10^6 bytes) of the disk to leave free.
    type: int
    default: 1024
  connections:
    description: Number of files that are received at the same time.
    type: int
    default: 4
  min_rate_mb_s:
    description: Megabytes (10^6 bytes) a second below which another server is tried.
    type: float
    default: 10.0
  timeout:
    description: Seconds without a byte after which a connection is given up.
    type: int
    default: 30
  patience_seconds:
    description: Seconds without a byte from any server after which the task fails. What has arrived is kept.
    type: int
    default: 300
  wait:
    description: Wait until everything has arrived. Else RV(job) tells how far it is, and calling the module again tells more.
    type: bool
    default: true
  job_dir:
    description: Folder for the job's state and log. Default is C(.npuops-merge) in O(dest), as for a merge.
    type: path
attributes:
  check_mode:
    description: Looks at O(dest) and asks no server.
    support: full
  diff_mode:
    description: Has nothing to show as a difference.
    support: none
seealso:
  - module: npuops.ktransformers.weights_serve
author:
  - npuops contributors (@npuops)
"""

EXAMPLES = r"""
- name: Receive the merged weights
  npuops.ktransformers.weights_fetch:
    dest: /mnt/weights/DeepSeek-R1-q4km-w8a8
    urls: ["http://192.0.2.12:40213", "http://192.0.2.11:38911"]
    token: "{{ token }}"

- name: See whether they are complete
  npuops.ktransformers.weights_fetch:
    dest: /mnt/weights/DeepSeek-R1-q4km-w8a8
  check_mode: true
  register: weights
"""

RETURN = r"""
complete:
  description: Whether O(dest) is the complete merge that is wanted.
  returned: always
  type: bool
reasons:
  description: Why it was not when the module was called, in words.
  returned: always
  type: list
  elements: str
shared:
  description: Whether a server serves this very folder.
  returned: always
  type: bool
plan:
  description: Digest of the merge in O(dest); null when there is none.
  returned: always
  type: str
files:
  description: Number of files of the merge in O(dest).
  returned: always
  type: int
bytes:
  description: Their bytes.
  returned: always
  type: int
received_bytes:
  description: Bytes that came from servers.
  returned: when something was received
  type: int
resumed_bytes:
  description: Bytes of unfinished files that had come before.
  returned: when something was received
  type: int
receive_seconds:
  description: Seconds that it took.
  returned: when something was received
  type: float
servers:
  description: What came from whom, each with node, url and bytes.
  returned: when something was received
  type: list
  elements: dict
job:
  description: The detached work.
  returned: always
  type: dict
  contains:
    state:
      description: V(absent) when nothing had to be done, else V(running), V(done), V(failed) or V(interrupted).
      type: str
      returned: always
    percent:
      description: How much is done.
      type: float
      returned: always
    rate_mb_s:
      description: Megabytes (10^6 bytes) a second.
      type: float
      returned: always
    eta_seconds:
      description: Seconds left.
      type: int
      returned: always
    message:
      description: What is being done.
      type: str
      returned: always
    pid:
      description: Process that does it.
      type: int
      returned: always
    folder:
      description: Folder of the job.
      type: str
      returned: always
    log:
      description: Path of its log.
      type: str
      returned: always
"""

import os
import time
from concurrent.futures import ThreadPoolExecutor

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.npuops.ktransformers.plugins.module_utils import job
from ansible_collections.npuops.ktransformers.plugins.module_utils.hand_on import folder, peer, receiver
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights import manifest
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.errors import WeightsError

ARGUMENT_SPEC = {
    "dest": {"type": "path", "required": True},
    "urls": {"type": "list", "elements": "str", "default": []},
    "token": {"type": "str", "no_log": True},
    "plan": {"type": "str"},
    "expected_bytes": {"type": "int", "default": 0},
    "reserve_mb": {"type": "int", "default": 1024},
    "connections": {"type": "int", "default": 4},
    "min_rate_mb_s": {"type": "float", "default": 10.0},
    "timeout": {"type": "int", "default": 30},
    "patience_seconds": {"type": "int", "default": 300},
    "wait": {"type": "bool", "default": True},
    "started": {"type": "dict"},
    "job_dir": {"type": "path"},
    "reconnect_seconds": {"type": "int", "default": 600},
}
ASK_SECONDS = 5.0  # for a server to say who it is
SHARED_PATIENCE = 90.0  # seconds that a network file system may show old names and times


def job_dict(status):
    """The job's status as it is returned."""
    rate = status.get("rate")
    return {
        "state": status["state"], "title": status.get("title"), "percent": status.get("percent"), "rate_mb_s": round(rate / 1e6, 1) if rate else None,
        "eta_seconds": status.get("eta_seconds"), "message": status.get("message"), "pid": status.get("pid"),
        "folder": status.get("folder"), "log": status.get("log"), "digest": status.get("digest"),
    }


def seen(here, status, **more):
    """The result for what is in the folder now."""
    return dict(
        {"changed": False, "complete": here.complete, "reasons": here.reasons, "shared": False, "plan": here.plan, "files": here.files,
         "bytes": here.bytes, "job": job_dict(status)},
        **more
    )


def is_shared(dest, urls, token):
    """Whether one of the servers serves this very folder: its mark is here."""

    def ask(url):
        ident = peer.introduce(url, token, ASK_SECONDS)
        mark = folder.nonce_path(dest, ident) if ident else None
        return mark is not None and os.path.exists(mark)

    with ThreadPoolExecutor(len(urls)) as pool:
        return any(list(pool.map(ask, urls)))


def wait_for_shared(module, dest, status):
    """A server has the folder complete, and this is the folder: what this node sees of it may be some seconds old."""
    end = time.monotonic() + SHARED_PATIENCE
    here = folder.look(dest, module.params["plan"])
    while here.reasons and time.monotonic() < end and job.status(status["folder"])["state"] != "running":
        time.sleep(1.0)
        here = folder.look(dest, module.params["plan"])
    return here


def options_of(params):
    return receiver.Options(
        reserve=params["reserve_mb"] * 1000000, connections=params["connections"], timeout=params["timeout"], patience=params["patience_seconds"],
        pace=peer.Pace(rate=params["min_rate_mb_s"] * 1e6),
    )


def fetch(module, dest, job_dir):
    params = module.params
    here = folder.look(dest, params["plan"])
    status = job.status(job_dir)
    token = params["token"] or ""
    digest = receiver.digest_of(dest, params["plan"], token)
    if status["state"] == "done" and status["digest"] == digest and here.complete:
        return final(module, here, status)  # started earlier with wait=false: this call is the first to learn how it ended
    if here.complete:
        return seen(here, status)
    if module.check_mode:
        room = folder.too_little_room(dest, params["expected_bytes"] - folder.own_bytes(dest), params["reserve_mb"] * 1000000)
        problems = folder.in_the_way(dest) + ([room] if room and status["state"] != "running" else [])
        if problems:
            module.fail_json(msg="; ".join(problems) + ".", **seen(here, status))
        return seen(here, status, changed=True)
    if not params["urls"]:
        module.fail_json(msg=f"{here.reasons[0]}, and urls names no server to receive the weights from.", **seen(here, status))
    if not token:
        module.fail_json(msg="urls names servers and token is missing; give the one that they were started with.", **seen(here, status))
    if is_shared(dest, params["urls"], token):
        now = wait_for_shared(module, dest, status)
        if now.complete:
            return seen(now, status, shared=True)
    if status["state"] == "running" and status["digest"] != digest and str(status["digest"]).startswith(receiver.DIGEST):
        job.stop(job_dir)  # of an earlier run, whose servers are gone; what has arrived is kept
    work = receiver.receive(dest, params["urls"], token, params["plan"], options_of(params))
    status = job.run(job_dir, digest, f"the weights for {dest}", work, None if params["wait"] else job.FIRST_WAIT)
    now = folder.look(dest, params["plan"])
    if status["state"] == "running":
        return seen(now, status, changed=True, reasons=here.reasons)
    return final(module, now, status, here.reasons)


def final(module, here, status, reasons=None):
    """The result of a job that has ended."""
    if status["state"] in ("failed", "interrupted"):
        module.fail_json(msg=f"{status['error']} (log: {status['log']})", **seen(here, status))
    result = seen(here, status)
    if status["state"] == "done":
        result.update(status["result"] or {}, files=here.files, bytes=here.bytes, plan=here.plan)
        job.reset(status["folder"])  # it has been told: the next call looks at the folder itself
    if reasons is not None:
        result["reasons"] = reasons
    return result


def main():
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    params = module.params
    dest = os.path.abspath(params["dest"])
    job_dir = os.path.abspath(params["job_dir"]) if params["job_dir"] else manifest.work_folder(dest)
    for name, low, high in (("connections", 1, 64), ("timeout", 1, None), ("patience_seconds", 1, None), ("reserve_mb", 0, None), ("min_rate_mb_s", 0, None)):
        if params[name] < low or high is not None and params[name] > high:
            module.fail_json(msg=f"{name} is {params[name]}; {f'a number from {low} to {high}' if high else f'{low} or more'} was expected.")
    try:
        module.exit_json(**fetch(module, dest, job_dir))
    except (WeightsError, job.JobError) as exc:
        module.fail_json(msg=str(exc))
    except OSError as exc:
        module.fail_json(msg=f"the weights in {dest} can't be worked with: {exc}")


if __name__ == "__main__":
    main()
