# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Moving the bytes: share blocks where the file system can, else let the kernel copy, else read and write.

A file is written beside its place under a name that the engine does not read, flushed, and renamed.
"""

from __future__ import annotations

import array
import ctypes
import errno
import fcntl
import os
import struct
import sys
import tempfile
import threading
from typing import Any, Callable, Dict, List, Optional, Tuple

from ansible_collections.npuops.ktransformers.plugins.module_utils.weights import manifest
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.errors import WeightsError
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.files import open_regular, pread_exact
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.plan import OutFile, OutTensor, Piece, Plan
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.threads import in_threads

# linux/fs.h: _IOW(0x94, 13, struct file_clone_range {s64 src_fd; u64 src_offset, src_length, dest_offset}). It shares or fails, where
# copy_file_range may also copy: so we know what was shared.
FICLONERANGE = 0x4020940D
_WINDOW = 32 * 1024 * 1024
_BUFFER = 1024 * 1024
# Smaller pieces are not worth a system call of their own for the kernel to copy.
_SMALL = 256 * 1024
# A method that answers so cannot do it here; another may.
_CANNOT = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF, errno.ENOTTY, errno.ETXTBSY, errno.EIO}

_sync_file_range: Any = None
try:
    _sync_file_range = ctypes.CDLL(None, use_errno=True).sync_file_range
    _sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
except (AttributeError, OSError):
    _sync_file_range = None  # a libc without it: the kernel decides when to write

Moved = Callable[[int, bool], None]


def clone_range(source: int, offset: int, target: int, target_offset: int, size: int) -> bool:
    """Share `size` bytes; False where that cannot be done. All three numbers must be multiples of the block size."""
    try:
        fcntl.ioctl(target, FICLONERANGE, struct.pack("qQQQ", source, offset, size, target_offset))
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        return False
    return True


def block_size(folder: str) -> int:
    """Block size in bytes by which a folder's file system can share (power of two, 4096 at least)."""
    size = 4096
    try:
        found = os.statvfs(folder).f_bsize
    except OSError:
        return size
    while size < found and size < 65536:
        size *= 2
    return size


def can_share(source: str, folder: str, block: int) -> bool:
    """Try it: share one block of `source` with a nameless file in `folder`."""
    try:
        fd, info = open_regular(source)
    except WeightsError:
        return False
    try:
        if info.st_size < block:
            return False
        with tempfile.TemporaryFile(dir=folder) as target:
            return clone_range(fd, 0, target.fileno(), 0, block)
    except OSError:
        return False
    finally:
        os.close(fd)


def shareable_bytes(piece: Piece, target_offset: int, block: int) -> Tuple[int, int]:
    """(bytes before the first shareable block, bytes of shareable blocks) of a piece that goes to `target_offset`."""
    if (piece.offset - target_offset) % block:
        return piece.size, 0
    head = -piece.offset % block
    if head >= piece.size:
        return piece.size, 0
    return head, (piece.size - head) // block * block


def shareable_of(item: OutFile, block: int) -> int:
    """Bytes of a file that need no room where blocks can be shared."""
    total, offset = 0, item.data_start
    for tensor in item.tensors:
        if tensor.side == "gguf" and tensor.data is None:
            position = offset
            for piece in tensor.pieces:
                total += shareable_bytes(piece, position, block)[1]
                position += piece.size
        offset += tensor.size
    return total


class Sources:
    """Open descriptors of the sources, shared by the threads; a source that is no longer the planned one is an error."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._open: Dict[int, int] = {}
        self._lock = threading.Lock()

    def fd(self, number: int) -> int:
        with self._lock:
            if number not in self._open:
                source = self._plan.sources[number]
                fd, info = open_regular(source.path)
                if (info.st_size, info.st_mtime_ns) != (source.size, source.mtime_ns):
                    os.close(fd)
                    raise WeightsError("was changed while the merge was under way. Run the merge again when nobody writes to it", source.path)
                self._open[number] = fd
            return self._open[number]

    def path(self, number: int) -> str:
        return self._plan.sources[number].path

    def close(self) -> None:
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()


class ReadAhead:
    """Has the kernel read what a file will need next: its tensors lie scattered over the sources."""

    def __init__(self, item: OutFile, sources: Sources, share: bool) -> None:
        self._sources = sources
        # What will be shared is not read.
        self._pieces = [piece for tensor in item.tensors if not (share and tensor.side == "gguf") for piece in tensor.pieces]
        self._next, self._within, self._asked = 0, 0, 0

    def reach(self, done: int) -> None:
        """Ask for everything up to two windows after the first `done` bytes."""
        while self._asked < done + 2 * _WINDOW and self._next < len(self._pieces):
            piece = self._pieces[self._next]
            count = min(_WINDOW, piece.size - self._within)
            os.posix_fadvise(self._sources.fd(piece.source), piece.offset + self._within, count, os.POSIX_FADV_WILLNEED)
            self._asked += count
            self._within += count
            if self._within == piece.size:
                self._next, self._within = self._next + 1, 0


class Target:
    """One file that is being written."""

    def __init__(self, path: str, moved: Moved, ahead: ReadAhead) -> None:
        self.path = path
        self.ahead = ahead
        self.moved = moved
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        self.offset = 0
        self._flushed = 0
        self._settled = 0

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            done = os.pwrite(self.fd, view, self.offset)
            self.offset += done
            view = view[done:]
            self.moved(done, False)
        self.settle(False)

    def settle(self, end: bool) -> None:
        """Start writing out what is new, and let go of what is on disk: a 400 GB job must not push everything else out of memory."""
        if _sync_file_range is None or not (end or self.offset - self._flushed >= _WINDOW):
            return
        _sync_file_range(self.fd, self._flushed, self.offset - self._flushed, 2)  # SYNC_FILE_RANGE_WRITE: start, do not wait
        if self._flushed > self._settled:
            # The window before: wait for it (WAIT_BEFORE | WRITE | WAIT_AFTER), so that at most two windows are dirty.
            _sync_file_range(self.fd, self._settled, self._flushed - self._settled, 7)
            os.posix_fadvise(self.fd, self._settled, self._flushed - self._settled, os.POSIX_FADV_DONTNEED)
        self._settled, self._flushed = self._flushed, self.offset

    def close(self) -> None:
        os.close(self.fd)


class Copier:
    """Copies ranges with the best method that works; methods that failed once are not tried again for the same pair of devices."""

    def __init__(self, sources: Sources, block: int, share: bool) -> None:
        self.sources = sources
        self.block = block
        self.share = share
        self._useless: set = set()

    def piece(self, piece: Piece, target: Target) -> None:
        source = self.sources.fd(piece.source)
        path = self.sources.path(piece.source)
        offset, left = piece.offset, piece.size
        if self.share and piece.size >= self.block:
            head, middle = shareable_bytes(piece, target.offset, self.block)
            if middle:
                self._range(source, path, offset, head, target)
                if clone_range(source, offset + head, target.fd, target.offset, middle):
                    target.offset += middle
                    target.moved(middle, True)
                    offset, left = offset + head + middle, left - head - middle
                else:
                    offset, left = offset + head, left - head
        self._range(source, path, offset, left, target)

    def _range(self, source: int, path: str, offset: int, size: int, target: Target) -> None:
        target.ahead.reach(target.offset)
        if size <= _SMALL:
            target.write(pread_exact(source, size, offset, path))
            return
        end = offset + size
        while offset < end:
            step = min(_WINDOW, end - offset)
            self._window(source, path, offset, step, target)
            os.posix_fadvise(source, offset, step, os.POSIX_FADV_DONTNEED)
            offset += step
            target.ahead.reach(target.offset)

    def _window(self, source: int, path: str, offset: int, size: int, target: Target) -> None:
        end = offset + size
        for method in (self._by_copy_file_range, self._by_sendfile):
            if method.__name__ in self._useless:
                continue
            while offset < end:
                try:
                    done = method(source, offset, target, end - offset)
                except OSError as exc:
                    if exc.errno not in _CANNOT:
                        raise
                    done = 0
                if not done:
                    self._useless.add(method.__name__)
                    break
                offset += done
                target.offset += done
                target.moved(done, False)
            if offset == end:
                break
        while offset < end:
            data = pread_exact(source, min(_BUFFER, end - offset), offset, path)
            target.write(data)
            offset += len(data)
        target.settle(False)

    @staticmethod
    def _by_copy_file_range(source: int, offset: int, target: Target, size: int) -> int:
        # Python has it since 3.8, and only where its libc had it.
        if not hasattr(os, "copy_file_range"):
            return 0
        return os.copy_file_range(source, target.fd, size, offset, target.offset)

    @staticmethod
    def _by_sendfile(source: int, offset: int, target: Target, size: int) -> int:
        os.lseek(target.fd, target.offset, os.SEEK_SET)
        return os.sendfile(target.fd, source, offset, size)


def restored(raw: bytes, tensor: OutTensor, path: str, offset: int) -> bytes:
    """float32 from the int64 in which an export with torch_dtype float16 keeps its bits (torch_npu's deq_scale)."""
    halves = array.array("I", raw)
    if sys.byteorder != "little":
        halves.byteswap()
    low, high = halves[0::2], halves[1::2]
    for index, value in enumerate(high):
        # Sign extension of a negative float32's bits gives all ones.
        if value and not (value == 0xFFFFFFFF and low[index] >> 31):
            raise WeightsError(f"{tensor.source_name} holds an int64 that is no float32's bits (element {index}). Use deq_scale_i64: keep",
                               path, offset + 8 * index)
    if sys.byteorder != "little":
        low.byteswap()
    return low.tobytes()


def write_file(item: OutFile, output: str, sources: Sources, copier: Copier, moved: Moved, following: Optional[OutFile] = None) -> None:
    """Write one file of the plan: beside, flushed, renamed. Leaves no part behind when it fails.

    following: the file that this thread will probably write next.
    """
    partial = os.path.join(output, "." + item.name + manifest.PARTIAL)
    final = os.path.join(output, item.name)
    try:
        target = Target(partial, moved, ReadAhead(item, sources, copier.share))
        try:
            target.write(item.header())
            for tensor in item.tensors:
                _write_tensor(tensor, target, sources, copier)
            if target.offset != item.size:
                raise WeightsError(f"has {target.offset} bytes where {item.size} were planned; report this as a bug", partial)
            target.settle(True)
            if following is not None:
                ReadAhead(following, sources, copier.share).reach(0)
            os.fsync(target.fd)
            os.posix_fadvise(target.fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            target.close()
        os.replace(partial, final)
    except BaseException as exc:
        try:
            os.unlink(partial)
        except OSError:
            pass
        if isinstance(exc, OSError):
            raise write_error(exc, final, item.size)
        raise


def _write_tensor(tensor: OutTensor, target: Target, sources: Sources, copier: Copier) -> None:
    if tensor.data is not None:
        target.write(tensor.data)
    elif tensor.convert == "i64_to_f32":
        for piece in tensor.pieces:
            raw = pread_exact(sources.fd(piece.source), piece.size, piece.offset, sources.path(piece.source))
            target.write(restored(raw, tensor, sources.path(piece.source), piece.offset))
    else:
        for piece in tensor.pieces:
            copier.piece(piece, target)


def write_error(exc: OSError, path: str, size: int) -> WeightsError:
    """What a failed write means to the user."""
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        room = "the quota" if exc.errno == errno.EDQUOT else "the disk"
        return WeightsError(f"{room} became full while {size // 1000000} MB were written. Make room and run the merge again: what is finished is kept", path)
    if exc.errno == errno.EFBIG:
        return WeightsError(f"the file system takes no file of {size // 1000000} MB. Choose an output_path on XFS, ext4 or btrfs", path)
    return WeightsError(f"cannot be written: {exc.strerror or exc}", path)


def copy_files(items: List[OutFile], output: str, plan: Plan, block: int, share: bool, jobs: int, moved: Moved,
               finished: Callable[[OutFile], None]) -> None:
    """Write the files with `jobs` threads; finished is called (one at a time) for each. The first error ends all and is raised."""
    sources = Sources(plan)
    copier = Copier(sources, block, share)
    lock = threading.Lock()

    def write(item: OutFile, following: Optional[OutFile], given_up: Callable[[], bool]) -> None:
        def counted(count: int, shared: bool) -> None:
            if given_up():
                raise WeightsError("ended because another file failed")
            with lock:
                moved(count, shared)

        write_file(item, output, sources, copier, counted, following)
        with lock:
            finished(item)

    try:
        in_threads(items, write, jobs)
    finally:
        sources.close()


def nearest_folder(path: str) -> str:
    """The path itself, or the closest parent that exists."""
    while not os.path.isdir(path):
        parent = os.path.dirname(path)
        if parent == path:
            return path
        path = parent
    return path


def free_bytes(folder: str) -> Optional[int]:
    """Bytes that this user may still write to a folder's file system."""
    try:
        info = os.statvfs(folder)
    except OSError:
        return None
    return info.f_bavail * info.f_frsize
