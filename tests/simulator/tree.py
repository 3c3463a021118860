# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A folder as a value: collected in memory, then laid on disk or packed, the same bytes every time."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

# Files of the simulator all bear one date, so that a package built twice has one checksum.
DATE = 1745871017


@dataclass
class Tree:
    """Folders, files and links by their relative path; parents are made as needed."""

    entries: dict[str, tuple[str, int, bytes | str]] = field(default_factory=dict)

    def folder(self, path: str, mode: int = 0o755) -> None:
        self.entries[path] = ("folder", mode, b"")

    def file(self, path: str, content: bytes | str, mode: int = 0o644) -> None:
        self.entries[path] = ("file", mode, content.encode() if isinstance(content, str) else content)

    def link(self, path: str, target: str) -> None:
        self.entries[path] = ("link", 0o777, target)

    def add(self, other: Tree, below: str = "") -> None:
        for path, entry in other.entries.items():
            self.entries[f"{below}/{path}" if below else path] = entry

    def lay(self, root: Path) -> None:
        """Write everything below root, replacing files and links that are there."""
        for path, (kind, mode, content) in self.entries.items():
            target = root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if kind == "folder":
                target.mkdir(exist_ok=True)
                target.chmod(mode)
                continue
            if target.is_symlink() or target.exists():
                target.unlink()
            if kind == "link":
                target.symlink_to(str(content))
                continue
            target.write_bytes(content if isinstance(content, bytes) else content.encode())
            target.chmod(mode)

    def tar(self, top: str = "", compression: int = 1) -> bytes:
        """A .tar.gz that depends on the entries alone; `top` is a folder to put everything in."""
        raw = io.BytesIO()
        with tarfile.open(fileobj=raw, mode="w", format=tarfile.GNU_FORMAT) as archive:
            seen: set[str] = set()
            for path in sorted(self.entries):
                kind, mode, content = self.entries[path]
                name = f"{top}/{path}" if top else path
                for parent in reversed(list(Path(name).parents)[:-1]):
                    if str(parent) not in seen and self.entries.get(os.path.relpath(parent, top or "."), ("",))[0] != "folder":
                        seen.add(str(parent))
                        archive.addfile(member(str(parent), tarfile.DIRTYPE, 0o755))
                seen.add(name)
                if kind == "folder":
                    archive.addfile(member(name, tarfile.DIRTYPE, mode))
                elif kind == "link":
                    info = member(name, tarfile.SYMTYPE, mode)
                    info.linkname = str(content)
                    archive.addfile(info)
                else:
                    data = content if isinstance(content, bytes) else content.encode()
                    info = member(name, tarfile.REGTYPE, mode)
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
        return gzip.compress(raw.getvalue(), compression, mtime=DATE)


def member(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.mtime = kind, mode, DATE
    return info
