#!/usr/bin/python
# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: weights_serve
short_description: Serve merged weights to other nodes for a while
version_added: 1.0.0
description:
  - Serves a folder that M(npuops.ktransformers.gguf_safetensors_merge) has made, or that M(npuops.ktransformers.weights_fetch) is
    receiving, over HTTP to nodes that have the token. Only files that the folder's manifest or journal lists are served, by ranges.
  - The server runs detached on the node. It ends with O(state=stopped), and by itself when nobody has asked for anything for
    O(idle_seconds).
  - The weights are sent as they are, so use it within a network that you trust. The token keeps others from taking them; they can see it
    only where they can listen to the traffic.
extends_documentation_fragment:
  - npuops.ktransformers.attributes
options:
  path:
    description: Folder of the weights.
    type: path
    required: true
  state:
    description:
      - V(started) has a server run with this O(token); one with another token, port or address is replaced.
      - V(stopped) ends it and takes away what it left on the node, but for the checksums in O(job_dir).
    type: str
    choices: [started, stopped]
    default: started
  token:
    description: What a client must know. Make a new one for each run. Required with O(state=started).
    type: str
  address:
    description:
      - Address by which the other nodes reach this one. An address of this node is the only one that is listened on; with a name, or an
        address that is not the node's own, the server listens on all.
      - By default the address of the default route is named, and all are listened on.
    type: str
    default: ''
  port:
    description: Port to listen on; V(0) takes a free one.
    type: int
    default: 0
  incomplete:
    description: Serve a folder that is not complete yet, as it grows.
    type: bool
    default: false
  idle_seconds:
    description: The server ends when nobody has asked for anything for so many seconds.
    type: int
    default: 600
  job_dir:
    description:
      - Folder for the server's state, log and checksums, one for each O(path). Must be on a disk of this node alone.
    type: path
    required: true
attributes:
  check_mode:
    description: Can run in check mode and return what would be done without changing anything.
    support: full
  diff_mode:
    description: Has nothing to show as a difference.
    support: none
seealso:
  - module: npuops.ktransformers.weights_fetch
author:
  - npuops contributors (@npuops)
"""

EXAMPLES = r"""
- name: Serve the merged weights
  npuops.ktransformers.weights_serve:
    path: /mnt/weights/DeepSeek-R1-q4km-w8a8
    token: "{{ token }}"
    job_dir: /var/lib/npuops/jobs/weights_serve
  register: served

- name: Stop serving
  npuops.ktransformers.weights_serve:
    path: /mnt/weights/DeepSeek-R1-q4km-w8a8
    job_dir: /var/lib/npuops/jobs/weights_serve
    state: stopped
"""

RETURN = r"""
url:
  description: Address of the server; the first one of RV(urls).
  returned: with state started, not in check mode
  type: str
  sample: http://192.0.2.11:40213
urls:
  description: Addresses by which the server may be reached, to be tried in this order.
  returned: with state started, not in check mode
  type: list
  elements: str
port:
  description: Port that it listens on.
  returned: with state started, not in check mode
  type: int
pid:
  description: Process of the server.
  returned: with state started, not in check mode
  type: int
complete:
  description: Whether the folder is complete.
  returned: with state started
  type: bool
plan:
  description: Digest of the merge in the folder; null when it is not complete.
  returned: with state started
  type: str
bytes:
  description: Bytes of the merge; 0 when it is not complete.
  returned: with state started
  type: int
log:
  description: Log of the server on the node.
  returned: with state started, not in check mode
  type: str
"""

import os
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.npuops.ktransformers.plugins.module_utils import job
from ansible_collections.npuops.ktransformers.plugins.module_utils.hand_on import folder, server
from ansible_collections.npuops.ktransformers.plugins.module_utils.hand_on.receiver import digest_of

PATIENCE = 30.0  # seconds until a server must listen, which needs milliseconds


def started(module, path, job_dir):
    params = module.params
    here = folder.look(path)
    if here.reasons and not params["incomplete"]:
        module.fail_json(msg=f"{here.reasons[0]}; merge the weights on {folder.node()} first.")
    result = {"complete": here.complete, "plan": here.plan if here.complete else None, "bytes": here.bytes}
    digest = digest_of(path, f"{params['address']} {params['port']}", params["token"])
    before = job.status(job_dir)
    runs = before["state"] == "running" and before["digest"] == digest
    if module.check_mode:
        return dict(result, changed=not runs)
    if not runs:
        server.stop(job_dir)
    work = server.serve(path, params["token"], params["address"], params["port"], job_dir, params["idle_seconds"])
    title = f"the server of {path}"
    status = job.run(job_dir, digest, title, work, 0)
    end = time.monotonic() + PATIENCE
    endpoint = server.read_endpoint(job_dir)
    while endpoint.get("pid") != status["pid"] and status["state"] == "running" and time.monotonic() < end:
        time.sleep(0.02)
        status, endpoint = job.status(job_dir), server.read_endpoint(job_dir)
    if status["state"] != "running" or endpoint.get("pid") != status["pid"]:
        module.fail_json(msg=f"{title} does not run: {status['error'] or 'it does not listen'} (log: {status['log']}).", **result)
    urls = server.urls(params["address"], endpoint["port"], endpoint["bound"])
    return dict(result, changed=not runs, url=urls[0], urls=urls, port=endpoint["port"], pid=status["pid"], log=status["log"])


def main():
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["started", "stopped"], "default": "started"},
            "token": {"type": "str", "no_log": True},
            "address": {"type": "str", "default": ""},
            "port": {"type": "int", "default": 0},
            "incomplete": {"type": "bool", "default": False},
            "idle_seconds": {"type": "int", "default": 600},
            "job_dir": {"type": "path", "required": True},
        },
        required_if=[("state", "started", ("token",))],
        supports_check_mode=True,
    )
    params = module.params
    path, job_dir = os.path.abspath(params["path"]), os.path.abspath(params["job_dir"])
    if not 0 <= params["port"] <= 65535:
        module.fail_json(msg=f"port is {params['port']}; a number from 0 to 65535 was expected.")
    if params["idle_seconds"] < 1:
        module.fail_json(msg=f"idle_seconds is {params['idle_seconds']}; 1 or more was expected.")
    if params["state"] == "started" and len(params["token"]) < 16:
        module.fail_json(msg="token is shorter than 16 characters; make one with lookup('ansible.builtin.password', '/dev/null').")
    try:
        if params["state"] == "started":
            module.exit_json(**started(module, path, job_dir))
        there = job.status(job_dir)["state"] != "absent"
        if not module.check_mode:
            server.stop(job_dir)
        module.exit_json(changed=there)
    except job.JobError as exc:
        module.fail_json(msg=str(exc))
    except OSError as exc:
        module.fail_json(msg=f"the server of {path} can't be worked with: {exc}")


if __name__ == "__main__":
    main()
