# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads what local_chat prints: the answer, the speed, how far the loading is, and why it failed.

The exit status says nothing: at the end of its input local_chat raises EOFError and exits with 1, also after good answers. Lines as
printed by kvcache-ai/ktransformers (util/utils.py prefill_and_generate, local_chat.py) and by its branch support-npu, which also
prints the logits of each token into the answer.
"""
from __future__ import annotations

import re
from dataclasses import dataclass
from typing import List, Optional, Pattern, Tuple

PROMPT = re.compile(r"^Chat: ?\n?", re.M)
CLOSING = re.compile(r"^\[rank:\d+\] Eval Time\s*$", re.M)
RATE = re.compile(r"^\[rank:\d+\](prompt eval|eval) rate:\s+([0-9.]+) tokens/s", re.M)
COUNT = re.compile(r"^\[rank:\d+\](prompt eval|eval) count:\s+(\d+) token", re.M)
# What support-npu prints between the words of its answer: tensors, and notes on the graph.
DUMP = re.compile(r"tensor\(\[.*?\](?:,\s*device='[^']*')?(?:,\s*dtype=[\w.]+)?\)\n?", re.S)
NOTE = re.compile(r"\[rank:\d+\]-{3,}.*\n?")
LAYER = re.compile(r"loading (?:layer )?blk\.(\d+)\.")


@dataclass(frozen=True)
class Answer:
    text: str
    prompt_tokens: Optional[int]
    prefill_rate: Optional[float]  # tokens per second
    tokens: Optional[int]
    decode_rate: Optional[float]


@dataclass(frozen=True)
class Cause:
    cause: str
    remedy: str


def _cause(pattern: str, cause: str, remedy: str) -> Tuple[Pattern[str], Cause]:
    return re.compile(pattern), Cause(cause, remedy)


# In the order in which they are looked for: the deeper cause first, since one failure prints several lines.
CAUSES: List[Tuple[Pattern[str], Cause]] = [
    _cause(r"libascend_hal\.so: cannot open", "the driver's libraries are not in the search path",
           "run the role cann again, which writes the environment, and check that the driver is installed"),
    _cause(r"lib(hccl|ascendcl|ge_runner|graph|acl_op_compiler)\.so: cannot open", "CANN's libraries are not in the search path",
           "start it with npu-exec, or run the role cann again"),
    _cause(r"lib(atb|asdops|mki)\.so: cannot open", "NNAL is not installed, or not in the environment", "run the role cann with nnal among its packages"),
    _cause(r"No module named '?KTransformersOps", "torch_npu could not be imported, or sees no NPU, and the engine fell back to CUDA",
           "look at `npu-smi info`, then at `npu-exec python -c 'import torch_npu; print(torch_npu.npu.is_available())'`"),
    _cause(r"GLIBCXX_[0-9.]+' not found", "the environment's libstdc++ is older than what the extension was built with", "run the role conda_py311 again"),
    _cause(r"No module named '?cpuinfer_ext", "the engine's extension is not built in this environment", "run the role ktransformers again"),
    _cause(r"No module named 'acl'", "CANN's Python packages are not in PYTHONPATH", "start it with npu-exec, or run the role cann again"),
    _cause(r"No module named '?libgraph_capture", "CAPTURE_PLUGIN_PATH names a folder without libgraph_capture",
           "run the role npu_graph_sink again; its folder must hold libruntime.so and libgraph_capture*"),
    _cause(r"CAPTURE_PLUGIN_PATH not exist", "the environment has no CAPTURE_PLUGIN_PATH",
           "start it with npu-chat, or set ktransformers_use_cuda_graph to false"),
    _cause(r"TASK_QUEUE_ENABLE = 2", "graphs cannot be captured with TASK_QUEUE_ENABLE=2", "take it out of ktransformers_extra_environment; 0 is right"),
    _cause(r"graph capture failed|aclmdlRICaptureBegin|207005|207008", "the runtime cannot capture this graph",
           "run the role npu_graph_sink, which puts the right libruntime.so in place; else the driver or CANN is too old"),
    _cause(r"has no attribute '_npu_\w+'", "torch_npu lacks operators that this engine uses: it is the public build",
           "install the torch_npu that is built from the adapted op-plugin (role torch_npu_opplugin)"),
    _cause(r"Error opening Safetensor file", "a weight file cannot be read", "run the role weights_merge with weights_merge_verify=full"),
    _cause(r"Weight file not found for key|not found in Safetensor files|can't find \S+ in GGUF file|Cannot find any \.gguf files",
           "the weights folder lacks a tensor that the engine asks for: it is not the merged one, or not complete",
           "check ktransformers_model_path and ktransformers_gguf_path, then run the role weights_merge again"),
    _cause(r"does not recognize this architecture|configuration_deepseek\.py", "transformers cannot read config.json of the weights folder",
           "run the role weights_merge again: the folder needs auto_map and configuration_deepseek.py"),
    _cause(r"untagged enum ModelWrapper", "tokenizer.json is written for a newer transformers", "take tokenizer.json of DeepSeek's own folder"),
    _cause(r"Could not consume arg|unrecognized arguments", "the engine does not know one of its options",
           "compare ktransformers_module and the extra options with the source tree"),
    _cause(r"[Oo]ut of memory|Memory allocation failed|MemoryError|\bKilled\b|SIGKILL|exitcode: -9|Signal 9", "there is too little memory",
           "look at `dmesg`; USE_NUMA keeps the experts once for every NUMA node"),
    _cause(r"Permission denied: '?/dev/|8020 |dcmi.*-8005", "the user may not open the NPU's devices, or another process holds them",
           "put the user into the group of /dev/davinci*, and look at `npu-smi info`"),
    _cause(r"Address already in use|EADDRINUSE|errno: 98", "the port is taken",
           "set ktransformers_master_port or ktransformers_port, or end what listens there"),
    _cause(r"No such file or directory: '[^']*\.yaml'", "the rule file is not there", "set ktransformers_optimize_config_path"),
    _cause(r"expected scalar type Half|torch_dtype", "config.json of the weights folder does not say float16",
           "set weights_merge_config_overrides to {torch_dtype: float16} and run the role weights_merge"),
    _cause(r"ERR_NO|507\d\d\d|EZ9999|E[A-Z]\d{4}", "CANN reports an error", "read the newest file below ~/ascend/log/debug/plog, only there is the cause"),
]


def parse_answer(stdout: str) -> Optional[Answer]:
    """The first answer, or None when the seven closing lines never came."""
    closing = CLOSING.search(stdout)
    if not closing:
        return None
    prompt = PROMPT.search(stdout, 0, closing.start())
    begin = prompt.end() if prompt else 0
    text = NOTE.sub("", DUMP.sub("", stdout[begin:closing.start()])).strip()
    tail = stdout[closing.start():]
    rates = {name: float(value) for name, value in reversed(RATE.findall(tail))}
    counts = {name: int(value) for name, value in reversed(COUNT.findall(tail))}
    return Answer(text, counts.get("prompt eval"), rates.get("prompt eval"), counts.get("eval"), rates.get("eval"))


def find_cause(text: str) -> Optional[Cause]:
    """The known cause that the output of a failed start matches best."""
    return next((cause for pattern, cause in CAUSES if pattern.search(text)), None)


def loaded_layers(text: str) -> int:
    """How many layers the loader has come to."""
    return max((int(number) + 1 for number in LAYER.findall(text)), default=0)


def why_not(answer: Optional[Answer], expect: str, output: str, seconds: float, timed_out: bool) -> Optional[str]:
    """Why the smoke test did not pass, as one sentence, or None when it did."""
    if answer is None:
        if timed_out:
            return f"no answer came within {seconds:.0f} seconds; look at the log, or raise the time limit"
        return explained("the engine ended without an answer", output)
    if not answer.text:
        return explained("the answer is empty", output)
    if expect and expect.lower() not in answer.text.lower():
        return f"the answer does not hold '{expect}': {answer.text[:200]}"
    return None


def explained(fact: str, output: str) -> str:
    cause = find_cause(output)
    if cause:
        return f"{fact}: {cause.cause}; {cause.remedy}"
    last = [line for line in output.splitlines() if line.strip() and not line.startswith("EOFError")]
    return f"{fact}; its last line is: {last[-1].strip() if last else 'nothing at all'}"
