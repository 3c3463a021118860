# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Opening and reading files that somebody else made: regular files only, bounded sizes, plain messages."""

from __future__ import annotations

import errno
import json
import os
import pwd
import stat
from typing import Any, Callable, List, Optional, Tuple

from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.errors import WeightsError

LFS_MARK = b"version https://git-lfs.github.com/spec/"
MAX_JSON = 64 * 1024 * 1024
# Three bytes of JSON ("[],") take seventy of memory: what a file may hold of lists, objects and their elements. An index of R1 has
# 138,000 elements.
MAX_CONTAINERS = 1 << 20
MAX_ELEMENTS = 1 << 23


def user_name(uid: int) -> str:
    """Name of a user, or its number where the system knows no name."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def unreadable(path: str, exc: OSError) -> WeightsError:
    """The error for a path that the system refuses to open or list, with what the user can do."""
    if exc.errno in (errno.EACCES, errno.EPERM):
        place, info = path, None
        while info is None:
            try:
                info = os.stat(place)
            except PermissionError:
                place = os.path.dirname(place) or "/"
            except OSError:
                break
        detail = ""
        if info is not None:
            what = "it" if place == path else f"folder {place}"
            detail = f" ({what} belongs to {user_name(info.st_uid)}, mode {stat.S_IMODE(info.st_mode):04o})"
        return WeightsError(
            f"user {user_name(os.geteuid())} may not read it{detail}; msModelSlim writes its files with mode 0400. Run the task as the owner "
            f"(become, become_user), or have the owner run: chmod -R a+rX {os.path.dirname(path) or path}", path)
    if exc.errno == errno.ENOENT:
        return WeightsError("it does not exist. Correct the path, or bring the file", path)
    return WeightsError(f"cannot be read: {exc.strerror or exc}", path)


def open_regular(path: str) -> Tuple[int, os.stat_result]:
    """Open a regular file for reading: (descriptor, its stat). A FIFO or device is refused, never waited for."""
    try:
        info = os.stat(path)
        if not stat.S_ISREG(info.st_mode):
            kind = "a folder" if stat.S_ISDIR(info.st_mode) else "no regular file (a pipe, socket or device)"
            raise WeightsError(f"is {kind} where a file was expected. Remove it, or correct the path", path)
        # O_NONBLOCK: should the path become a FIFO between stat and open, open returns at once.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        raise unreadable(path, exc)
    except ValueError:
        raise WeightsError("the path holds a NUL character. Correct it", repr(path))
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode):
        os.close(fd)
        raise WeightsError("is no regular file. Remove it, or correct the path", path)
    return fd, info


def pread_exact(fd: int, size: int, offset: int, path: str) -> bytes:
    """Exactly `size` bytes at `offset`; a file that ends before is an error, as is a disk that cannot read."""
    parts: List[bytes] = []
    done = 0
    while done < size:
        try:
            part = os.pread(fd, min(size - done, 1 << 30), offset + done)
        except OSError as exc:
            raise WeightsError(f"cannot be read: {exc.strerror}. Check the disk", path, offset + done)
        if not part:
            raise WeightsError(f"the file ends {size - done} bytes early. Bring the file again", path, offset + done)
        parts.append(part)
        done += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def is_lfs_pointer(head: bytes) -> bool:
    """Whether a file that starts with `head` is a Git LFS pointer (https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md)."""
    return head.startswith(LFS_MARK)


def lfs_error(path: str) -> WeightsError:
    return WeightsError(
        "is a Git LFS pointer of a few lines, not the file itself. In the clone, run: git lfs install && git lfs pull", path, 0)


def read_bounded(path: str, limit: int = MAX_JSON) -> bytes:
    """The whole of a small file (at most `limit` bytes); LFS pointers are refused."""
    fd, info = open_regular(path)
    try:
        if info.st_size > limit:
            raise WeightsError(f"has {info.st_size} bytes, more than the {limit} that such a file may have. Check what it is", path)
        raw = pread_exact(fd, info.st_size, 0, path)
    finally:
        os.close(fd)
    if is_lfs_pointer(raw):
        raise lfs_error(path)
    return raw


def bounded_int(text: str) -> int:
    """json's parse_int: no number of a weight file needs more than 20 digits, and huge ones take quadratic time."""
    if len(text) > 20:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def parse_json(raw: bytes, path: str, base: int = 0, pairs: Optional[Callable[[List[Tuple[str, Any]]], Any]] = None) -> Any:
    """JSON from `raw`, which starts at byte `base` of path; whatever is wrong with it is a WeightsError."""
    if raw.count(b"[") + raw.count(b"{") > MAX_CONTAINERS or raw.count(b",") > MAX_ELEMENTS:
        raise WeightsError("is JSON of more lists or elements than any such file has. Bring the file again", path, base)
    try:
        return json.loads(raw.decode("utf-8"), parse_int=bounded_int, parse_constant=_no_constant, object_pairs_hook=pairs)
    except UnicodeDecodeError as exc:
        raise WeightsError("is no UTF-8 text, so no JSON. Bring the file again", path, base + exc.start)
    except json.JSONDecodeError as exc:
        raise WeightsError(f"is no JSON: {exc.msg}. Bring the file again", path, base + exc.pos)
    except RecursionError:
        raise WeightsError("is JSON nested too deep to be what it claims. Bring the file again", path, base)
    except ValueError as exc:
        raise WeightsError(f"is no JSON that can be used: {exc}. Bring the file again", path, base)


def read_json_object(path: str, limit: int = MAX_JSON) -> dict:
    """A JSON file that must hold an object."""
    value = parse_json(read_bounded(path, limit), path)
    if not isinstance(value, dict):
        raise WeightsError(f"holds a JSON {type(value).__name__} where an object was expected. Bring the file again", path, 0)
    return value


def list_folder(path: str) -> List[str]:
    """Names in a folder, sorted."""
    try:
        return sorted(os.listdir(path))
    except NotADirectoryError:
        raise WeightsError("is no folder. Give the folder that holds the files", path)
    except OSError as exc:
        raise unreadable(path, exc)
    except ValueError:
        raise WeightsError("the path holds a NUL character. Correct it", repr(path))
