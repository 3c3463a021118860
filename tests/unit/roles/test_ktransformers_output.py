"""Reading local_chat: the answer among what is printed around it, the speed, and why it failed."""

from __future__ import annotations

import pytest
from ansible_collections.npuops.ktransformers.plugins.module_utils import engine_output
from ansible_collections.npuops.ktransformers.plugins.module_utils.engine_output import Answer

CLOSING = """
[rank:0] Eval Time
[rank:0]prompt eval count:    14 token(s)
[rank:0]prompt eval duration: 0.339805825s
[rank:0]prompt eval rate:     41.200000000 tokens/s
[rank:0]eval count:           9 token(s)
[rank:0]eval duration:        0.762711864s
[rank:0]eval rate:            11.800000000 tokens/s
"""
# As kvcache-ai/ktransformers c007d40b prints (local_chat.py, util/utils.py).
OCTOBER = "loading layer blk.60.ffn_norm to npu:0\nChat: \nRed, yellow and blue." + CLOSING + "\nChat: \n"
# As branch support-npu prints, with graph: the logits of each token, its number, and notes on the graph.
JULY = ("init process group success ------rank is 0, world_size is 1\nChat: Red, tensor([[[-1.6055,  0.8311,  2.2012,  ..., -0.4702]]], device='npu:0',\n"
        "       dtype=torch.float16)\ntensor([8021], device='npu:0')\n[rank:0]------------- NPU Graph Capture Begin -------------\n"
        "[rank:0]------------- NPU Graph Capture Finish -------------\nyellow tensor([[[1.0, ..., 2.0]]], device='npu:0', dtype=torch.float16)\n"
        "tensor([323], device='npu:0')\nand blue.[rank:0]------------- NPU Graph Destroy Begin -------------\n"
        "[rank:0]------------- NPU Graph Destroy Finish -------------\n" + CLOSING + "\nChat: ")


@pytest.mark.parametrize("text", [pytest.param(OCTOBER, id="october"), pytest.param(JULY, id="july")])
def test_the_answer_is_found_among_what_is_printed_around_it(text):
    assert engine_output.parse_answer(text) == Answer("Red, yellow and blue.", 14, 41.2, 9, 11.8)


def test_the_first_answer_counts():
    second = CLOSING.replace("41.2", "99.9")
    assert engine_output.parse_answer(OCTOBER + "Chat: \nAgain." + second) == Answer("Red, yellow and blue.", 14, 41.2, 9, 11.8)


@pytest.mark.parametrize("text, answer", [
    pytest.param("Chat: \nRed, yell", None, id="not-finished"),
    pytest.param("", None, id="nothing"),
    pytest.param("Chat: \n" + CLOSING, Answer("", 14, 41.2, 9, 11.8), id="empty"),
    pytest.param("Chat: \nSay 'Chat: ' to me." + CLOSING, Answer("Say 'Chat: ' to me.", 14, 41.2, 9, 11.8), id="prompt-in-the-answer"),
    pytest.param("Chat: \nYes\n[rank:0] Eval Time\n", Answer("Yes", None, None, None, None), id="cut-off-figures"),
])
def test_parse_answer(text, answer):
    assert engine_output.parse_answer(text) == answer


@pytest.mark.parametrize("text, layers", [
    ("", 0), ("loading layer blk.0.attn_norm to npu:0", 1), ("loading blk.2.ffn_gate_exps.weight to cpu\nloading layer blk.1.x to npu:0", 3)])
def test_loaded_layers(text, layers):
    assert engine_output.loaded_layers(text) == layers


@pytest.mark.parametrize("output, cause", [
    ("ImportError: libhccl.so: cannot open shared object file: No such file or directory", "CANN's libraries are not in the search path"),
    ("ImportError: libascend_hal.so: cannot open shared object file: No such file or directory", "the driver's libraries are not in the search path"),
    ("OSError: libatb.so: cannot open shared object file: No such file or directory", "NNAL is not installed, or not in the environment"),
    ("ModuleNotFoundError: No module named 'KTransformersOps'", "torch_npu could not be imported, or sees no NPU, and the engine fell back to CUDA"),
    ("ModuleNotFoundError: No module named 'cpuinfer_ext'", "the engine's extension is not built in this environment"),
    ("ModuleNotFoundError: No module named 'acl'\n", "CANN's Python packages are not in PYTHONPATH"),
    ("ModuleNotFoundError: No module named 'libgraph_capture'", "CAPTURE_PLUGIN_PATH names a folder without libgraph_capture"),
    ("RuntimeError: env CAPTURE_PLUGIN_PATH not exist", "the environment has no CAPTURE_PLUGIN_PATH"),
    ("RuntimeError: Do not support TASK_QUEUE_ENABLE = 2 during NPU graph capture, please export TASK_QUEUE_ENABLE=1/0.",
     "graphs cannot be captured with TASK_QUEUE_ENABLE=2"),
    ("AttributeError: module 'torch_npu' has no attribute '_npu_matmul_dequant'", "torch_npu lacks operators that this engine uses: it is the public build"),
    ("Error opening Safetensor file /w/a.safetensors: Error while deserializing header: header too large\nKeyError: 'Key x not found in Safetensor files'",
     "a weight file cannot be read"),
    ("FileNotFoundError: Weight file not found for key output", "the weights folder lacks a tensor that the engine asks for"),
    ("KeyError: 'Key blk.3.attn_norm.bias not found in Safetensor files'", "the weights folder lacks a tensor that the engine asks for"),
    ("OSError: /w does not appear to have a file named configuration_deepseek.py.", "transformers cannot read config.json of the weights folder"),
    ("Exception: data did not match any variant of untagged enum ModelWrapper at line 1", "tokenizer.json is written for a newer transformers"),
    ("ERROR: Could not consume arg: --tp", "the engine does not know one of its options"),
    ("Memory allocation failed for gate_proj_numa_ on node 3", "there is too little memory"),
    ("PermissionError: [Errno 13] Permission denied: '/dev/davinci0'", "the user may not open the NPU's devices"),
    ("OSError: [Errno 98] Address already in use", "the port is taken"),
    ("FileNotFoundError: [Errno 2] No such file or directory: './rules/a.yaml'", "the rule file is not there"),
    ("/lib/libstdc++.so.6: version `GLIBCXX_3.4.32' not found", "the environment's libstdc++ is older than what the extension was built with"),
])
def test_known_causes(output, cause):
    found = engine_output.find_cause(f"Traceback (most recent call last):\n{output}\nEOFError: EOF when reading a line")
    assert found is not None and found.cause.startswith(cause)
    assert found.remedy


def test_an_unknown_failure_shows_its_last_line():
    assert engine_output.find_cause("nobody knows") is None
    reason = engine_output.why_not(None, "", "a\nValueError: something new\n\nEOFError: EOF when reading a line\n", 1, False)
    assert reason == "the engine ended without an answer; its last line is: ValueError: something new"
    assert engine_output.explained("x", "") == "x; its last line is: nothing at all"


GOOD = Answer("Red, Yellow and blue.", 14, 41.2, 9, 11.8)


@pytest.mark.parametrize("answer, expect, timed_out, reason", [
    pytest.param(GOOD, "", False, None, id="good"),
    pytest.param(GOOD, "yellow", True, None, id="answered-in-time-is-enough"),
    pytest.param(GOOD, "green", False, "the answer does not hold 'green': Red, Yellow and blue.", id="another-answer"),
    pytest.param(None, "", True, "no answer came within 60 seconds; look at the log, or raise the time limit", id="too-slow"),
    pytest.param(Answer("", 1, 1.0, 1, 1.0), "", False, "the answer is empty; its last line is: done", id="empty"),
])
def test_why_not(answer, expect, timed_out, reason):
    assert engine_output.why_not(answer, expect, "done\n", 60, timed_out) == reason
