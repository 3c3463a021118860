# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The copy engine: every method gives the same bytes, blocks are shared where they can be, failures leave nothing behind."""

from __future__ import annotations

import errno
import os
import random

import pytest
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights import copy as copying
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights import folder, gguf, plan
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.errors import WeightsError

from tests.unit.plugins.module_utils.weights import builders

MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A pair with stacks of some MB, so that windows and methods are really used: its plan, and the bytes of every file."""
    target = tmp_path_factory.mktemp("pair")
    config = dict(builders.R1_CONFIG, num_hidden_layers=2, first_k_dense_replace=1, hidden_size=256, intermediate_size=256, moe_intermediate_size=256,
                  n_routed_experts=100, num_attention_heads=2, q_lora_rank=256, kv_lora_rank=256, qk_nope_head_dim=64, v_head_dim=64, vocab_size=320)
    model = builders.parse_model(config, "")
    noise = random.Random(5)

    def some(count):  # randbytes, which Python 3.8 has not
        return noise.getrandbits(8 * count).to_bytes(count, "little")

    tensors = {name: (kind, dims, some(gguf.tensor_bytes(kind, dims))) for name, (kind, dims, _data) in builders.gguf_tensors(model).items()}
    builders.write_split_gguf(target / "gguf", builders.gguf_metadata(model), tensors, 2)
    w8a8 = {name: (dtype, shape, some(builders.bytes_of(dtype, shape)))
            for name, (dtype, shape, _data) in builders.w8a8_tensors(model, mtp=False).items()}
    builders.write_w8a8(target / "w8a8", config, w8a8, 2)
    found = plan.make_plan(2, folder.inspect(str(target / "w8a8"), 2), gguf.read_set(str(target / "gguf")), {})
    contents = {}
    for item in found.files:
        parts = [item.header()]
        for tensor in item.tensors:
            parts.append(tensor.data if tensor.data is not None else b"".join(_read(found, piece) for piece in tensor.pieces))
        contents[item.name] = b"".join(parts)
        assert len(contents[item.name]) == item.size
    assert max(map(len, contents.values())) > 3 * MEGABYTE
    return found, contents


def _read(found, piece):
    with open(found.sources[piece.source].path, "rb") as source:
        source.seek(piece.offset)
        return source.read(piece.size)


def copied(made, output, share=False, jobs=1):
    found, contents = made
    output.mkdir(exist_ok=True)
    counted = {True: 0, False: 0}

    def moved(count, shared):
        counted[shared] += count

    done = []
    copying.copy_files(list(found.files), str(output), found, 4096, share, jobs, moved, lambda item: done.append(item.name))
    assert {path.name: path.read_bytes() for path in output.iterdir()} == contents
    assert sorted(done) == sorted(contents)
    assert sum(counted.values()) == sum(map(len, contents.values()))
    return counted


def cannot(*_args):
    raise OSError(errno.EXDEV, "Invalid cross-device link")


@pytest.mark.parametrize("missing", [(), ("copy_file_range",), ("copy_file_range", "sendfile"), ("sendfile",)], ids=lambda names: "+".join(names) or "all")
@pytest.mark.parametrize("jobs", [1, 4])
def test_every_method_gives_the_same_bytes(made, tmp_path, monkeypatch, missing, jobs):
    for name in missing:
        monkeypatch.setattr(os, name, cannot)
    copied(made, tmp_path / "out", jobs=jobs)


def test_short_answers_of_the_kernel(made, tmp_path, monkeypatch):
    real = os.copy_file_range
    monkeypatch.setattr(os, "copy_file_range", lambda source, target, count, *offsets: real(source, target, min(count, 100001), *offsets))
    copied(made, tmp_path / "out")
    monkeypatch.setattr(os, "copy_file_range", lambda *_args: 0)
    copied(made, tmp_path / "again")


def test_windows(made, tmp_path, monkeypatch):
    monkeypatch.setattr(copying, "_WINDOW", 1 << 16)
    copied(made, tmp_path / "out")
    monkeypatch.setattr(copying, "_sync_file_range", None)
    copied(made, tmp_path / "again")


def test_python_3_8_of_an_old_libc_has_no_copy_file_range(made, tmp_path, monkeypatch):
    monkeypatch.delattr(os, "copy_file_range")
    copied(made, tmp_path / "out")


def test_blocks_are_shared_where_both_offsets_allow_it(made, tmp_path, monkeypatch):
    """A file system that shares, simulated: it takes whole blocks only, as XFS and btrfs do."""
    calls = []

    def clone(source, offset, target, target_offset, size):
        assert offset % 4096 == target_offset % 4096 == size % 4096 == 0 and size
        calls.append(size)
        os.pwrite(target, os.pread(source, size, offset), target_offset)
        return True

    monkeypatch.setattr(copying, "clone_range", clone)
    counted = copied(made, tmp_path / "out", share=True)
    assert len(calls) == 3 and counted[True] == sum(calls)
    assert counted[True] == sum(copying.shareable_of(item, 4096) for item in made[0].files)
    stacks = sum(tensor.size for tensor in made[0].tensors() if tensor.side == "gguf" and tensor.data is None)
    assert stacks - 2 * 4096 * 3 < counted[True] <= stacks


def test_sharing_that_fails_after_the_trial(made, tmp_path, monkeypatch):
    monkeypatch.setattr(copying, "clone_range", lambda *_args: False)
    assert copied(made, tmp_path / "out", share=True)[True] == 0


@pytest.mark.parametrize("offset, size, target, expected", [
    (0, 8192, 0, (0, 8192)), (0, 8191, 0, (0, 4096)), (100, 8192, 100, (3996, 4096)), (100, 8192, 4196, (3996, 4096)), (100, 8192, 0, (8192, 0)),
    (100, 3000, 100, (3000, 0)), (4000, 200, 8096, (96, 0)), (4096, 4096, 4096, (0, 4096)),
])
def test_shareable_bytes(offset, size, target, expected):
    assert copying.shareable_bytes(plan.Piece(0, offset, size), target, 4096) == expected


def test_the_trial_leaves_nothing(made, tmp_path):
    copying.can_share(made[0].sources[-1].path, str(tmp_path), 4096)
    assert list(tmp_path.iterdir()) == []
    assert copying.can_share(str(tmp_path / "missing"), str(tmp_path), 4096) is False
    assert copying.can_share(made[0].sources[-1].path, str(tmp_path / "missing"), 4096) is False


def failing(made, output, monkeypatch, name, exc, after=0):
    """Copy while a call of os fails; the error, with nothing half-written left behind."""
    real = getattr(os, name)
    calls = [0]

    def broken(*args):
        calls[0] += 1
        if calls[0] > after:
            raise exc
        return real(*args)

    output.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(os, name, broken)
        with pytest.raises(WeightsError) as caught:
            copying.copy_files(list(made[0].files), str(output), made[0], 4096, False, 1, lambda *_args: None, lambda _item: None)
    for path in output.iterdir():
        assert path.read_bytes() == made[1][path.name]
    return str(caught.value)


@pytest.mark.parametrize("number, words", [
    (errno.ENOSPC, "the disk became full while 1 MB were written. Make room and run the merge again: what is finished is kept"),
    (errno.EDQUOT, "the quota became full while 1 MB were written. Make room and run the merge again: what is finished is kept"),
    (errno.EFBIG, "the file system takes no file of 1 MB. Choose an output_path on XFS, ext4 or btrfs"),
    (errno.EROFS, "cannot be written: Read-only file system"),
])
@pytest.mark.parametrize("name", ["pwrite", "copy_file_range", "fsync"])
def test_a_write_that_fails(made, tmp_path, monkeypatch, number, words, name):
    message = failing(made, tmp_path / "out", monkeypatch, name, OSError(number, os.strerror(number)), after=2)
    place, _colon, said = message.partition(": ")
    assert place.startswith(str(tmp_path / "out" / "npuops-")) and place.endswith(".safetensors")
    assert said.replace(f" {made[1][os.path.basename(place)].__len__() // 1000000} MB", " 1 MB") == words


def test_a_source_that_cannot_be_read(made, tmp_path, monkeypatch):
    message = failing(made, tmp_path / "out", monkeypatch, "pread", OSError(errno.EIO, "Input/output error"), after=9)
    assert message.endswith("cannot be read: Input/output error. Check the disk")


def test_a_source_that_changes(made, tmp_path):
    found = made[0]
    sources = tuple(item._replace(mtime_ns=item.mtime_ns - 1) for item in found.sources)
    with pytest.raises(WeightsError) as caught:
        copying.copy_files(list(found.files), str(tmp_path), found._replace(sources=sources), 4096, False, 2, lambda *_args: None, lambda _item: None)
    assert str(caught.value).endswith("was changed while the merge was under way. Run the merge again when nobody writes to it")
    assert list(tmp_path.iterdir()) == []


def test_the_first_error_ends_all_threads(made, tmp_path):
    def moved(_count, _shared):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        copying.copy_files(list(made[0].files), str(tmp_path), made[0], 4096, False, 4, moved, lambda _item: None)
    assert list(tmp_path.iterdir()) == []


def test_a_partial_file_is_nothing_that_the_engine_reads(made, tmp_path):
    seen = set()
    copying.copy_files(list(made[0].files), str(tmp_path), made[0], 4096, False, 1, lambda *_args: seen.update(os.listdir(tmp_path)), lambda _item: None)
    partial = {name for name in seen if name.endswith(".partial")}
    assert partial and all(name.endswith((".partial", ".safetensors")) for name in seen)
    assert {name for name in seen if name.endswith(".safetensors")} <= set(made[1])


@pytest.mark.parametrize("raw, good", [
    (b"\0\0\x80\x3f\0\0\0\0", True), (b"\0\0\x80\xbf\xff\xff\xff\xff", True), (b"\0\0\x80\x3f\xff\xff\xff\xff", False), (b"\0\0\x80\x3f\1\0\0\0", False),
])
def test_deq_scale_is_restored_bit_for_bit(raw, good):
    tensor = plan.OutTensor("a.deq_scale", "F32", (2,), 8, (), "safetensors", "a", convert="i64_to_f32")
    raw = b"\1\2\3\4\0\0\0\0" + raw
    if good:
        assert copying.restored(raw, tensor, "file", 100) == b"\1\2\3\4" + raw[8:12]
    else:
        with pytest.raises(WeightsError) as caught:
            copying.restored(raw, tensor, "file", 100)
        assert str(caught.value) == "file: byte 108: a holds an int64 that is no float32's bits (element 1). Use deq_scale_i64: keep"
