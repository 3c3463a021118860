#!/usr/bin/env python3
# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How fast a merge is, and how much memory it takes, against cp and against a plain merge with the libraries.

    python tests/benchmarks/merge.py --size 4G [--on tmpfs,ext4,xfs,btrfs] [--jobs 1,2] [--dir FOLDER]

Makes a pair (GGUF and W8A8) of about the size, then on each file system, with cold caches where this user can drop them:

    cp       `cp --reflink=never` of the merged folder, flushed to disk: the same bytes
    plain    safetensors and gguf libraries, with torch where it is installed: what one would write first
    merge    gguf_safetensors_merge, with each number of jobs

The best of some runs counts; they go in turn. Time includes planning, checks and flushing to disk, and the result is compared with its
sources (not timed). Memory is the largest resident size of the process. xfs and btrfs are made in a
loop-mounted file, which takes root and mkfs; without them the line says so. Prints one table, and exits 1 where the merge was
slower than cp (by more than --tolerance) or took more than 100 MB.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(CHECKOUT / "collections"), str(CHECKOUT)]

from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.model import parse_model  # noqa: E402
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.names import engine_name  # noqa: E402

from tests.unit.plugins.module_utils.weights import builders  # noqa: E402

MAX_MEMORY_MB = 100
HIDDEN, WIDE, LAYERS = 2048, 1024, 8

MERGE = """
import sys, json
sys.path.insert(0, {collections!r})
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights import merge
prepared = merge.prepare(merge.Options({w8a8!r}, {gguf!r}, {output!r}, jobs={jobs}, reserve=0))
assert not prepared.errors(), prepared.errors()
print(json.dumps(merge.execute(prepared, merge.Progress())))
"""

VERIFY = """
import sys
sys.path.insert(0, {collections!r})
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights import merge
prepared = merge.prepare(merge.Options({w8a8!r}, {gguf!r}, {output!r}, verify="sample", reserve=0))
assert not prepared.reasons, prepared.reasons
bad, _checked = merge.check_finished(prepared, merge.Progress())
assert not bad, bad
"""

PLAIN = """
import glob, os, sys
sys.path.insert(0, {collections!r})
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.names import engine_name
from gguf import GGUFReader
try:
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file
except ImportError:
    import numpy, safetensors
    torch = None
os.makedirs({output!r})
layers = {{}}
for path in sorted(glob.glob({w8a8!r} + "/*.safetensors")):
    if torch is not None:
        source = safe_open(path, "pt")
        found = [(name, source) for name in source.keys()]
    else:
        found = safetensors.deserialize(open(path, "rb").read())
    for name, value in found:
        if ".experts." not in name:
            new = engine_name(name)
            layers.setdefault(new.split(".")[1] if new.startswith("blk.") else "", []).append((new, name, value))
for path in sorted(glob.glob({gguf!r} + "/*.gguf")):
    for tensor in GGUFReader(path).tensors:
        if "_exps" in tensor.name:
            layers[tensor.name.split(".")[1]].append((tensor.name, None, tensor))
for layer, rows in layers.items():
    tensors = {{}}
    for new, name, value in rows:
        if name is None and torch is not None:
            tensors[new] = torch.from_numpy(value.data.reshape(-1).copy())
            tensors[new.replace("weight", "ggml_type")] = torch.tensor(int(value.tensor_type))
        elif name is None:
            tensors[new] = ("uint8", [value.data.nbytes], value.data)
            tensors[new.replace("weight", "ggml_type")] = ("int64", [], numpy.array([int(value.tensor_type)]))
        elif torch is not None:
            tensors[new] = value.get_tensor(name)
        else:
            kinds = {{"I8": "int8", "I32": "int32", "I64": "int64", "BF16": "bfloat16", "F32": "float32"}}
            tensors[new] = (kinds[value["dtype"]], value["shape"], numpy.frombuffer(value["data"], "u1"))
    target = {output!r} + "/model-%s.safetensors" % (layer or "top")
    if torch is not None:
        save_file(tensors, target)
    elif hasattr(safetensors, "TensorSpec"):
        safetensors.serialize_file({{name: safetensors.TensorSpec(dtype=dtype, shape=shape, data_ptr=data.ctypes.data, data_len=data.nbytes)
                                    for name, (dtype, shape, data) in tensors.items()}}, target)
    else:
        safetensors.serialize_file({{name: dict(dtype=dtype, shape=shape, data=data.tobytes()) for name, (dtype, shape, data) in tensors.items()}}, target)
    fd = os.open(target, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
print("torch" if torch is not None else "safetensors without torch")
"""


def size_of(text: str) -> int:
    units = {"K": 10**3, "M": 10**6, "G": 10**9}
    return int(float(text[:-1]) * units[text[-1].upper()]) if text[-1].upper() in units else int(text)


class Noise:
    """Bytes that no file system compresses or finds twice, faster than urandom."""

    def __init__(self) -> None:
        self._pool = random.Random(1).randbytes(16 << 20)
        self._count = 0

    def take(self, size: int) -> bytes:
        parts = []
        while size:
            self._count += 1
            start = self._count * 8191 % (8 << 20)
            part = self._pool[start:start + min(size, 8 << 20)]
            parts.append(struct.pack("<Q", self._count)[:len(part)] + part[8:])
            size -= len(part)
        return b"".join(parts)


def make_pair(target: Path, size: int) -> None:
    """A pair whose merge has about `size` bytes: 1 dense layer and LAYERS - 1 MoE ones. The W8A8's experts, never read, are holes."""
    one = WIDE * HIDDEN // 256 * 144
    experts = max(1, round(size * 0.96 / (3 * (LAYERS - 1) * one)))
    config = dict(builders.R1_CONFIG, num_hidden_layers=LAYERS, first_k_dense_replace=1, hidden_size=HIDDEN, intermediate_size=4096,
                  moe_intermediate_size=WIDE, n_routed_experts=experts, num_attention_heads=16, q_lora_rank=512, kv_lora_rank=256, vocab_size=4096)
    model = parse_model(config, "config.json")
    noise = Noise()
    gguf = {}
    common = {}
    for name, (kind, dims, _data) in builders.gguf_tensors(model).items():
        if "_exps" in name:
            gguf[name] = (kind, dims, noise.take(builders.tensor_bytes(kind, dims)))
        elif kind == 0:
            half = noise.take(2 * builders.tensor_bytes(kind, dims) // 4)
            # Finite bfloat16, and the same value as float32.
            half = bytes(byte & 0x3F if index % 2 else byte for index, byte in enumerate(half))
            common[name] = half
            gguf[name] = (kind, dims, b"".join(b"\0\0" + half[at:at + 2] for at in range(0, len(half), 2)))
        else:
            gguf[name] = (kind, dims, None)
    w8a8 = {}
    for name, (dtype, shape, _data) in builders.w8a8_tensors(model, mtp=False).items():
        count = builders.bytes_of(dtype, shape)
        if ".experts." in name:
            w8a8[name] = (dtype, shape, None)
        else:
            ours = common.get(engine_name(name)) if dtype == "BF16" else None
            w8a8[name] = (dtype, shape, ours if ours is not None and len(ours) == count else noise.take(count))
    builders.write_split_gguf(target / "gguf", builders.gguf_metadata(model), gguf, 3)
    builders.write_w8a8(target / "w8a8", config, w8a8, 6)


def cold(*folders: Path) -> str:
    """Empty the page cache, or at least let go of these folders' files. Returns how."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
        return "cold"
    except OSError:
        for folder in folders:
            for path in folder.rglob("*"):
                if path.is_file():
                    fd = os.open(path, os.O_RDONLY)
                    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                    os.close(fd)
        return "cold by advice"


def run(command: list[str], flush: Path | None = None) -> tuple[float, float, str]:
    """(seconds, peak memory in MB, stdout) of a command, with flushing the file system of `flush`."""
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    out = process.stdout.read()
    _pid, status, usage = os.wait4(process.pid, 0)
    process.returncode = status
    if status:
        raise SystemExit(f"{command[0]} failed")
    if flush is not None:
        subprocess.run(["sync", "-f", str(flush)], check=True)
    return time.monotonic() - start, usage.ru_maxrss * 1024 / 1e6, out.decode()


def measure(place: str, folder: Path, options: argparse.Namespace) -> tuple[list[tuple], bool]:
    rows: list[tuple] = []
    # Made by a process of its own: what this one had in memory would count as its children's peak.
    subprocess.run([sys.executable, __file__, "--make-pair", str(folder / "pair"), "--size", str(options.size)], check=True)
    w8a8, gguf = folder / "pair" / "w8a8", folder / "pair" / "gguf"
    output = folder / "out"

    def program(text: str, **more) -> list[str]:
        return [sys.executable, "-c", text.format(collections=str(CHECKOUT / "collections"), w8a8=str(w8a8), gguf=str(gguf), output=str(output), **more)]

    jobs = [int(item) for item in options.jobs.split(",")]
    merged: dict = {count: [] for count in jobs}
    copies = []
    copy = folder / "copy"
    for _attempt in range(options.repeat):  # in turn, so that what else the machine does meets all alike
        for count in jobs:
            shutil.rmtree(output, ignore_errors=True)
            cold(folder)
            seconds, _memory, out = run(program(MERGE, jobs=count))
            stats = json.loads(out)
            merged[count].append((seconds, stats["peak_rss_mb"], stats["bytes_shared"]))
        cold(folder)
        copies.append(run(["cp", "-r", "--reflink=never", str(output), str(copy)], flush=folder)[:2])
        shutil.rmtree(copy)
    amount = sum(path.stat().st_size for path in output.rglob("*.safetensors"))
    run(program(VERIFY))
    cp_seconds, cp_memory = min(copies)
    rows.append((place, "cp", cp_seconds, amount / 1e6 / cp_seconds, 1.0, cp_memory, ""))
    shutil.rmtree(output)
    cold(folder)
    try:
        plain_seconds, plain_memory, out = run([options.plain_python] + program(PLAIN)[1:])
        rows.append((place, "plain", plain_seconds, amount / 1e6 / plain_seconds, plain_seconds / cp_seconds, plain_memory, out.strip()))
    except SystemExit as exc:
        rows.append((place, "plain", 0, 0, 0, 0, f"not run: {exc}"))
    for count, attempts in merged.items():
        seconds, memory, shared = min(attempts)
        note = f"{shared / 1e6:.0f} MB shared" if shared else ""
        rows.append((place, f"merge, {count} job{'s' if count > 1 else ''}", seconds, amount / 1e6 / seconds, seconds / cp_seconds, memory, note))
    # One number of jobs that keeps up with cp is enough: more than the disk bears need not be faster.
    good = min(row[4] for row in rows if row[1].startswith("merge")) <= 1 + options.tolerance
    return rows, good and all(row[5] <= MAX_MEMORY_MB for row in rows if row[1].startswith("merge"))


class Loop:
    """A file system in a file, mounted; needs root and its mkfs."""

    def __init__(self, kind: str, base: Path, size: int) -> None:
        self.image, self.mount = base / (kind + ".img"), base / kind
        self.mount.mkdir()
        with open(self.image, "wb") as image:
            image.truncate(max(size * 5, 1500000000))
        subprocess.run(["mkfs." + kind, "-q", str(self.image)], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["mount", "-o", "loop", str(self.image), str(self.mount)], check=True)

    def close(self) -> None:
        subprocess.run(["umount", str(self.mount)], check=True)
        self.image.unlink()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--size", type=size_of, default=size_of("1G"), help="bytes of the merged folder, with K, M or G (default 1G)")
    parser.add_argument("--on", default="tmpfs,ext4,xfs,btrfs", help="file systems (ext4 stands for the one of --dir)")
    parser.add_argument("--jobs", default="1,2", help="numbers of files to be written at the same time (default 1,2)")
    parser.add_argument("--repeat", type=int, default=3, help="the best of so many runs counts (default 3)")
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()), help="folder on the disk to be measured")
    parser.add_argument("--tolerance", type=float, default=0.15, help="how much slower than cp is still good (default 0.15)")
    parser.add_argument("--plain-python", default=sys.executable, help="interpreter for the plain merge (one with torch, for example)")
    parser.add_argument("--make-pair", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make_pair is not None:
        make_pair(options.make_pair, options.size)
        return 0
    table, good = [], True
    for place in options.on.split(","):
        base = Path(tempfile.mkdtemp(prefix="merge-benchmark-", dir="/dev/shm" if place == "tmpfs" else options.dir))
        loop = None
        try:
            folder = base
            if place in ("xfs", "btrfs"):
                if os.geteuid() or not shutil.which("mkfs." + place):
                    table.append((place, "not run", 0, 0, 0, 0, f"needs root and mkfs.{place}"))
                    continue
                loop = Loop(place, base, options.size)
                folder = loop.mount
            rows, fine = measure(place, folder, options)
            table += rows
            good = good and fine
        finally:
            if loop is not None:
                loop.close()
            shutil.rmtree(base)
    print(f"{'on':7} {'what':15} {'seconds':>9} {'MB/s':>9} {'x cp':>8} {'memory MB':>10}  ")
    for row in table:
        print("%-7s %-15s %9.2f %9.0f %8.2f %10.0f  %s" % row)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
