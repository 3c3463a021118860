#!/usr/bin/python
# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
---
module: ktransformers_smoke
version_added: 1.0.0
short_description: Ask the deployed model one question and judge the answer
description:
  - Starts the chat in a terminal and gives it one line, or asks the HTTP server once its port is open.
  - The answer decides, not the exit status. At the end of its input C(local_chat) exits with 1 also after good answers.
  - It is long work on the node, for loading takes minutes. It survives the loss of the connection and shows how far the loading is.
  - On failure the message says why where the cause is known, and what to do.
extends_documentation_fragment:
  - npuops.ktransformers.attributes
  - npuops.ktransformers.attributes.controller
options:
  command:
    description: The command of the chat in a terminal. It gets O(prompt) as its input.
    type: list
    elements: str
  environment:
    description: More environment variables for O(command).
    type: dict
    default: {}
  host:
    description: Where the server listens.
    type: str
    default: 127.0.0.1
  port:
    description: Port of the server. Give this or O(command).
    type: int
  model:
    description: The name of the model that the server has to offer.
    type: str
    default: DeepSeek-R1
  unit:
    description: The systemd unit of the server. Its log explains a failure, and its end ends the wait.
    type: str
  prompt:
    description: The question.
    type: str
    required: true
  expect:
    description: A word that must be in the answer, in whatever case. Any answer passes when it is empty.
    type: str
    default: ""
  max_tokens:
    description: Number of tokens that the server may answer with.
    type: int
    default: 64
  timeout:
    description: Seconds from the start until the answer is complete.
    type: int
    default: 3600
  layers:
    description: Number of the model's layers, to tell how far the loading is. 0 when it is not known.
    type: int
    default: 0
  digest:
    description: What the answer depends on. The question is not asked again while this stays the same.
    type: list
    elements: str
    required: true
  again:
    description: Ask although the answer is known, because the server was started again.
    type: bool
    default: false
  job_dir:
    description: Folder on the node for the log and the result.
    type: path
    required: true
  wait:
    description: Wait for the end. Without it the work is only started.
    type: bool
    default: true
attributes:
  check_mode:
    support: full
    description: Says whether the question would be asked.
  diff_mode:
    support: none
    description: Nothing of the node is changed.
author:
  - npuops contributors (@npuops)
"""

EXAMPLES = r"""
- name: Ask the model one question
  npuops.ktransformers.ktransformers_smoke:
    command: [/usr/local/bin/npu-chat, --max_new_tokens, "64"]
    prompt: Name the three primary colours in one sentence.
    expect: blue
    digest: ["{{ engine_digest }}"]
    job_dir: /var/lib/npuops/jobs/ktransformers-smoke
"""

RETURN = r"""
answer:
  description: The text, the numbers of tokens of question and answer, and tokens a second of both. Null before the end.
  returned: always
  type: dict
  sample: {text: 'Red, yellow and blue.', prompt_tokens: 14, prefill_rate: 41.2, tokens: 9, decode_rate: 11.8}
log_tail:
  description: The last lines of the engine's output.
  returned: on failure
  type: list
  elements: str
job:
  description: State of the work on the node.
  returned: always
  type: dict
  sample: {state: done, percent: 100.0, log: /var/lib/npuops/jobs/ktransformers-smoke/log}
"""

import hashlib
import json

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.npuops.ktransformers.plugins.module_utils import job, smoke

ANSWER = ("text", "prompt_tokens", "prefill_rate", "tokens", "decode_rate")


def digest_of(params):
    """Everything that another answer could come from."""
    asked = [params["digest"], params["command"], params["environment"], params["host"], params["port"], params["prompt"], params["expect"]]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def work_for(module):
    """The work as a function of its progress, with all it needs at hand: the module's own files may be gone meanwhile."""
    params = dict(module.params)
    if params["command"]:
        def ask(progress):
            return smoke.ask_terminal(params["job_dir"], params["command"], params["prompt"], params["expect"], params["timeout"], params["layers"],
                                      progress, params["environment"])
        return lambda progress: dict(ask(progress), made_with=params["digest"])
    systemctl, journalctl = (module.get_bin_path(name) if params["unit"] else None for name in ("systemctl", "journalctl"))

    def output(command):
        return smoke.subprocess.run(command, stdout=smoke.subprocess.PIPE, stderr=smoke.subprocess.STDOUT, check=False).stdout.decode("utf-8", "replace")

    def unit():
        shown = output([systemctl, "show", params["unit"], "--property=ActiveState,SubState,NRestarts,InvocationID"]) if systemctl else ""
        return dict(line.partition("=")[::2] for line in shown.splitlines())

    restarts = unit().get("NRestarts")

    def alive():
        state = unit()
        # systemd would go on starting it again; its first end is what there is to tell.
        return not state or (state.get("ActiveState") in ("active", "activating", "reloading") and state.get("SubState") != "auto-restart"
                             and state.get("NRestarts") == restarts)

    def log():
        if not journalctl:
            return ""
        this_start = f"_SYSTEMD_INVOCATION_ID={unit().get('InvocationID')}"
        return output([journalctl, this_start, "--lines", "400", "--output", "cat", "--no-pager"])

    def ask_server(progress):
        return smoke.ask_server(params["host"], params["port"], params["model"], params["prompt"], params["expect"], params["max_tokens"],
                                params["timeout"], params["layers"], progress, alive, log)

    return lambda progress: dict(ask_server(progress), made_with=params["digest"])


def answer_of(state):
    result = state.get("result") or {}
    return {name: result.get(name) for name in ANSWER} if result.get("text") else None


def main():
    module = AnsibleModule(
        argument_spec={
            "command": {"type": "list", "elements": "str"},
            "environment": {"type": "dict", "default": {}},
            "host": {"type": "str", "default": "127.0.0.1"},
            "port": {"type": "int"},
            "model": {"type": "str", "default": "DeepSeek-R1"},
            "unit": {"type": "str"},
            "prompt": {"type": "str", "required": True},
            "expect": {"type": "str", "default": ""},
            "max_tokens": {"type": "int", "default": 64, "no_log": False},
            "timeout": {"type": "int", "default": 3600},
            "layers": {"type": "int", "default": 0},
            "digest": {"type": "list", "elements": "str", "required": True},
            "again": {"type": "bool", "default": False},
            "job_dir": {"type": "path", "required": True},
            "wait": {"type": "bool", "default": True},
        },
        required_one_of=[("command", "port")],
        mutually_exclusive=[("command", "port")],
        supports_check_mode=True,
    )
    params = module.params
    digest = digest_of(params)
    if module.check_mode:
        state = job.status(params["job_dir"])
        module.exit_json(changed=params["again"] or not (state["state"] == "done" and state["digest"] == digest), answer=None, job=state)
    try:
        before = job.status(params["job_dir"])
        if before["state"] == "running" and before["digest"] != digest:
            job.stop(params["job_dir"])  # it asks what nobody wants to know any more
        elif before["state"] == "done" and params["again"]:
            job.reset(params["job_dir"])
        state = job.run(params["job_dir"], digest, "the smoke test of the model", work_for(module), None if params["wait"] else job.FIRST_WAIT)
    except job.JobError as exc:
        module.fail_json(msg=str(exc), answer=None, job=job.status(params["job_dir"]))
    changed = state.pop("started_here")
    if state["state"] in ("failed", "interrupted"):
        module.fail_json(msg=f"the smoke test of the model failed: {state['error']}; its log is {state['log']}", answer=answer_of(state),
                         log_tail=(state.get("result") or {}).get("log_tail", []), job=state)
    module.exit_json(changed=changed, answer=answer_of(state), job=state)


if __name__ == "__main__":
    main()
