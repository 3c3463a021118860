# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module: check mode, diff, wait, jobs that are attached to or refused, verify, absent."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest
from ansible_collections.npuops.ktransformers.plugins.module_utils import job
from ansible_collections.npuops.ktransformers.plugins.modules import gguf_safetensors_merge

from tests.unit.plugins.module_utils.weights import builders

# ansible-core 2.13, the last for Python 3.8, has none; `make matrix` deploys a whole node with that Python instead.
patch_module_args = pytest.importorskip("ansible.module_utils.testing").patch_module_args


@pytest.fixture
def call(tmp_path, capfd):
    """Run the module with the pair tiny-msmodelslim; what it returns."""
    w8a8, gguf = builders.copy_pair("tiny-msmodelslim", tmp_path, stand_in=True)

    def run(check=False, diff=False, **more):
        args = dict({"safetensors_path": str(w8a8), "gguf_path": str(gguf), "output_path": str(tmp_path / "out")}, **more)
        args.update(_ansible_check_mode=check, _ansible_diff=diff, _ansible_remote_tmp=str(tmp_path))
        with patch_module_args({key: value for key, value in args.items() if value is not ...}), pytest.raises(SystemExit):
            gguf_safetensors_merge.main()
        return json.loads(capfd.readouterr().out)

    run.output, run.w8a8, run.gguf = tmp_path / "out", w8a8, gguf
    return run


def wait_for(call, **more):
    for _attempt in range(600):
        state = job.status(str(call.output / ".npuops-merge"))["state"]
        if state != "running":
            return state
        time.sleep(0.05)
    raise AssertionError("the job does not end")


def test_merge_twice_and_absent(call):
    first = call(engine="ktransformers", config_overrides={"torch_dtype": "float16"})
    assert (first["changed"], first["reasons"], first["job"]["state"]) == (True, ["the folder holds no merge yet"], "done")
    assert first["plan"]["tensors"] == 134 and first["plan"]["files"] == 15 and first["halves"] == {"equal": 6, "compared": 6}
    assert first["bytes_copied"] == first["plan"]["bytes"] and first["copy_seconds"] > 0 and 5 < first["peak_rss_mb"] < 500
    assert first["manifest"] == str(call.output / ".npuops-merge" / "manifest.json") and os.path.exists(first["manifest"])
    assert [item["id"] for item in first["engine_problems"]] == ["engine_chat_template"]
    second = call(engine="ktransformers", config_overrides={"torch_dtype": "float16"})
    assert (second["changed"], second["reasons"], second["job"]["state"]) == (False, [], "absent")
    assert [second[key] for key in ("bytes_copied", "copy_seconds", "peak_rss_mb")] == [first[key] for key in ("bytes_copied", "copy_seconds", "peak_rss_mb")]
    listed = call(check=True, safetensors_path=..., gguf_path=..., state="absent")
    assert listed["changed"] and len(listed["removed"]) == 15 and (call.output / "config.json").exists()
    gone = call(safetensors_path=..., gguf_path=..., state="absent")
    assert gone["changed"] and gone["removed"] == listed["removed"] and not call.output.exists()
    assert call(safetensors_path=..., gguf_path=..., state="absent")["changed"] is False


def test_check_mode_shows_the_plan_and_changes_nothing(call):
    found = call(check=True, diff=True)
    assert found["changed"] and not call.output.exists()
    assert found["plan"]["disk_needed_mb"] == 3 and found["plan"]["left_out"]["mtp"] == 29
    assert "npuops-blk-00002-ffn_down_exps.safetensors  161440 bytes, 1 tensors\n" in found["diff"]["after"]
    call()
    assert call(check=True, diff=True)["changed"] is False


def test_errors_come_before_the_first_byte(call):
    found = call(engine="ktransformers")
    assert found["failed"] and not call.output.exists()
    assert found["msg"] == ("config.json has torch_dtype 'bfloat16'; expected torch_dtype 'float16'; the NPU operators take no other. "
                            "Set config_overrides: {torch_dtype: float16}")
    assert [item["id"] for item in found["engine_problems"] if item["severity"] == "error"] == ["engine_torch_dtype"]
    assert call(check=True, engine="ktransformers")["failed"]


def test_a_file_that_cannot_be_read(call):
    (call.w8a8 / "mtp.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    found = call()
    assert found["failed"] and found["msg"].startswith(f"{call.w8a8 / 'mtp.safetensors'}: byte 0: is a Git LFS pointer")
    assert not call.output.exists()


def test_verify(call):
    call()
    sample = call(verify="sample")
    assert (sample["changed"], sample["verified"]["mode"], sample["verified"]["files"]) == (False, "sample", 15)
    path = call.output / "npuops-blk-00002-ffn_up_exps.safetensors"
    before = path.stat()
    with open(path, "r+b") as target:
        target.seek(50000)
        target.write(b"damage")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert call()["changed"] is False  # size and time tell nothing
    full = call(verify="full")
    assert (full["changed"], full["reasons"]) == (True, ["npuops-blk-00002-ffn_up_exps.safetensors differs from its sources"])
    assert call(verify="full")["changed"] is False


@pytest.fixture
def slow(monkeypatch):
    """A merge that waits for a file before it goes on."""
    real = gguf_safetensors_merge.merge.execute

    def set_gate(gate):
        def execute(prepared, progress):
            while not gate.exists():
                time.sleep(0.02)
            return real(prepared, progress)

        monkeypatch.setattr(gguf_safetensors_merge.merge, "execute", execute)

    monkeypatch.setattr(job, "FIRST_WAIT", 0.2)
    return set_gate


def test_without_waiting(call, slow, tmp_path):
    slow(tmp_path / "gate")
    first = call(wait=False)
    assert (first["changed"], first["job"]["state"]) == (True, "running") and first["job"]["pid"]
    again = call(wait=False)
    assert (again["job"]["state"], again["job"]["pid"]) == ("running", first["job"]["pid"])
    other = call(wait=False, config_overrides={"torch_dtype": "float16"})
    assert other["failed"] and "is busy with the merge into" in other["msg"]
    refused = call(safetensors_path=..., gguf_path=..., state="absent")
    assert refused["failed"] and refused["msg"].startswith(f"{call.output} is still being merged (pid {first['job']['pid']})")
    (tmp_path / "gate").write_text("")
    assert wait_for(call) == "done"
    told = call(wait=False)
    assert (told["changed"], told["job"]["state"]) == (True, "done") and told["bytes_copied"] == told["plan"]["bytes"]
    assert (call(wait=False)["changed"], call()["changed"]) == (False, False)


def test_a_job_that_was_killed_goes_on(call, slow, tmp_path):
    slow(tmp_path / "gate")
    pid = call(wait=False)["job"]["pid"]
    os.kill(pid, signal.SIGKILL)
    assert wait_for(call) == "interrupted"
    (tmp_path / "gate").write_text("")
    found = call()
    assert (found["changed"], found["job"]["state"]) == (True, "done")
    assert call()["changed"] is False


def test_a_job_that_fails(call, monkeypatch):
    def execute(_prepared, _progress):
        raise gguf_safetensors_merge.WeightsError("the disk became full", "/out/x")

    with monkeypatch.context() as patch:
        patch.setattr(gguf_safetensors_merge.merge, "execute", execute)
        found = call()
    assert found["failed"] and found["msg"] == f"/out/x: the disk became full (log: {call.output}/.npuops-merge/log)"
    assert call()["changed"] is True


@pytest.mark.parametrize("more, message", [
    ({"jobs": 0}, "jobs is 0; a number from 1 to 256 was expected."),
    ({"reserve_mb": -1}, "reserve_mb is -1; 0 or more was expected."),
    ({"gguf_path": ...}, "state is present but all of the following are missing: gguf_path"),
])
def test_options(call, more, message):
    found = call(**more)
    assert found["failed"] and found["msg"] == message


def test_a_job_folder_elsewhere(call, tmp_path):
    found = call(job_dir=str(tmp_path / "jobs" / "merge"))
    assert found["changed"] and found["job"]["log"] == str(tmp_path / "jobs" / "merge" / "log")
    assert sorted(os.listdir(call.output / ".npuops-merge")) == ["manifest.json"]
