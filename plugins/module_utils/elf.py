# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an ELF shared library is built for and what it offers, read without binutils.

Format: https://refspecs.linuxfoundation.org/elf/gabi4+/contents.html
"""
from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import BinaryIO, FrozenSet

MACHINES = {62: "x86_64", 183: "aarch64"}
LFS_POINTER = b"version https://git-lfs"
SHARED_OBJECT = 3
SYMBOL_TABLE = 11
SYMBOL_BYTES = 24
# Real ones hold some 10,000 symbols; a header that asks for more than this is damaged.
TABLE_LIMIT = 64 << 20


class ElfError(Exception):
    """The file is no shared library that can be read; the text says what it is instead."""


@dataclass(frozen=True)
class Library:
    machine: str             # as `uname -m` says it: aarch64, x86_64, or "machine N"
    exports: FrozenSet[str]  # names of the defined global and weak symbols


def read_library(path: str) -> Library:
    """Machine and exported names of the 64-bit little-endian shared library `path`. Raises ElfError, or OSError when it cannot be opened."""
    with open(path, "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        try:
            return _read(stream, size, path)
        except struct.error:
            raise ElfError(f"{path} is a library that ends too early ({size} bytes)") from None


def _read(stream: BinaryIO, size: int, path: str) -> Library:
    head = stream.read(64)
    if head.startswith(LFS_POINTER):
        raise ElfError(f"{path} is a Git LFS pointer of {size} bytes, not the library itself")
    if head[:4] != b"\x7fELF":
        raise ElfError(f"{path} ({size} bytes) is not a library: it does not begin as an ELF file")
    if len(head) < 64 or head[4:6] != b"\x02\x01":
        raise ElfError(f"{path} is not a 64-bit little-endian library")
    kind, machine = struct.unpack_from("<HH", head, 16)
    if kind != SHARED_OBJECT:
        raise ElfError(f"{path} is an ELF file, but no shared library")
    sections_at, = struct.unpack_from("<Q", head, 40)
    section_bytes, sections = struct.unpack_from("<HH", head, 58)
    if section_bytes != 64:
        raise ElfError(f"{path} has section headers of {section_bytes} bytes, expected 64")
    table = _part(stream, size, path, sections_at, sections * section_bytes)
    headers = [struct.unpack_from("<IIQQQQIIQQ", table, index * section_bytes) for index in range(sections)]
    names: FrozenSet[str] = frozenset()
    for header in headers:
        if header[1] == SYMBOL_TABLE and header[6] < len(headers):
            strings = headers[header[6]]
            names |= _exports(_part(stream, size, path, header[4], header[5]), _part(stream, size, path, strings[4], strings[5]))
    return Library(MACHINES.get(machine, f"machine {machine}"), names)


def _part(stream: BinaryIO, size: int, path: str, offset: int, length: int) -> bytes:
    if length > TABLE_LIMIT or offset > size or length > size - offset:
        raise ElfError(f"{path} is a library that ends too early: it names bytes {offset} to {offset + length} of {size}")
    stream.seek(offset)
    return stream.read(length)


def _exports(symbols: bytes, strings: bytes) -> FrozenSet[str]:
    names = set()
    for index in range(len(symbols) // SYMBOL_BYTES):
        name_at, info, _other, section = struct.unpack_from("<IBBH", symbols, index * SYMBOL_BYTES)
        # Binding 1 is global, 2 is weak; section 0 means that it is wanted, not offered.
        end = strings.find(b"\0", name_at)
        if section and info >> 4 in (1, 2) and end > name_at:
            names.add(strings[name_at:end].decode("ascii", "replace"))
    return frozenset(names)
