"""local_chat as a process: its flags, its environment, its prompts and how it ends."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess

import pytest

from tests.unit.simulator.engine import merging

GRAPH = {"CAPTURE_PLUGIN_PATH": "ktransformers/util/npu_graph_so/x86", "TASK_QUEUE_ENABLE": "0"}
CLOSING = re.compile(r"""
\[rank:0\] Eval Time
\[rank:0\]prompt eval count:    (\d+) token\(s\)
\[rank:0\]prompt eval duration: \d+\.\d{9}s
\[rank:0\]prompt eval rate:     \d+\.\d{9} tokens/s
\[rank:0\]eval count:           (\d+) token\(s\)
\[rank:0\]eval duration:        \d+\.\d{9}s
\[rank:0\]eval rate:            \d+\.\d{9} tokens/s
""")
# The published loop prints the logits of every token, and with a graph the token: the answer lies between.
DUMP = re.compile(r"tensor\(.*?\)\n", re.DOTALL)


def answers(output: str) -> list:
    """The words of every answer."""
    texts = output.split("Chat: ")[1:]
    return [DUMP.sub("", text.partition("\n[rank:0] Eval Time")[0]).replace("\n", "").split("[rank:0]---", 1)[0] for text in texts if "Eval Time" in text]


def last_line(run) -> str:
    return run.stderr.strip().splitlines()[-1]


def test_an_answer_and_the_end_of_input(engine, merged):
    run = engine.chat(merged, "--max_new_tokens", "40", "--tp", "1", "--cpu_infer", "20", prompts="Who are you?\n")
    assert run.stdout.splitlines()[0].startswith("simulated KTransformers engine: local_chat")
    assert "start to init process group ------rank is 0, world_size is 1\ninit process group success ------rank is 0, world_size is 1" in run.stdout
    assert "Injecting model.layers.0.self_attn as ktransformers.operators.ascend.ascend_attention . KDeepseekV2AttentionW8A8A2" in run.stdout
    assert CLOSING.search(run.stdout).group(2) == "40"
    assert len(answers(run.stdout)[0].split()) >= 5
    assert (run.returncode, last_line(run)) == (1, "EOFError: EOF when reading a line")


def test_lines_blocks_and_files_of_prompts(engine, merged, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("2,13,one prompt of a file\n2,7,another\n")
    run = engine.chat(merged, "--max_new_tokens", "20", prompts=f'first\n\n"""two\nlines"""\n{prompts}\nfirst\n')
    # An empty line is asked again; a line that names a file is replaced by its lines.
    assert [count for _, count in CLOSING.findall(run.stdout)] == ["20", "20", "13", "7", "20"]
    first, block, _, last = answers(run.stdout.replace("Chat: Chat: ", "Chat: "))
    assert first == last != block


def test_the_answer_depends_on_every_kind_of_tensor(engine, merged, contents, tmp_path):
    usual = answers(engine.chat(merged, prompts="hello\n").stdout)
    for name in ("blk.2.ffn_down_exps.weight", "blk.1.attn_q_b.deq_scale", "blk.0.ffn_up.weight_scale", "output_norm.weight"):
        dtype, shape, data = contents[name]
        changed = {**contents, name: (dtype, shape, data[len(data) // 2:] + data[:len(data) // 2])}
        folder = merging.write_folder(tmp_path / name, changed)
        assert answers(engine.chat(folder, prompts="hello\n").stdout) != usual, name


def test_graph_mode(engine, merged):
    run = engine.chat(merged, "--use_cuda_graph", "True", "--max_new_tokens", "20", prompts="hello\n", **GRAPH)
    marks = re.findall(r"\[rank:0\]------------- NPU Graph (\w+ \w+) -------------", run.stdout)
    assert marks == ["Capture Begin", "Capture Finish", "Destroy Begin", "Destroy Finish"]
    assert "tensor([" in run.stdout


@pytest.mark.parametrize("flags, environment, words", [
    pytest.param(["--use_cuda_graph", "True"], {}, "RuntimeError: env CAPTURE_PLUGIN_PATH not exist", id="no-plugin-path"),
    pytest.param(["--use_cuda_graph", "false"], {}, "RuntimeError: env CAPTURE_PLUGIN_PATH not exist", id="the-word-false-is-true"),
    pytest.param(["--use_cuda_graph", "True"], {"CAPTURE_PLUGIN_PATH": "elsewhere"}, "ModuleNotFoundError: No module named 'libgraph_capture'",
                 id="no-plugin-there"),
    pytest.param(["--use_cuda_graph", "True"], {**GRAPH, "TASK_QUEUE_ENABLE": "2"},
                 "RuntimeError: Do not support TASK_QUEUE_ENABLE = 2 during NPU graph capture, please export TASK_QUEUE_ENABLE=1/0.", id="task-queue"),
    pytest.param([], {"INF_NAN_MODE_FORCE_DISABLE": "yes"}, "RuntimeError: INF_NAN_MODE_FORCE_DISABLE should be 0 or 1.", id="inf-nan"),
    pytest.param([], {"ATB_HOME_PATH": None}, "OSError: libatb.so: cannot open shared object file: No such file or directory", id="no-nnal"),
    pytest.param(["--tp", "2"], {}, "AssertionError: tensor parallel group is not initialized", id="tp-beyond-the-world"),
    pytest.param(["--prompt_file", "none.txt"], {}, "FileNotFoundError: [Errno 2] No such file or directory: 'none.txt'", id="no-prompt-file"),
    pytest.param(["--optimize_config_path", "rules/none.yaml"], {}, "FileNotFoundError: [Errno 2] No such file or directory: 'rules/none.yaml'", id="no-rule"),
    pytest.param(["--optimize_config_path", "ktransformers/optimize/optimize_rules/DeepSeek-V3-Chat.yaml"], {},
                 "ModuleNotFoundError: No module named 'ktransformers.operators.linear'", id="rule-for-cuda"),
])
def test_what_ends_it(engine, merged, flags, environment, words):
    run = engine.chat(merged, *flags, prompts="\nhello\n", **environment)
    assert (run.returncode, last_line(run)) == (1, words)


@pytest.mark.parametrize("module, text, words", [
    pytest.param("torch_npu", "raise ImportError('libhccl.so: cannot open shared object file: No such file or directory')",
                 "ImportError: libhccl.so: cannot open shared object file: No such file or directory", id="no-set_env"),
    pytest.param("torch_npu", "class npu:\n    is_available = staticmethod(lambda: False)\n",
                 "ModuleNotFoundError: No module named 'KTransformersOps'", id="no-npu"),
    pytest.param("acl", None, "ModuleNotFoundError: No module named 'acl'", id="no-acl"),
    pytest.param("cpuinfer_ext", None, "ModuleNotFoundError: No module named 'cpuinfer_ext'", id="not-built"),
])
def test_imports_fail_as_the_real_ones_do(engine, merged, module, text, words):
    path = engine.modules / module
    path.unlink() if path.is_symlink() else shutil.rmtree(path)
    if text is not None:
        engine.module(module, text)
    # From outside of the source tree's root nothing but PYTHONPATH is found, so that cpuinfer_ext beside the package does not help.
    command = engine.command(merged)
    environment = engine.environment(PYTHONPATH=f"{engine.modules}:{engine.root / 'package'}")
    (engine.root / "package").mkdir()
    (engine.root / "package" / "ktransformers").symlink_to(engine.source / "ktransformers")
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=engine.root, env=environment, timeout=60)
    assert (run.returncode, last_line(run)) == (1, words)


def test_an_unknown_flag_is_refused(engine, merged):
    run = engine.chat(merged, "--max-new-token", "3")
    assert run.returncode == 2
    assert run.stderr.startswith("ERROR: Could not consume arg: --max-new-token\n")


def test_ctrl_c_at_the_prompt_ends_it_well(engine, merged):
    # A test run in the background has SIGINT ignored, and so would its children.
    process = subprocess.Popen(engine.command(merged), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=engine.source, env=engine.environment(),
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    output = ""
    while not output.endswith("Chat: "):
        output += process.stdout.read(1)
    # A signal that comes before Python waits in read() is noticed only when read() returns: as at a keyboard, press again.
    for _ in range(100):
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=0.3)
            break
        except subprocess.TimeoutExpired:
            continue
    assert (process.wait(timeout=60), process.stdout.read()) == (0, "Exit all ranks with KeyboardInterrupt!\n")


def test_the_home_is_made_at_import_and_its_settings_kept(engine, merged):
    engine.chat(merged)
    settings = engine.home / ".ktransformers" / "config.yaml"
    assert settings.read_bytes() == (engine.source / "ktransformers" / "configs" / "config.yaml").read_bytes()
    settings.write_text("server:\n  port: 1\n")
    engine.chat(merged)
    assert settings.read_text() == "server:\n  port: 1\n"


def shortened(contents, name, keep):
    dtype, shape, data = contents[name]
    data = data[:keep]
    item = len(data) // {"F32": 4, "U8": 1, "BF16": 2}[dtype]
    return {**contents, name: (dtype, [item], data)}


@pytest.mark.parametrize("change, config, words", [
    pytest.param(lambda tensors: shortened(tensors, "blk.0.attn_q_a.deq_scale", 255 * 4), {},
                 "blk.0.attn_q_a.deq_scale has 255 elements, the operator expects 256", id="a-short-scale"),
    pytest.param(lambda tensors: shortened(tensors, "blk.1.ffn_gate_exps.weight", 100), {}, "blk.1.ffn_gate_exps.weight has 100 bytes", id="cut-experts"),
    pytest.param(lambda tensors: {**tensors, "blk.1.ffn_gate_exps.ggml_type": ("I64", [], (14).to_bytes(8, "little"))}, {},
                 "3 experts of 256 x 256 Q6_K have 161280", id="another-ggml-type"),
    pytest.param(lambda tensors: {name: tensor for name, tensor in tensors.items() if name != "blk.0.attn_q_a.deq_scale"}, {},
                 "_npu_quantize_per_tensor(): argument 'scale' must be Tensor, not NoneType", id="a-missing-deq_scale"),
    pytest.param(lambda tensors: {name: tensor for name, tensor in tensors.items() if name != "blk.0.ffn_gate.weight_scale"}, {},
                 "npu_quant_matmul(): argument 'scale' must be Tensor, not NoneType", id="a-missing-weight_scale"),
    pytest.param(dict, {"quantize": None}, "config.json has quantize None", id="not-quantized"),
    pytest.param(dict, {"torch_dtype": "bfloat16"}, "config.json has torch_dtype 'bfloat16'", id="bfloat16"),
])
def test_the_first_prompt_finds_what_loading_did_not_look_at(engine, contents, tmp_path, change, config, words):
    folder = merging.write_folder(tmp_path / "merged", change(contents))
    merging.set_config(folder, **config)
    quiet = engine.chat(folder)
    assert last_line(quiet) == "EOFError: EOF when reading a line"
    run = engine.chat(folder, prompts="hello\n")
    assert run.returncode == 1
    assert words in last_line(run)


def test_a_public_torch_npu_fails_at_the_first_prompt(engine, merged):
    path = engine.modules / "torch_npu" / "__init__.py"
    path.write_text(path.read_text().rpartition("_npu_matmul_dequant")[0])
    assert last_line(engine.chat(merged)) == "EOFError: EOF when reading a line"
    assert last_line(engine.chat(merged, prompts="hello\n")) == "AttributeError: module 'torch_npu' has no attribute '_npu_matmul_dequant'"


def test_a_pristine_libruntime_cannot_capture(engine, merged):
    (engine.toolkit / "lib64" / "libruntime.so").write_bytes(b"\x7fELF the toolkit's own")
    run = engine.chat(merged, "--use_cuda_graph", "True", prompts="hello\n", **GRAPH)
    assert "NPU graph capture failed" in last_line(run)


def test_scales_that_are_ruined_silently_answer_nothing(engine, contents, tmp_path):
    changed = {name: ("I64", shape, b"".join(data[at:at + 4] + bytes(4) for at in range(0, len(data), 4))) if name.endswith(".deq_scale")
               else (dtype, shape, data) for name, (dtype, shape, data) in contents.items()}
    run = engine.chat(merging.write_folder(tmp_path / "merged", changed), "--max_new_tokens", "10", prompts="hello\n")
    assert "nan" in run.stdout
    assert answers(run.stdout) == [""]


def test_without_numpy_a_digest_answers(engine, merged, contents, tmp_path):
    engine.module("numpy", '__version__ = "1.26.4"\n')
    run = engine.chat(merged, prompts="hello\n")
    assert "no numpy here: answers come from a SHA-256" in run.stdout
    words = re.findall(r"[A-Za-z]{5} ", "".join(answers(run.stdout)))
    assert len(words) == 12
    dtype, shape, data = contents["blk.2.ffn_up_exps.weight"]
    folder = merging.write_folder(tmp_path / "other", {**contents, "blk.2.ffn_up_exps.weight": (dtype, shape, data[:-1] + b"\0")})
    assert answers(engine.chat(folder, prompts="hello\n").stdout) != answers(run.stdout)
