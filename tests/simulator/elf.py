# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Minimal ELF64 shared objects: real enough for the dynamic loader, readelf and a parser of our own.

A stub exports functions that return 0 and names the libraries it needs, so that "libascend_hal.so: cannot open shared
object file" comes from the loader itself and not from a message of ours.
Format: https://refspecs.linuxfoundation.org/elf/gabi4+/contents.html
"""

from __future__ import annotations

import struct

MACHINES = {"x86_64": 62, "aarch64": 183}
RETURN_ZERO = {"x86_64": bytes.fromhex("31c0c39090909090"), "aarch64": bytes.fromhex("00008052c0035fd6")}
PAGE = 0x10000
SIMULATED = b"\0npuops simulator: this is a stub, it computes nothing\0"


class Strings:
    """A string table: names go in, offsets come out."""

    def __init__(self) -> None:
        self.data = b"\0"

    def add(self, name: str) -> int:
        offset = len(self.data)
        self.data += name.encode() + b"\0"
        return offset


def sysv_hash(name: str) -> int:
    value = 0
    for byte in name.encode():
        value = (value << 4) + byte
        high = value & 0xF0000000
        if high:
            value ^= high >> 24
        value &= ~high & 0xFFFFFFFF
    return value


def hash_table(names: list[str]) -> bytes:
    """DT_HASH over symbols 1…n (0 is the undefined one)."""
    buckets = max(1, len(names) // 2)
    heads, chain = [0] * buckets, [0] * (len(names) + 1)
    for index, name in enumerate(names, start=1):
        bucket = sysv_hash(name) % buckets
        chain[index], heads[bucket] = heads[bucket], index
    return struct.pack(f"<{2 + buckets + len(chain)}I", buckets, len(chain), *heads, *chain)


def shared_object(arch: str, soname: str, exports: list[str] | tuple[str, ...] = (), needed: tuple[str, ...] = (), note: bytes = b"") -> bytes:
    """The bytes of `soname` for `arch` (x86_64 or aarch64).

    exports: functions that return 0. needed: DT_NEEDED entries, in order. note: bytes to carry along, for people and `strings`.
    """
    names, strings, headers = sorted(set(exports)), Strings(), Strings()
    libraries = [strings.add(name) for name in needed]
    soname_at = strings.add(soname)
    name_at = [strings.add(name) for name in names]
    # One read-only, executable segment from the file's start, one writable one for the dynamic section.
    start = 64 + 4 * 56
    table = hash_table(names)
    symbols_at = (start + len(table) + 7) // 8 * 8
    strings_at = symbols_at + 24 * (len(names) + 1)
    text_at = (strings_at + len(strings.data) + 15) // 16 * 16
    code = RETURN_ZERO[arch]
    text = code + SIMULATED + note
    dynamic_file = (text_at + len(text) + 15) // 16 * 16
    dynamic_at = PAGE + dynamic_file
    entries = [(1, offset) for offset in libraries] + [
        (14, soname_at),
        (4, start),
        (5, strings_at),
        (6, symbols_at),
        (10, len(strings.data)),
        (11, 24),
        (0, 0),
    ]
    dynamic = b"".join(struct.pack("<QQ", tag, value) for tag, value in entries)

    image = bytearray(dynamic_file)
    image[start : start + len(table)] = table
    symbols = struct.pack("<IBBHQQ", 0, 0, 0, 0, 0, 0)
    for offset in name_at:
        symbols += struct.pack("<IBBHQQ", offset, 0x12, 0, 4, text_at, len(code))
    image[symbols_at : symbols_at + len(symbols)] = symbols
    image[strings_at : strings_at + len(strings.data)] = strings.data
    image[text_at : text_at + len(text)] = text
    image += dynamic

    sections = [
        (0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
        (headers.add(".hash"), 5, 2, start, start, len(table), 2, 0, 8, 4),
        (headers.add(".dynsym"), 11, 2, symbols_at, symbols_at, len(symbols), 3, 1, 8, 24),
        (headers.add(".dynstr"), 3, 2, strings_at, strings_at, len(strings.data), 0, 0, 1, 0),
        (headers.add(".text"), 1, 6, text_at, text_at, len(text), 0, 0, 16, 0),
        (headers.add(".dynamic"), 6, 3, dynamic_at, dynamic_file, len(dynamic), 3, 0, 8, 16),
    ]
    names_at, name = len(image), headers.add(".shstrtab")
    image += headers.data
    sections.append((name, 3, 0, 0, names_at, len(headers.data), 0, 0, 1, 0))
    image += bytes(-len(image) % 8)
    sections_at = len(image)
    image += b"".join(struct.pack("<IIQQQQIIQQ", *section) for section in sections)

    segments = [
        (1, 5, 0, 0, 0, dynamic_file, dynamic_file, PAGE),
        (1, 6, dynamic_file, dynamic_at, dynamic_at, len(dynamic), len(dynamic), PAGE),
        (2, 6, dynamic_file, dynamic_at, dynamic_at, len(dynamic), len(dynamic), 8),
        # PT_GNU_STACK: without it newer loaders take the stub for one that wants an executable stack, and refuse it.
        (0x6474E551, 6, 0, 0, 0, 0, 0, 16),
    ]
    identity = b"\x7fELF" + bytes([2, 1, 1, 0]) + bytes(8)
    image[0:64] = identity + struct.pack(
        "<HHIQQQIHHHHHH", 3, MACHINES[arch], 1, 0, 64, sections_at, 0, 64, 56, len(segments), 64, len(sections), len(sections) - 1
    )
    image[64:start] = b"".join(struct.pack("<IIQQQQQQ", *segment) for segment in segments)
    return bytes(image)
