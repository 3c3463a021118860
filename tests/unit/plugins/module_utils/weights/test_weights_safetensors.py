# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import os
import struct

import pytest
import safetensors
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.errors import WeightsError
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.safetensors import DTYPE_BITS, Tensor, bytes_of, encode_header, read_header
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.plugins.module_utils.weights.builders import FIXTURES

SAMPLES = sorted(FIXTURES.glob("*/*/*.safetensors"))


def write(path, header, data=b""):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)
    return str(path)


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: f"{path.parts[-3]}-{path.parts[-2]}-{path.stem[-20:]}")
def test_reads_what_the_library_reads(path):
    raw = path.read_bytes()
    expected = {name: (tensor["dtype"], tuple(tensor["shape"]), bytes(tensor["data"])) for name, tensor in safetensors.deserialize(raw)}
    header = read_header(str(path))
    assert {item.name: (item.dtype, item.shape, raw[item.begin:item.end]) for item in header.tensors} == expected
    assert (header.size, header.mtime_ns) == (len(raw), path.stat().st_mtime_ns)


def test_metadata_and_order(tmp_path):
    path = write(tmp_path / "x", {"__metadata__": {"format": "pt"}, "b": entry(offsets=(8, 16)), "a": entry()}, b"\0" * 16)
    header = read_header(path)
    assert header.metadata == {"format": "pt"}
    assert header.tensors == [Tensor("b", "F32", (2,), header.data_start + 8, header.data_start + 16),
                              Tensor("a", "F32", (2,), header.data_start, header.data_start + 8)]


BAD = [
    ("empty", b"", "byte 0: has 0 bytes, a safetensors file has at least 8. Bring the file again"),
    ("short", b"\1\2\3", "byte 0: has 3 bytes, a safetensors file has at least 8. Bring the file again"),
    ("lfs", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4\n",
     "byte 0: is a Git LFS pointer of a few lines, not the file itself. In the clone, run: git lfs install && git lfs pull"),
    ("gguf", b"GGUF" + b"\0" * 30, "byte 0: is a GGUF file, not a safetensors file. Swap the two folders, or correct the name"),
    ("length-huge", struct.pack("<Q", 1 << 63) + b"{}",
     "byte 0: the header claims 9223372036854775808 bytes, more than the 100000000 that the format allows; this is no safetensors file. "
     "Bring the file again"),
    ("length-long", struct.pack("<Q", 1000) + b"{}",
     "byte 0: the header claims 1000 bytes, the file has 2 after its first 8; it was cut short. Bring the file again"),
]


@pytest.mark.parametrize("raw, message", [pytest.param(raw, message, id=name) for name, raw, message in BAD])
def test_files_that_are_none(tmp_path, raw, message):
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw)
    with pytest.raises(WeightsError) as caught:
        read_header(str(path))
    assert str(caught.value) == f"{path}: {message}"
    assert (caught.value.path, caught.value.offset) == (str(path), 0)


NESTED = b'{"a":' + b"[" * 9000 + b"]" * 9000 + b"}"


def nesting_is_called() -> str:
    """Python 3.13 reads lists as deep as our limit for brackets allows, the others refuse."""
    try:
        json.loads(NESTED)
    except RecursionError:
        return "is JSON nested too deep to be what it claims"
    return "tensor 'a' lacks dtype, shape or data_offsets as the format has them"


BAD_HEADERS = [
    ("no-json", b"{nothing", "is no JSON: Expecting property name enclosed in double quotes. Bring the file again"),
    ("not-utf8", b'{"\xff": 1}', "is no UTF-8 text, so no JSON. Bring the file again"),
    ("list", b"[]", "the header is no JSON object. Bring the file again"),
    ("number", b"5", "the header is no JSON object. Bring the file again"),
    ("nested", NESTED, f"{nesting_is_called()}. Bring the file again"),
    ("lists", b'{"a":[' + b"[]," * 20000 + b"[]]}", "the header holds more lists than its 0 tensors have. Bring the file again"),
    ("twice", b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}',
     "is no JSON that can be used: 'a' stands in it twice. Bring the file again"),
    ("twice-escaped", b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"\\u0061":{"dtype":"U8","shape":[4],"data_\\u006fffsets":[4,8]}}',
     "is no JSON that can be used: 'a' stands in it twice. Bring the file again"),
    ("surrogate", b'{"\\ud800":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}}',
     "is no JSON that can be used: 'utf-8' codec can't encode character '\\ud800' in position 0: surrogates not allowed. Bring the file again"),
    ("long-number", b'{"a":{"dtype":"U8","shape":[' + b"1" * 5000 + b'],"data_offsets":[0,8]}}',
     "is no JSON that can be used: a number of 5000 digits. Bring the file again"),
    ("metadata", {"__metadata__": []}, "__metadata__ is no object. Bring the file again"),
    ("no-entry", {"a": None}, "tensor 'a' lacks dtype, shape or data_offsets as the format has them. Bring the file again"),
    ("no-offsets", {"a": {"dtype": "U8", "shape": [8]}}, "tensor 'a' lacks dtype, shape or data_offsets as the format has them. Bring the file again"),
    ("three-offsets", {"a": entry(offsets=(0, 8, 9))}, "tensor 'a' lacks dtype, shape or data_offsets as the format has them. Bring the file again"),
    ("dtype", {"a": entry("F99")}, f"tensor a has the unknown dtype 'F99'; known are {', '.join(sorted(DTYPE_BITS))}. Bring the file again"),
    ("dtype-list", {"a": entry(["F32"])}, f"tensor a has the unknown dtype ['F32']; known are {', '.join(sorted(DTYPE_BITS))}. Bring the file again"),
    ("negative", {"a": entry(offsets=(-8, 0))}, "tensor a has the offsets [-8, 0]; two numbers in ascending order were expected. Bring the file again"),
    ("backwards", {"a": entry(offsets=(8, 0))}, "tensor a has the offsets [8, 0]; two numbers in ascending order were expected. Bring the file again"),
    ("float-offset", {"a": entry(offsets=(0, 8.0))}, "tensor a has the offsets [0, 8.0]; two numbers in ascending order were expected. Bring the file again"),
    ("bool-offset", {"a": entry("U8", (1,), (False, True))},
     "tensor a has the offsets [False, True]; two numbers in ascending order were expected. Bring the file again"),
    ("shape-text", {"a": {"dtype": "U8", "shape": "8", "data_offsets": [0, 8]}},
     "tensor a has the shape '8'; a list of at most 16 numbers was expected. Bring the file again"),
    ("shape-long", {"a": entry(shape=[1] * 17)}, f"tensor a has the shape {[1] * 17!r:.80}; a list of at most 16 numbers was expected. Bring the file again"),
    ("shape-negative", {"a": entry(shape=[-2])}, "tensor a has the shape [-2]; whole numbers were expected. Bring the file again"),
    ("shape-product", {"a": entry(shape=[1 << 40, 1 << 40])},
     "tensor a has a shape of more elements than any file holds: [1099511627776, 1099511627776]. Bring the file again"),
    ("size", {"a": entry(shape=[3])}, "tensor a, F32 [3], takes 12 bytes, its offsets [0, 8] span 8. Bring the file again"),
    ("empty-name", {"": entry()}, "a tensor name of 0 characters; 1 to 1024 are allowed. Bring the file again"),
    ("long-name", {"n" * 1025: entry()}, "a tensor name of 1025 characters; 1 to 1024 are allowed. Bring the file again"),
]


@pytest.mark.parametrize("header, message", [pytest.param(header, message, id=name) for name, header, message in BAD_HEADERS])
def test_headers_that_lie(tmp_path, header, message):
    path = write(tmp_path / "x.safetensors", header, b"\0" * 8)
    with pytest.raises(WeightsError) as caught:
        read_header(path)
    assert caught.value.message == message
    assert caught.value.path == path and caught.value.offset is not None


@pytest.mark.parametrize("header, size, message", [
    pytest.param({"a": entry(), "b": entry(offsets=(4, 12))}, 12,
                 "tensors a and b overlap: one ends at byte {8}, the other begins at {4}. Bring the file again", id="overlap"),
    pytest.param({"a": entry(), "b": entry()}, 8,
                 "tensors a and b overlap: one ends at byte {8}, the other begins at {0}. Bring the file again", id="same-place"),
    pytest.param({"a": entry(), "b": entry(offsets=(12, 20))}, 20, "4 bytes between a and b belong to no tensor. Bring the file again", id="gap"),
    pytest.param({"a": entry(offsets=(8, 16))}, 16, "8 bytes between the header and a belong to no tensor. Bring the file again", id="gap-at-start"),
    pytest.param({"a": entry()}, 12, "4 bytes after the last tensor (a) belong to none. Bring the file again", id="rest"),
    pytest.param({"a": entry()}, 7, "tensor a ends at byte {8}, the file at {7}; it was cut short. Bring the file again", id="cut"),
])
def test_tensors_cover_the_data(tmp_path, header, size, message):
    path = write(tmp_path / "x.safetensors", header, b"\0" * size)
    start = 8 + len(json.dumps(header))
    for number in (0, 4, 7, 8):
        message = message.replace("{%d}" % number, str(start + number))
    with pytest.raises(WeightsError) as caught:
        read_header(path)
    assert caught.value.message == message


def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match="is no regular file .a pipe, socket or device. where a file was expected"):
        read_header(str(tmp_path / "x.safetensors"))


names = st.text(st.characters(blacklist_categories=("Cs",)), min_size=1, max_size=40).filter(lambda name: name != "__metadata__")


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(names, st.tuples(st.sampled_from(["F32", "BF16", "I8", "I64", "U8"]), st.lists(st.integers(0, 5), max_size=3)), max_size=8),
       st.sampled_from([8, 64, 4096]), st.integers(0, 4095))
def test_what_is_written_is_read(tmp_path_factory, tensors, align, phase):
    phase = phase % align & ~7
    rows = [(name, dtype, tuple(shape), bytes_of(dtype, shape)) for name, (dtype, shape) in tensors.items()]
    header = encode_header(rows, align, phase)
    assert len(header) % align == phase
    raw = header + bytes(sum(row[3] for row in rows))
    path = tmp_path_factory.mktemp("written") / "x.safetensors"
    path.write_bytes(raw)
    found = [(item.name, item.dtype, item.shape, item.end - item.begin) for item in read_header(str(path)).tensors]
    assert found == rows
    assert {name: tensor["shape"] for name, tensor in safetensors.deserialize(raw)} == {row[0]: list(row[2]) for row in rows}


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300) | st.builds(lambda raw, rest: struct.pack("<Q", len(raw)) + raw + rest, st.binary(max_size=200), st.binary(max_size=50)))
def test_any_bytes_are_read_or_refused(tmp_path_factory, raw):
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    path.write_bytes(raw)
    try:
        read_header(str(path))
    except WeightsError as exc:
        assert exc.path == str(path) and exc.offset is not None


json_values = st.recursive(st.none() | st.booleans() | st.integers(-2**70, 2**70) | st.floats() | st.text(max_size=5),
                           lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4), max_leaves=10)
entries = st.fixed_dictionaries({}, optional={"dtype": st.sampled_from(sorted(DTYPE_BITS)) | json_values,
                                              "shape": st.lists(st.integers(-1, 9), max_size=4) | json_values,
                                              "data_offsets": st.lists(st.integers(-1, 99), min_size=2, max_size=2) | json_values})


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.text(max_size=4) | st.just("__metadata__"), entries | json_values, max_size=4), st.integers(0, 100))
def test_any_header_is_read_or_refused(tmp_path_factory, header, size):
    path = write(tmp_path_factory.getbasetemp() / "header.safetensors", header, bytes(size))
    try:
        found = read_header(path)
    except WeightsError as exc:
        assert exc.path == path and exc.offset is not None
    else:
        assert all(found.data_start <= item.begin <= item.end <= found.size for item in found.tensors)


@pytest.mark.parametrize("path", SAMPLES[:3], ids=lambda path: path.stem[-20:])
def test_every_changed_byte_of_a_header_is_read_or_refused(tmp_path, path):
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    target = tmp_path / "x.safetensors"
    for position in list(range(8)) + list(range(8, 8 + length, 97)):
        for value in (0x00, 0x22, 0x39, 0x7D, 0xFF):
            with open(target, "wb") as out:
                out.write(raw[:position] + bytes([value]) + raw[position + 1:8 + length])
                out.truncate(len(raw))
            try:
                read_header(str(target))
            except WeightsError as exc:
                assert exc.path == str(target) and exc.offset is not None
