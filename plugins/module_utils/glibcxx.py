# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which symbol versions of libstdc++ (GLIBCXX_3.4.32) a library offers, and which ones the extensions of a Python environment need.

Sections .gnu.version_d and .gnu.version_r: https://refspecs.linuxfoundation.org/LSB_5.0.0/LSB-Core-generic/LSB-Core-generic/symversion.html
"""
from __future__ import annotations

import mmap
import os
import re
import struct

_VERNEED = 0x6FFFFFFE
_VERSION = re.compile(rb"GLIBCXX_(3\.[0-9]+(?:\.[0-9]+)?)\0")


def version_key(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def offered(path: str) -> str | None:
    """The newest GLIBCXX version that the library at `path` knows, such as '3.4.30'; None when it knows none. Raises OSError."""
    with open(path, "rb") as stream:
        found = {match.group(1).decode() for match in _VERSION.finditer(stream.read())}
    return max(found, key=version_key) if found else None


def needed(path: str) -> str | None:
    """The newest GLIBCXX version that the ELF file at `path` asks for, None when it asks for none or is no ELF file of this kind. Raises OSError."""
    with open(path, "rb") as stream:
        if stream.read(6) != b"\x7fELF\x02\x01" or os.fstat(stream.fileno()).st_size < 64:
            return None
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as image:
            try:
                found = _needs(image)
            except (struct.error, ValueError, IndexError, OverflowError):  # a damaged file asks for nothing that can be read
                return None
    return max(found, key=version_key) if found else None


def _needs(image: mmap.mmap) -> set[str]:
    sections_at, = struct.unpack_from("<Q", image, 40)
    section_bytes, count = struct.unpack_from("<HH", image, 58)
    headers = [struct.unpack_from("<IIQQQQIIQQ", image, sections_at + index * section_bytes) for index in range(count)]
    found = set()
    for header in headers:
        if header[1] != _VERNEED:
            continue
        need_at, strings_at = header[4], headers[header[6]][4]
        for _file in range(header[7]):
            _version, versions, _name, aux, following = struct.unpack_from("<HHIII", image, need_at)
            aux_at = need_at + aux
            for _aux in range(versions):
                _hash, _flags, _other, name, aux_following = struct.unpack_from("<IHHII", image, aux_at)
                match = _VERSION.match(image[strings_at + name:strings_at + name + 32])
                if match:
                    found.add(match.group(1).decode())
                if not aux_following:
                    break
                aux_at += aux_following
            if not following:
                break
            need_at += following
    return found


def most_demanding(folder: str) -> tuple[str | None, str | None]:
    """The newest GLIBCXX version that any *.so below `folder` asks for, and the file that asks; (None, None) when none does."""
    best: tuple[str | None, str | None] = (None, None)
    for parent, _folders, names in os.walk(folder):
        for name in sorted(names):
            if not (name.endswith(".so") or ".so." in name):
                continue
            path = os.path.join(parent, name)
            try:
                version = needed(path)
            except OSError:
                continue
            if version and (best[0] is None or version_key(version) > version_key(best[0])):
                best = (version, path)
    return best
