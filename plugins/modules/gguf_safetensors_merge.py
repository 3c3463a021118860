#!/usr/bin/python
# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: gguf_safetensors_merge
short_description: Merge a GGUF's experts and a safetensors checkpoint into the folder that KTransformers loads
version_added: 1.0.0
description:
  - Takes the routed experts from a GGUF model (Q4_K_M) as they are, with their ggml type, and everything else from a safetensors checkpoint
    (W8A8, FP8 or BF16), under the names that the engine asks for. Brings along C(config.json), tokenizer and the Python files of the model.
  - Everything is decided from the files' headers, and checked, before the first byte is written - both halves complete and of one model,
    room on the disk, and with O(engine=ktransformers) all that the engine will ask for.
  - Where the file system can share blocks (XFS, btrfs) the experts take neither time nor space. Else bytes are copied by the kernel. Memory
    does not grow with the model.
  - The work runs detached on the node. A lost connection costs nothing - calling the module again attaches to it. What was finished before a
    kill or a power loss is kept.
extends_documentation_fragment:
  - npuops.ktransformers.attributes
  - npuops.ktransformers.long_work
  - npuops.ktransformers.long_work.started
options:
  safetensors_path:
    description: Folder of the safetensors checkpoint with its C(config.json). Required with O(state=present).
    type: path
  gguf_path:
    description: Folder of the GGUF model (all files of one model), or its first file. Required with O(state=present).
    type: path
  output_path:
    description: Folder of the result. It may lie in neither of the two others.
    type: path
    required: true
  safetensors_format:
    description: Format of the safetensors checkpoint. Weights of another format are refused.
    type: str
    choices: [w8a8, fp8, bf16]
    default: w8a8
  engine:
    description: Engine whose demands the result must meet; what it would stumble over fails the task before the first byte.
    type: str
    choices: [none, ktransformers]
    default: none
  transformers_version:
    description: Version of transformers that the engine uses; it decides which C(tokenizer.json) and which C(config.json) can be read.
    type: str
    default: 4.43.2
  config_overrides:
    description: Keys that are put over those of C(config.json) in the result; a key whose value is null is taken out.
    type: dict
    default: {}
  halves:
    description:
      - What to do when the two halves are not of one model. Router, post-attention norms and final norm stand in both and must be equal to
        the bit.
      - V(strict) fails, V(warn) warns, V(off) does not look.
    type: str
    choices: [strict, warn, 'off']
    default: strict
  jobs:
    description: Number of files that are written at the same time.
    type: int
    default: 1
  verify:
    description:
      - How a merge is proved. V(size) looks at sizes and times of its files, V(sample) compares parts of every tensor with its source,
        V(full) compares every byte, with all processors, and puts the sha256 of each file into the manifest.
      - A file that differs is written again.
    type: str
    choices: [size, sample, full]
    default: size
  deq_scale_i64:
    description:
      - An export with torch_dtype float16 keeps C(deq_scale) as int64 that hold the bits of a float32, which the engine would ruin.
      - V(restore) writes the float32, V(keep) the int64 as it is.
    type: str
    choices: [keep, restore]
    default: keep
  reserve_mb:
    description: Megabytes (10^6 bytes) that the merge must leave free on the disk.
    type: int
    default: 1024
  state:
    description: V(present) merges, V(absent) removes what the manifest in O(output_path) lists, and nothing else.
    type: str
    choices: [present, absent]
    default: present
  wait:
    description: Wait until the merge has ended. Else RV(job) tells how far it is, and calling the module again tells more.
    type: bool
    default: true
  job_dir:
    description: Folder for the job's state and log. Default is C(.npuops-merge) in O(output_path).
    type: path
attributes:
  check_mode:
    description: Can run in check mode and return what would be done without changing anything.
    support: full
    details: Everything is checked as without, so that it fails where the merge would fail.
  diff_mode:
    description: Returns the planned files.
    support: full
seealso:
  - module: npuops.ktransformers.weights_info
author:
  - npuops contributors (@npuops)
"""

EXAMPLES = r"""
- name: Merge DeepSeek-R1 for KTransformers
  npuops.ktransformers.gguf_safetensors_merge:
    safetensors_path: /mnt/weights/DeepSeek-R1-W8A8
    gguf_path: /mnt/weights/DeepSeek-R1-Q4_K_M
    output_path: /mnt/weights/DeepSeek-R1-q4km-w8a8
    engine: ktransformers
    config_overrides:
      torch_dtype: float16

- name: Prove the merge byte for byte
  npuops.ktransformers.gguf_safetensors_merge:
    safetensors_path: /mnt/weights/DeepSeek-R1-W8A8
    gguf_path: /mnt/weights/DeepSeek-R1-Q4_K_M
    output_path: /mnt/weights/DeepSeek-R1-q4km-w8a8
    config_overrides:
      torch_dtype: float16
    verify: full

- name: Remove the merge
  npuops.ktransformers.gguf_safetensors_merge:
    output_path: /mnt/weights/DeepSeek-R1-q4km-w8a8
    state: absent
"""

RETURN = r"""
reasons:
  description: Why the folder is not the merge yet, in words; empty when nothing is to be done.
  returned: with state present
  type: list
  elements: str
plan:
  description: The plan in numbers.
  returned: with state present
  type: dict
  contains:
    digest:
      description: What the result depends on; the same digest gives the same bytes.
      type: str
      returned: always
    files:
      description: Number of files.
      type: int
      returned: always
    tensors:
      description: Number of tensors.
      type: int
      returned: always
    bytes:
      description: Bytes of the result.
      type: int
      returned: always
    bytes_from_gguf:
      description: Bytes that come from the GGUF.
      type: int
      returned: always
    bytes_from_safetensors:
      description: Bytes that come from the safetensors checkpoint.
      type: int
      returned: always
    bytes_shareable:
      description: Bytes that the file system will share instead of copying, as a trial on one block has shown.
      type: int
      returned: always
    disk_needed_mb:
      description: Megabytes (10^6 bytes) that are still to be written.
      type: int
      returned: always
    files_kept:
      description: Files that are there already.
      type: int
      returned: always
    left_out:
      description: Source tensors that have no place in the result, by reason (mtp, expert_weights, expert_scales, gguf_only).
      type: dict
      returned: always
    side_files:
      description: Files that come along.
      type: list
      elements: str
      returned: always
problems:
  description: What the checks found about the weights, each with id, severity, observed, expected and repair.
  returned: with state present
  type: list
  elements: dict
engine_problems:
  description: What the engine would stumble over, each with id, severity, observed, expected and repair.
  returned: with state present
  type: list
  elements: dict
halves:
  description: How many of the tensors that both halves have are equal, and how many were compared.
  returned: with state present
  type: dict
  sample: {equal: 120, compared: 120}
copy_seconds:
  description: Seconds that the last merge of this folder took to write; null while it is under way.
  returned: with state present
  type: float
peak_rss_mb:
  description: Largest memory of the last merge in MB; null while it is under way.
  returned: with state present
  type: float
bytes_shared:
  description: Bytes that the last merge shared with the GGUF.
  returned: with state present
  type: int
bytes_copied:
  description: Bytes that the last merge copied.
  returned: with state present
  type: int
verified:
  description: What was compared with the sources in this run (mode, files, bytes); empty for V(size).
  returned: with state present
  type: dict
manifest:
  description: Path of the list of what was merged.
  returned: with state present
  type: str
job:
  description: The detached work.
  returned: with state present
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
removed:
  description: Files that were removed.
  returned: with state absent
  type: list
  elements: str
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.npuops.ktransformers.plugins.module_utils import job
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights import manifest, merge
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.engine import ENGINES
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.errors import WeightsError, sentence


def options_of(params):
    """Options of the library from the module's parameters."""
    return merge.Options(
        safetensors_path=os.path.abspath(params["safetensors_path"]),
        gguf_path=os.path.abspath(params["gguf_path"]),
        output_path=os.path.abspath(params["output_path"]),
        safetensors_format=params["safetensors_format"],
        engine=params["engine"],
        transformers_version=params["transformers_version"],
        config_overrides=params["config_overrides"],
        halves=params["halves"],
        jobs=params["jobs"],
        verify=params["verify"],
        reserve=params["reserve_mb"] * 1000000,
        deq_scale_i64=params["deq_scale_i64"],
    )


def job_dict(status):
    """The job's status as it is returned."""
    rate = status.get("rate")
    return {
        "state": status["state"], "percent": status.get("percent"), "rate_mb_s": round(rate / 1e6, 1) if rate else None,
        "eta_seconds": status.get("eta_seconds"), "message": status.get("message"), "pid": status.get("pid"),
        "folder": status.get("folder"), "log": status.get("log"), "digest": status.get("digest"),
    }


def base_result(prepared, status):
    """What is returned whatever happens; figures are those of the last merge that the manifest knows."""
    known = manifest.load(prepared.options.output_path)
    stats = known.stats if known and not prepared.reasons else {}
    return {
        "changed": False, "reasons": prepared.reasons, "plan": merge.summary(prepared), "problems": prepared.problems,
        "engine_problems": prepared.engine_problems, "halves": {"equal": prepared.halves.equal, "compared": prepared.halves.compared},
        "copy_seconds": stats.get("copy_seconds"), "peak_rss_mb": stats.get("peak_rss_mb"), "bytes_shared": stats.get("bytes_shared"),
        "bytes_copied": stats.get("bytes_copied"), "verified": {}, "manifest": manifest.manifest_path(prepared.options.output_path),
        "job": job_dict(status),
    }


def work_of(prepared):
    """The detached work: write what is missing; without anything missing verify, and write again what differs."""

    def work(progress):
        if prepared.reasons:
            return dict(merge.execute(prepared, progress), changed=True, reasons=prepared.reasons)
        bad, checked = merge.check_finished(prepared, progress)
        if not bad:
            return {"changed": False, "verified": checked, "reasons": []}
        again = merge.without(prepared, bad)
        return dict(merge.execute(again, progress), changed=True, reasons=again.reasons)

    return work


def present(module, options, job_dir):
    prepared = merge.prepare(options)
    status = job.status(job_dir)
    running = status["state"] == "running" and status["digest"] == prepared.plan.digest
    result = base_result(prepared, status)
    for item in prepared.problems + prepared.engine_problems:
        if item["severity"] == "warning":
            module.warn(sentence(item))
    # A merge that is under way takes the room that the check would ask for.
    if prepared.errors() and not running:
        module.fail_json(msg="\n".join(sentence(item) for item in prepared.errors()), **result)
    if module._diff and prepared.reasons:
        result["diff"] = {"before": "", "after": "\n".join(merge.listing(prepared)) + "\n", "after_header": options.output_path}
    if module.check_mode:
        return dict(result, changed=bool(prepared.reasons))
    finished = status["state"] == "done" and status["digest"] == prepared.plan.digest
    if finished and not prepared.reasons and options.verify in ("size", ((status["result"] or {}).get("verified") or {}).get("mode")):
        # Started earlier with wait=false: this call is the first to learn how it ended.
        return final(module, prepared, result, status, job_dir)
    if not prepared.reasons and options.verify == "size":
        return result
    if finished:
        job.reset(job_dir)
    title = f"the merge into {options.output_path}"
    status = job.run(job_dir, prepared.plan.digest, title, work_of(prepared), None if module.params["wait"] else job.FIRST_WAIT)
    if status["state"] == "running":
        return dict(result, changed=bool(prepared.reasons), job=job_dict(status))
    return final(module, prepared, result, status, job_dir)


def final(module, prepared, result, status, job_dir):
    """The result of a job that has ended."""
    result["job"] = job_dict(status)
    if status["state"] in ("failed", "interrupted"):
        module.fail_json(msg=f"{status['error']} (log: {status['log']})", **result)
    done = status["result"]
    if status["state"] == "done" and done is not None:
        result.update((key, done[key]) for key in ("changed", "reasons", "copy_seconds", "peak_rss_mb", "bytes_shared", "bytes_copied", "verified")
                      if key in done)
        job.reset(job_dir)  # it has been told: the next call looks at the folder itself
    return result


def main():
    module = AnsibleModule(
        argument_spec={
            "safetensors_path": {"type": "path"},
            "gguf_path": {"type": "path"},
            "output_path": {"type": "path", "required": True},
            "safetensors_format": {"type": "str", "choices": ["w8a8", "fp8", "bf16"], "default": "w8a8"},
            "engine": {"type": "str", "choices": list(ENGINES), "default": "none"},
            "transformers_version": {"type": "str", "default": "4.43.2"},
            "config_overrides": {"type": "dict", "default": {}},
            "halves": {"type": "str", "choices": ["strict", "warn", "off"], "default": "strict"},
            "jobs": {"type": "int", "default": 1},
            "verify": {"type": "str", "choices": ["size", "sample", "full"], "default": "size"},
            "deq_scale_i64": {"type": "str", "choices": ["keep", "restore"], "default": "keep"},
            "reserve_mb": {"type": "int", "default": 1024},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "wait": {"type": "bool", "default": True},
            "started": {"type": "dict"},
            "job_dir": {"type": "path"},
            "reconnect_seconds": {"type": "int", "default": 600},
        },
        required_if=[("state", "present", ("safetensors_path", "gguf_path"))],
        supports_check_mode=True,
    )
    params = module.params
    output = os.path.abspath(params["output_path"])
    job_dir = os.path.abspath(params["job_dir"]) if params["job_dir"] else manifest.work_folder(output)
    if not 1 <= params["jobs"] <= 256:
        module.fail_json(msg=f"jobs is {params['jobs']}; a number from 1 to 256 was expected.")
    if params["reserve_mb"] < 0:
        module.fail_json(msg=f"reserve_mb is {params['reserve_mb']}; 0 or more was expected.")
    try:
        if params["state"] == "absent":
            if job.status(job_dir)["state"] == "running":
                raise job.JobBusy(f"{output} is still being merged (pid {job.status(job_dir)['pid']}); wait for its end, or end that process")
            removed = merge.remove(output, module.check_mode, lambda: job.reset(job_dir))
            module.exit_json(changed=bool(removed), removed=removed)
        module.exit_json(**present(module, options_of(params), job_dir))
    except (WeightsError, job.JobError) as exc:
        module.fail_json(msg=str(exc))


if __name__ == "__main__":
    main()
