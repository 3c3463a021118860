# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The merge as a whole: nothing to do twice, killed and resumed, changed files noticed, and the way back."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights import copy as copying
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights import info, manifest, merge
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.errors import WeightsError

from tests.unit.plugins.module_utils.weights import builders
from tests.unit.plugins.module_utils.weights.builders import CHECKOUT, FIXTURES


@pytest.fixture
def options(tmp_path):
    w8a8, gguf = builders.copy_pair("tiny-msmodelslim", tmp_path)
    return merge.Options(str(w8a8), str(gguf), str(tmp_path / "out"))


def run(options):
    prepared = merge.prepare(options)
    assert prepared.errors() == []
    return merge.execute(prepared, merge.Progress())


def contents(output):
    """Every file but ours, by name."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(output.iterdir()) if path.is_file()}


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What a merge without trouble gives."""
    target = tmp_path_factory.mktemp("whole") / "out"
    pair = FIXTURES / "tiny-msmodelslim"
    run(merge.Options(str(pair / "w8a8"), str(pair / "gguf"), str(target)))
    return contents(target)


def test_a_merge(options, output, whole):
    result = run(options)
    assert contents(output) == whole
    assert result["bytes_copied"] + result["bytes_shared"] == sum(path.stat().st_size for path in output.iterdir() if path.is_file())
    assert result["copy_seconds"] >= 0 and 5 < result["peak_rss_mb"]
    assert sorted(os.listdir(output / ".npuops-merge")) == ["manifest.json"]
    known = manifest.load(str(output))
    assert {record.name: record.size for record in known.records.values()} == {name: (output / name).stat().st_size for name in whole}
    assert info.describe(str(output))["merged"]["complete"] is True


def test_a_second_time_nothing_is_to_be_done(options):
    run(options)
    again = merge.prepare(options)
    assert (again.reasons, again.needed, again.problems) == ([], 0, [])


def test_reasons_before_the_first_merge(options):
    assert merge.prepare(options).reasons == ["the folder holds no merge yet"]
    assert not os.path.exists(options.output_path)


KILLED = """
import os, signal, sys
sys.path.insert(0, {collections!r})
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights import merge

class Progress(merge.Progress):
    def update(self, done, total=None, message=None):
        if done >= {after}:
            os.kill(os.getpid(), signal.SIGKILL)

merge.execute(merge.prepare(merge.Options(*{options!r})), Progress())
"""


def killed(options, after):
    code = KILLED.format(collections=str(CHECKOUT / "collections"), after=after, options=list(options[:3]))
    return subprocess.run([sys.executable, "-c", code]).returncode


@pytest.mark.parametrize("after", [1, 100000, 333333, 1000000, 1500001, 2840000])
def test_killed_and_resumed(options, output, whole, after):
    assert killed(options, after) == -signal.SIGKILL
    assert info.describe(str(output))["merged"]["complete"] is False
    finished = {name: (output / name).stat().st_mtime_ns for name in os.listdir(output) if name in whole}
    prepared = merge.prepare(options)
    assert prepared.errors() == [] and set(prepared.kept) <= set(finished) and prepared.reasons
    # At most the file that was being recorded is done again.
    assert len(prepared.kept) >= len(finished) - 1
    merge.execute(prepared, merge.Progress())
    assert contents(output) == whole
    assert {name: (output / name).stat().st_mtime_ns for name in prepared.kept} == {name: finished[name] for name in prepared.kept}
    assert merge.prepare(options).reasons == []


def test_killed_again_and_again(options, output, whole):
    for after in (100000, 300000, 200000, 700000):
        assert killed(options, after) == -signal.SIGKILL
    run(options)
    assert contents(output) == whole


@pytest.mark.parametrize("size", [0, 100, 4096, 200000])
def test_a_power_loss_that_cut_the_last_file(options, output, whole, size):
    assert killed(options, 1500001) == -signal.SIGKILL
    last = max((path for path in output.glob("*.safetensors")), key=lambda path: path.stat().st_mtime_ns)
    os.truncate(last, min(size, last.stat().st_size - 1))
    journal = output / ".npuops-merge" / "journal.jsonl"
    os.truncate(journal, journal.stat().st_size - 7)
    prepared = merge.prepare(options)
    assert last.name not in prepared.kept
    merge.execute(prepared, merge.Progress())
    assert contents(output) == whole


def test_a_failure_keeps_what_is_finished(options, output, whole, monkeypatch):
    prepared = merge.prepare(options)
    real, count = copying.write_file, [0]

    def write_file(*args):
        count[0] += 1
        if count[0] == 5:
            raise WeightsError("the disk is full", "somewhere")
        return real(*args)

    monkeypatch.setattr(copying, "write_file", write_file)
    with pytest.raises(WeightsError, match="somewhere: the disk is full"):
        merge.execute(prepared, merge.Progress())
    monkeypatch.undo()
    again = merge.prepare(options)
    assert len(again.kept) == 4 and again.reasons == ["10 of 14 files are not there yet: npuops-blk-00001-ffn_up_exps.safetensors, ..."]
    merge.execute(again, merge.Progress())
    assert contents(output) == whole


# What is noticed


def test_a_changed_source_is_named(options, output, whole):
    run(options)
    source = sorted(os.listdir(options.gguf_path))[1]
    os.utime(os.path.join(options.gguf_path, source), ns=(5, 5))
    prepared = merge.prepare(options)
    size = os.path.getsize(os.path.join(options.gguf_path, source))
    assert prepared.reasons[0] == f"gguf file {source} was changed since the merge ({size} bytes then, {size} now)"
    assert len(prepared.kept) == 11  # only the three stacks of that file are made again
    merge.execute(prepared, merge.Progress())
    assert contents(output) == whole


@pytest.mark.parametrize("change, reason", [
    (lambda path: os.truncate(path, 100), "npuops-blk-00001.safetensors was changed since it was merged (596806 bytes then, 100 now)"),
    (lambda path: os.utime(path, ns=(1, 1)), "npuops-blk-00001.safetensors was changed since it was merged (596806 bytes then, 596806 now)"),
    (os.unlink, "1 of 14 files are not there yet: npuops-blk-00001.safetensors"),
])
def test_a_changed_output_is_named_and_made_again(options, output, whole, change, reason):
    run(options)
    change(str(output / "npuops-blk-00001.safetensors"))
    assert info.describe(str(output))["merged"]["complete"] is False
    prepared = merge.prepare(options)
    assert prepared.reasons == [reason]
    merge.execute(prepared, merge.Progress())
    assert contents(output) == whole


def flip(path, offset):
    """Change a byte without a trace in size or time."""
    before = path.stat()
    with open(path, "r+b") as target:
        target.seek(offset)
        byte = target.read(1)
        target.seek(offset)
        target.write(bytes([byte[0] ^ 255]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("mode, name, offset", [
    ("sample", "npuops-blk-00002-ffn_up_exps.safetensors", -1), ("full", "npuops-blk-00002-ffn_up_exps.safetensors", -1),
    ("full", "npuops-blk-00001.safetensors", 300000), ("sample", "npuops-model.safetensors", 20), ("sample", "tokenizer.json", 50),
])
def test_verify_finds_a_changed_byte(options, output, whole, mode, name, offset):
    run(options)
    flip(output / name, offset % (output / name).stat().st_size)
    prepared = merge.prepare(options._replace(verify=mode))
    assert prepared.reasons == []
    bad, checked = merge.check_finished(prepared, merge.Progress())
    assert bad == [name] and checked["mode"] == mode
    again = merge.without(prepared, bad)
    assert again.reasons == [f"{name} differs from its sources"]
    merge.execute(again, merge.Progress())
    assert contents(output) == whole
    assert merge.check_finished(merge.prepare(options._replace(verify=mode)), merge.Progress())[0] == []


def test_verify_full_records_the_checksums(options, output, whole):
    result = run(options._replace(verify="full"))
    assert result["verified"]["files"] == 14
    assert {record.name: record.sha256 for record in manifest.load(str(output)).records.values()} == whole


def test_a_merge_that_does_not_verify_fails_and_keeps_no_bad_file(options, output, monkeypatch):
    monkeypatch.setattr(merge.verify, "verify", lambda *_args: (["npuops-model.safetensors"], {}, {}))
    with pytest.raises(WeightsError, match="differs from its sources after the merge .npuops-model.safetensors.. Check disk and memory of this node"):
        run(options._replace(verify="full"))
    assert not (output / "npuops-model.safetensors").exists()
    assert manifest.load(str(output)) is None


def test_foreign_weights_are_refused_by_name(options, output):
    run(options)
    (output / "below").mkdir()
    (output / "below" / "npuops-model.safetensors").write_bytes(b"the engine would open this one")
    problems = merge.prepare(options).problems
    assert [(item["id"], item["severity"]) for item in problems] == [("foreign_weights", "error")]
    assert problems[0]["observed"] == f"{output} holds 1 safetensors files that this merge did not write: below/npuops-model.safetensors"
    assert info.describe(str(output))["merged"]["reason"] == "below/npuops-model.safetensors does not belong to the merge"


def test_a_folder_of_the_public_script_is_refused(options, output):
    output.mkdir()
    (output / "model-00000-of-00061.safetensors").write_bytes(b"half")
    (output / "README.md").write_text("mine")
    assert [(item["id"], item["severity"]) for item in merge.prepare(options).problems] == [("foreign_weights", "error"), ("foreign_files", "warning")]


def test_other_options_make_another_merge_of_the_same_folder(options, output, whole):
    run(options)
    changed = options._replace(config_overrides={"torch_dtype": "float16", "mla_quantize": None})
    prepared = merge.prepare(changed)
    assert prepared.reasons == ["config.json was made of other sources or options"]
    assert len(prepared.kept) == 13
    merge.execute(prepared, merge.Progress())
    config = json.loads((output / "config.json").read_text())
    assert config["torch_dtype"] == "float16" and "mla_quantize" not in config
    assert merge.prepare(changed).reasons == []
    assert {name: digest for name, digest in contents(output).items() if name != "config.json"} == {
        name: digest for name, digest in whole.items() if name != "config.json"}


def test_files_of_an_earlier_merge_go(options, output, whole):
    (FIXTURES / "stand-in" / "configuration_deepseek.py").stat()
    shutil.copy(builders.STAND_IN, options.safetensors_path)
    run(options)
    assert (output / "configuration_deepseek.py").read_bytes() == builders.STAND_IN.read_bytes()
    os.unlink(os.path.join(options.safetensors_path, "configuration_deepseek.py"))
    prepared = merge.prepare(options)
    assert prepared.reasons == ["configuration_deepseek.py is of an earlier merge"]
    merge.execute(prepared, merge.Progress())
    assert contents(output) == whole


def test_two_merges_at_once(options, output, whole):
    prepared = merge.prepare(options)
    os.makedirs(output / ".npuops-merge")
    lock = manifest.lock(str(output))
    with pytest.raises(WeightsError) as caught:
        merge.execute(prepared, merge.Progress())
    assert str(caught.value) == f"{output}: another merge is writing here. Wait for its end, or end that process"
    os.close(lock)
    run(options)
    assert contents(output) == whole


# Room


@pytest.mark.parametrize("free, reserve, saved, ids", [
    (10**9, 0, False, []), (10**9, 10**9, False, ["disk_space"]), (2 * 10**6, 0, False, ["disk_space"]),
    (16777216 + 2_300_000, 0, True, []), (16777216 + 2_300_000, 0, False, ["disk_space"]),
])
def test_room(options, monkeypatch, free, reserve, saved, ids):
    monkeypatch.setattr(copying, "free_bytes", lambda _folder: free)
    monkeypatch.setattr(copying, "can_share", lambda *_args: saved)
    assert [item["id"] for item in merge.prepare(options._replace(reserve=reserve)).problems] == ids


def test_room_counts_what_a_resume_has(options, monkeypatch):
    assert killed(options, 2000000) == -signal.SIGKILL
    prepared = merge.prepare(options)
    assert 0 < prepared.needed < 2_000_000


def test_a_read_only_disk_is_named_with_its_mount(options, monkeypatch):
    monkeypatch.setattr(merge, "read_only_mount", lambda _folder: "/mnt/weights")
    problems = merge.prepare(options).problems
    assert [(item["id"], item["observed"]) for item in problems] == [
        ("output_read_only", f"{options.output_path} would be written to /mnt/weights, which is mounted read-only"),
    ]
    assert "`mount -o remount,rw /mnt/weights`" in problems[0]["repair"]


def test_a_finished_merge_may_lie_on_a_read_only_disk(options, monkeypatch):
    run(options)
    monkeypatch.setattr(merge, "read_only_mount", lambda _folder: "/mnt/weights")
    assert merge.prepare(options).problems == []


def test_the_words_about_room(options, monkeypatch):
    monkeypatch.setattr(copying, "free_bytes", lambda _folder: 5_000_000)
    problem = merge.prepare(options._replace(reserve=7_000_000)).problems[0]
    assert problem == {
        "id": "disk_space", "severity": "error", "observed": f"the disk of {options.output_path} has 5 MB free",
        "expected": "20 MB for the merge and 7 MB to be left free", "repair": "Make room, choose an output_path on another disk, or lower reserve_mb",
    }


# Bad input


def test_swapped_folders(options):
    with pytest.raises(WeightsError) as caught:
        merge.prepare(options._replace(safetensors_path=options.gguf_path, gguf_path=options.safetensors_path))
    assert str(caught.value) == (f"{options.gguf_path}: holds GGUF files and no safetensors file. It looks as if safetensors_path and gguf_path were "
                                 "swapped: safetensors_path takes the W8A8 folder, gguf_path the Q4_K_M folder")
    with pytest.raises(WeightsError, match="holds safetensors files and no GGUF file. It looks as if gguf_path and safetensors_path were swapped"):
        merge.prepare(options._replace(gguf_path=options.safetensors_path))


def test_paths_that_do_not_exist(options):
    with pytest.raises(WeightsError, match="/nowhere: gguf_path does not exist. Correct it, or bring the weights there"):
        merge.prepare(options._replace(gguf_path="/nowhere"))


def test_an_output_that_is_a_file(options, output):
    output.write_text("a file")
    assert "output_no_folder" in [item["id"] for item in merge.prepare(options).problems]


def test_overrides_that_break_the_model(options):
    with pytest.raises(WeightsError, match="config.json with config_overrides: num_hidden_layers is 'x'; a number from 1 to 1000 was expected"):
        merge.prepare(options._replace(config_overrides={"num_hidden_layers": "x"}))


# The way back


def test_absent_removes_what_the_manifest_lists_and_nothing_else(options, output, whole):
    run(options)
    (output / "notes.txt").write_text("mine")
    assert merge.remove(str(output), dry_run=True) == sorted(whole)
    assert set(os.listdir(output)) > set(whole)
    assert merge.remove(str(output), dry_run=False) == sorted(whole)
    assert os.listdir(output) == ["notes.txt"]
    assert merge.remove(str(output), dry_run=False) == []


def test_absent_after_a_kill(options, output):
    assert killed(options, 1500001) == -signal.SIGKILL
    assert merge.remove(str(output), dry_run=False)
    assert not output.exists()


@pytest.mark.parametrize("name", ["../victim", "/etc/victim", "..", "", "a/b", 5, None])
def test_a_manifest_that_names_files_elsewhere_is_none(options, output, tmp_path, name):
    run(options)
    (tmp_path / "victim").write_text("keep")
    path = output / ".npuops-merge" / "manifest.json"
    value = json.loads(path.read_text())
    value["files"][0]["name"] = name
    path.write_text(json.dumps(value))
    assert manifest.load(str(output)) is None
    assert merge.remove(str(output), dry_run=False) == []
    assert (tmp_path / "victim").exists()


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'{"format": 99}', b'{"format": 1, "files": 5}', b'{"format": 1, "files": [5]}', b"\xff", b"[" * 99999])
def test_a_damaged_manifest_is_none(options, output, whole, raw):
    run(options)
    (output / ".npuops-merge" / "manifest.json").write_bytes(raw)
    assert manifest.load(str(output)) is None
    run(options)
    assert contents(output) == whole
