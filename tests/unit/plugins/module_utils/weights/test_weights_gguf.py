# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import shutil
import struct

import gguf as library
import pytest
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights import gguf
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.errors import WeightsError
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.plugins.module_utils.weights.builders import FIXTURES, write_gguf

SAMPLES = sorted(FIXTURES.glob("*/gguf/*.gguf"))
F32 = (0, (4,), b"\0" * 16)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_reads_what_the_library_reads(path):
    reader = library.GGUFReader(path)
    found = gguf.read_file(str(path))
    assert [(item.name, item.ggml_type, list(item.dims), item.offset, item.size) for item in found.tensors] == [
        (item.name, int(item.tensor_type), [int(dim) for dim in item.shape], int(item.data_offset), int(item.n_bytes)) for item in reader.tensors]
    for key, value in found.metadata.items():
        contents = reader.fields[key].contents()
        assert value == (len(contents) if isinstance(contents, list) else contents), key


def test_type_table_is_the_library_s():
    ours = {number: form[1:] for number, form in gguf.GGML_TYPES.items()}
    theirs = {int(kind): form for kind, form in library.GGML_QUANT_SIZES.items()}
    # A block of Q8_1 has two half floats since 2024 (ggml-common.h); the Python library still counts two floats. No file has it.
    assert theirs.pop(9) == (32, 40) and ours.pop(9) == (32, 36)
    assert ours == theirs
    assert {number: form[0] for number, form in gguf.GGML_TYPES.items()} == {int(kind): kind.name for kind in library.GGML_QUANT_SIZES}


@pytest.mark.parametrize("pair", ["tiny-a", "tiny-deepseek-v3", "tiny-msmodelslim"])
def test_a_split_model_is_one(pair):
    found = gguf.read_set(str(FIXTURES / pair / "gguf"))
    assert len(found.files) == 3 and found.metadata["split.no"] == 0
    assert len(found.tensors) == 52 == found.metadata["split.tensors.count"]
    by_file = gguf.read_set(found.files[1].path)
    assert by_file.tensors == found.tensors


@pytest.mark.parametrize("version", [2, 3])
def test_versions_alignment_and_single_files(tmp_path, version):
    path = tmp_path / "model.gguf"
    write_gguf(path, {"general.alignment": 256, "general.architecture": "x"}, {"a": F32, "b": (12, (256, 2), b"\1" * 288)}, version, 256)
    found = gguf.read_set(str(tmp_path))
    assert found.files[0].version == version
    _index, tensor = found.tensors["b"]
    assert tensor.offset % 256 == 0 and path.read_bytes()[tensor.offset:tensor.offset + tensor.size] == b"\1" * 288


def named(text):
    return struct.pack("<Q", len(text)) + text


def head(tensors=0, keys=0, version=3):
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys)


def one_tensor(name=b"a", dims=(4,), kind=0, offset=0, dim_count=None):
    dim_count = len(dims) if dim_count is None else dim_count
    return named(name) + struct.pack("<I", dim_count) + struct.pack(f"<{len(dims)}Q", *dims) + struct.pack("<IQ", kind, offset)


def key(name, kind, raw):
    return named(name) + struct.pack("<I", kind) + raw


BAD = {
    "empty": (b"", 0, "has 0 bytes, a GGUF file has at least 24. Bring it again"),
    "short": (b"GGUF\3\0\0\0", 8, "the file ends inside the number of tensors (8 bytes wanted, 0 left); it was cut short or is damaged. Bring it again"),
    "magic": (b"GGML" + b"\0" * 30, 0, "begins with b'GGML', a GGUF file with b'GGUF'. Bring the file again"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4\n", 0,
            "is a Git LFS pointer of a few lines, not the file itself. In the clone, run: git lfs install && git lfs pull"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), 4,
                   "is big-endian; the engine reads little-endian only. Convert it with: gguf-convert-endian FILE little (pip package gguf)"),
    "version-1": (head(version=1), 4, "is GGUF version 1; versions 2 and 3 can be read. Convert it with a current llama.cpp"),
    "version-9": (head(version=9), 4, "is GGUF version 9; versions 2 and 3 can be read. Convert it with a current llama.cpp"),
    "keys": (head(keys=1 << 63), 24, "claims 9223372036854775808 metadata keys, more than the file can hold. Bring it again"),
    "tensors": (head(tensors=1 << 40), 24, "claims 1099511627776 tensors, more than the file can hold. Bring it again"),
    "key-length": (head(keys=1) + struct.pack("<Q", 1 << 62), 24,
                   "metadata key 0 claims 4611686018427387904 bytes, at most 65535 are believed. Bring the file again"),
    "key-cut": (head(keys=1) + struct.pack("<Q", 60000) + b"k" * 20, 32,
                "the file ends inside metadata key 0 (60000 bytes wanted, 20 left); it was cut short or is damaged. Bring it again"),
    "value-type": (head(keys=1) + key(b"k", 77, b""), 37, "the value of k has the unknown value type 77. Bring the file again"),
    "string-length": (head(keys=1) + key(b"k", 8, struct.pack("<Q", 1 << 60)), 37,
                      "the value of k claims 1152921504606846976 bytes, at most 16777216 are believed. Bring the file again"),
    "array-of-what": (head(keys=1) + key(b"k", 9, struct.pack("<IQ", 55, 1)), 49,
                      "the value of k is an array of the unknown value type 55. Bring the file again"),
    "array-endless": (head(keys=1) + key(b"k", 9, struct.pack("<IQ", 0, 1 << 62)), 49,
                      "the value of k claims an array of 4611686018427387904 elements. Bring the file again"),
    "array-cut": (head(keys=1) + key(b"k", 9, struct.pack("<IQ", 10, 1000)), 49,
                  "the file ends inside the value of k (8000 bytes wanted, 0 left); it was cut short or is damaged. Bring it again"),
    "strings-endless": (head(keys=1) + key(b"k", 9, struct.pack("<IQ", 8, 1 << 40)), 49,
                        "the value of k claims 1099511627776 strings, more than the file can hold. Bring the file again"),
    "strings-cut": (head(keys=1) + key(b"k", 9, struct.pack("<IQ", 8, 2) + named(b"ab") + struct.pack("<Q", 99)), 67,
                    "the file ends inside the value of k (99 bytes wanted, 0 left); it was cut short or is damaged. Bring it again"),
    "arrays-endless": (head(keys=1) + key(b"k", 9, struct.pack("<IQ", 9, 1 << 40)), 49,
                       "the value of k claims 1099511627776 arrays, more than the file can hold. Bring the file again"),
    "arrays-nested": (head(keys=1) + key(b"k", 9, struct.pack("<IQ", 9, 1) * 9 + b"\0" * 99), 85,
                      "the value of k nests arrays more than 4 deep. Bring the file again"),
    "key-twice": (head(keys=2) + key(b"k", 0, b"\1") * 2, 51, "the metadata key k stands in it twice. Bring the file again"),
    "alignment": (head(keys=1) + key(b"general.alignment", 4, struct.pack("<I", 48)), 57,
                  "general.alignment is 48, a power of two was expected. Bring the file again"),
    "alignment-text": (head(keys=1) + key(b"general.alignment", 8, named(b"32")), 63,
                       "general.alignment is '32', a power of two was expected. Bring the file again"),
    "name-twice": (head(tensors=2) + one_tensor() + one_tensor(offset=32) + b"\0" * 80, 57,
                   "the tensor name 'a' is empty or stands in it twice. Bring the file again"),
    "name-empty": (head(tensors=1) + one_tensor(name=b"") + b"\0" * 80, 24, "the tensor name '' is empty or stands in it twice. Bring the file again"),
    "dimensions": (head(tensors=1) + one_tensor(dim_count=1 << 30) + b"\0" * 80, 24,
                   "tensor a claims 1073741824 dimensions, at most 4 exist. Bring the file again"),
    "dimension-zero": (head(tensors=1) + one_tensor(dims=(4, 0)) + b"\0" * 80, 24,
                       "tensor a has the dimensions [4, 0], which no file holds. Bring the file again"),
    "dimension-huge": (head(tensors=1) + one_tensor(dims=(1 << 40, 1 << 40)) + b"\0" * 80, 24,
                       "tensor a has the dimensions [1099511627776, 1099511627776], which no file holds. Bring the file again"),
    "type": (head(tensors=1) + one_tensor(kind=4) + b"\0" * 80, 24,
             "tensor a has the unknown ggml type 4. Update this collection, or quantize the model to a known type"),
    "block": (head(tensors=1) + one_tensor(kind=12, dims=(100,)) + b"\0" * 80, 24,
              "tensor a is Q4_K with rows of 100 elements, no multiple of its block of 256. Bring the file again"),
    "offset": (head(tensors=1) + one_tensor(offset=5) + b"\0" * 80, 24, "tensor a lies at offset 5, no multiple of the alignment 32. Bring the file again"),
    "overlap": (head(tensors=2) + one_tensor(dims=(16,)) + one_tensor(b"b", offset=32) + b"\0" * 160, 57, "tensors a and b overlap. Bring the file again"),
    "cut": (head(tensors=1) + one_tensor(dims=(4096,)) + b"\0" * 80, 24,
            "tensor a ends at byte 16448, the file at 137; it was cut short. Bring the file again"),
    "offset-huge": (head(tensors=1) + one_tensor(offset=1 << 63) + b"\0" * 80, 24,
                    "tensor a ends at byte 9223372036854775888, the file at 137; it was cut short. Bring the file again"),
}


@pytest.mark.parametrize("case", BAD)
def test_files_that_lie(tmp_path, case):
    raw, offset, message = BAD[case]
    path = tmp_path / "x.gguf"
    path.write_bytes(raw)
    with pytest.raises(WeightsError) as caught:
        gguf.read_file(str(path))
    assert str(caught.value) == f"{path}: byte {offset}: {message}"


def test_a_truncated_file_of_the_pair(tmp_path):
    source = SAMPLES[0]
    path = tmp_path / source.name
    shutil.copy(source, path)
    os.truncate(path, source.stat().st_size - 40000)
    with pytest.raises(WeightsError, match="tensor .* ends at byte .*; it was cut short. Bring the file again"):
        gguf.read_file(str(path))


def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "x.gguf")
    with pytest.raises(WeightsError, match="is no regular file"):
        gguf.read_set(str(tmp_path))


def copied(tmp_path):
    shutil.copytree(FIXTURES / "tiny-a" / "gguf", tmp_path / "gguf")
    return tmp_path / "gguf", sorted((tmp_path / "gguf").iterdir())


def test_a_missing_part(tmp_path):
    folder, files = copied(tmp_path)
    files[1].unlink()
    with pytest.raises(WeightsError) as caught:
        gguf.read_set(str(folder))
    assert str(caught.value) == f"{folder}: 1 of the model's GGUF files are missing: number 00002. Bring them"


def test_a_missing_first_part(tmp_path):
    folder, files = copied(tmp_path)
    files[0].unlink()
    with pytest.raises(WeightsError, match="1 of the model's GGUF files are missing: number 00001. Bring them"):
        gguf.read_set(str(folder))


def test_parts_of_another_model(tmp_path):
    folder, files = copied(tmp_path)
    shutil.copy(FIXTURES / "tiny-a" / "gguf" / files[0].name, files[2])
    with pytest.raises(WeightsError, match="missing: number 00003"):
        gguf.read_set(str(folder))


def test_parts_that_are_split_otherwise(tmp_path):
    for number, count in ((0, 2), (1, 3)):
        write_gguf(tmp_path / f"m-0000{number + 1}-of-00002.gguf", {"split.no": number, "split.count": count}, {f"t{number}": F32})
    with pytest.raises(WeightsError) as caught:
        gguf.read_set(str(tmp_path))
    assert str(caught.value) == (f"{tmp_path / 'm-00002-of-00002.gguf'}: is split otherwise than its neighbours (split.count is 2 and 3). "
                                 "Bring the files of one and the same model")


def test_two_models_in_one_folder(tmp_path):
    folder, _files = copied(tmp_path)
    write_gguf(folder / "other.gguf", {}, {"a": F32})
    with pytest.raises(WeightsError) as caught:
        gguf.read_set(str(folder))
    assert str(caught.value) == (f"{folder}: holds 2 GGUF models (other.gguf, tiny-a-Q4_K_M of 00003). Give a folder with one, or the first file "
                                 "of the one you mean")
    assert len(gguf.read_set(str(folder / "tiny-a-Q4_K_M-00001-of-00003.gguf")).tensors) == 52


def test_the_folder_above(tmp_path):
    folder, _files = copied(tmp_path)
    with pytest.raises(WeightsError) as caught:
        gguf.read_set(str(tmp_path))
    assert str(caught.value) == f"{tmp_path}: holds no GGUF file itself; the folders below it do (gguf). Give one of them"
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match="holds no GGUF file. Give the folder with the .gguf files of the Q4_K_M model"):
        gguf.read_set(str(tmp_path / "empty"))
    assert len(gguf.read_set(str(folder)).tensors) == 52


def test_old_splits_that_only_their_names_tell(tmp_path):
    write_gguf(tmp_path / "m-00001-of-00002.gguf", {}, {"a": F32})
    with pytest.raises(WeightsError, match="missing: number 00002"):
        gguf.read_set(str(tmp_path))
    write_gguf(tmp_path / "m-00002-of-00002.gguf", {}, {"a": F32})
    with pytest.raises(WeightsError, match="tensor a stands in m-00001-of-00002.gguf too. Keep one of the two files"):
        gguf.read_set(str(tmp_path))
    write_gguf(tmp_path / "m-00002-of-00002.gguf", {}, {"b": F32})
    assert list(gguf.read_set(str(tmp_path)).tensors) == ["a", "b"]


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=200) | st.builds(lambda tensors, keys, rest: head(tensors, keys) + rest, st.integers(0, 3), st.integers(0, 3),
                                           st.binary(max_size=200)))
def test_any_bytes_are_read_or_refused(tmp_path_factory, raw):
    path = tmp_path_factory.getbasetemp() / "any.gguf"
    path.write_bytes(raw)
    try:
        found = gguf.read_file(str(path))
    except WeightsError as exc:
        assert exc.path == str(path) and exc.offset is not None
    else:
        assert all(0 <= item.offset and item.offset + item.size <= len(raw) for item in found.tensors)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.text("abc.", min_size=1, max_size=5), st.integers(0, 2**32 - 1) | st.booleans() | st.text(max_size=5), max_size=4),
       st.dictionaries(st.text("xyz", min_size=1, max_size=5), st.tuples(st.sampled_from([0, 1, 8, 12, 24]), st.integers(1, 3), st.integers(1, 3)), max_size=5))
def test_what_is_written_is_read(tmp_path_factory, metadata, tensors):
    path = tmp_path_factory.getbasetemp() / "written.gguf"
    rows = {name: (kind, (gguf.GGML_TYPES[kind][1] * width, rows), None) for name, (kind, width, rows) in tensors.items()}
    write_gguf(path, metadata, rows)
    found = gguf.read_file(str(path))
    assert found.metadata == metadata
    assert [(item.name, item.ggml_type, item.dims) for item in found.tensors] == [(name, kind, dims) for name, (kind, dims, _data) in rows.items()]


def test_every_changed_byte_of_a_header_is_read_or_refused(tmp_path):
    raw = SAMPLES[1].read_bytes()
    size = gguf.read_file(str(SAMPLES[1])).tensors[0].offset
    target = tmp_path / "x.gguf"
    for position in range(0, size, 3):
        for value in (0x00, 0x7F, 0xFF):
            with open(target, "wb") as out:
                out.write(raw[:position] + bytes([value]) + raw[position + 1:size])
                out.truncate(len(raw))
            try:
                gguf.read_file(str(target))
            except WeightsError as exc:
                assert exc.path == str(target) and exc.offset is not None
