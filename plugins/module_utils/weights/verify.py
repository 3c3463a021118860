# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The proof of a merge: the output's bytes against those of its sources.

sample reads the first, a middle and the last 256 KiB of every tensor; full reads everything, with all processors, and gives the
sha256 of every file on the way.
"""

from __future__ import annotations

import hashlib
import os
import threading
from typing import Any, Dict, List, Optional, Tuple

from ansible_collections.npuops.ktransformers.plugins.module_utils.weights import copy as copying
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.errors import WeightsError
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.files import open_regular, pread_exact
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.plan import OutFile, OutTensor, Plan
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.threads import in_threads

# Two buffers a thread: 32 threads are far more than any disk keeps busy, and take some 40 MB.
_STEP = 512 * 1024
_MAX_THREADS = 32
_SAMPLE = 256 * 1024


def _expected(tensor: OutTensor, sources: copying.Sources, first: int, count: int) -> bytes:
    """`count` bytes of a tensor from byte `first` on, from its sources."""
    if tensor.data is not None:
        return tensor.data[first:first + count]
    scale = 2 if tensor.convert else 1
    first, left = first * scale, count * scale
    parts = []
    for piece in tensor.pieces:
        if first >= piece.size:
            first -= piece.size
            continue
        take = min(left, piece.size - first)
        raw = pread_exact(sources.fd(piece.source), take, piece.offset + first, sources.path(piece.source))
        parts.append(copying.restored(raw, tensor, sources.path(piece.source), piece.offset + first) if tensor.convert else raw)
        left -= take
        first = 0
        if not left:
            break
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _spans(size: int, sample: bool) -> List[Tuple[int, int]]:
    if not sample or size <= 3 * _SAMPLE:
        return [(first, min(_STEP, size - first)) for first in range(0, size, _STEP)]
    middle = (size // 2) & ~7
    return [(0, _SAMPLE), (middle, min(_SAMPLE, size - middle)), ((size - _SAMPLE) & ~7, size - ((size - _SAMPLE) & ~7))]


def same_file(item: OutFile, output: str, sources: copying.Sources, sample: bool, moved: Any) -> Tuple[bool, Optional[str]]:
    """(whether a file is what the plan says, its sha256 when all of it was read)."""
    path = os.path.join(output, item.name)
    fd, info = open_regular(path)
    digest = hashlib.sha256()
    try:
        if info.st_size != item.size:
            return False, None
        header = pread_exact(fd, item.data_start, 0, path)
        if header != item.header():
            return False, None
        digest.update(header)
        offset = item.data_start
        for tensor in item.tensors:
            for first, count in _spans(tensor.size, sample):
                found = pread_exact(fd, count, offset + first, path)
                if found != _expected(tensor, sources, first, count):
                    return False, None
                if not sample:
                    digest.update(found)
                    os.posix_fadvise(fd, offset + first, count, os.POSIX_FADV_DONTNEED)
                moved(count)
            offset += tensor.size
    finally:
        os.close(fd)
    return True, None if sample else digest.hexdigest()


def verify(plan: Plan, output: str, mode: str, progress: Any) -> Tuple[List[str], Dict[str, Any], Dict[str, str]]:
    """Compare every file: (names of those that differ, {mode, files, bytes}, sha256 by name for mode full)."""
    sample = mode == "sample"
    total = sum(count for item in plan.files for tensor in item.tensors for _first, count in _spans(tensor.size, sample))
    sources = copying.Sources(plan)
    lock = threading.Lock()
    bad: List[str] = []
    sums: Dict[str, str] = {}
    done = [0]

    def moved(count: int) -> None:
        with lock:
            done[0] += count
            progress.update(done[0], total, f"verifying ({mode})")

    def compare(item: OutFile, _following: Optional[OutFile], _given_up: Any) -> None:
        good, digest = same_file(item, output, sources, sample, moved)
        with lock:
            if not good:
                bad.append(item.name)
            elif digest is not None:
                sums[item.name] = digest

    largest_first = sorted(plan.files, key=lambda item: item.size, reverse=True)
    try:
        in_threads(largest_first, compare, min(os.cpu_count() or 1, _MAX_THREADS))
    finally:
        sources.close()
    for side in plan.side_files:
        path = os.path.join(output, side.name)
        try:
            with open(path, "rb") as stream:
                if stream.read() != side.data:
                    bad.append(side.name)
        except OSError as exc:
            raise WeightsError(f"cannot be read: {exc.strerror}", path)
    return sorted(bad), {"mode": mode, "files": len(plan.files) + len(plan.side_files), "bytes": total}, sums
