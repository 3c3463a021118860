# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Merged folders and servers of them, for tests: what a server does wrong is said request by request."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from pathlib import Path

from ansible_collections.npuops.ktransformers.plugins.module_utils.hand_on import folder, server
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights import manifest

TOKEN = "t" * 20
PLAN = "ab" * 32


def make(path: Path, sizes: dict[str, int] | None = None, plan: str = PLAN, seed: int = 1) -> Path:
    """A folder as a merge leaves it."""
    sizes = {"npuops-a.safetensors": 3_000_000, "npuops-b.safetensors": 1_500_001, "config.json": 20, "empty.json": 0} if sizes is None else sizes
    (path / ".npuops-merge").mkdir(parents=True)
    records = []
    for number, (name, size) in enumerate(sizes.items()):
        (path / name).write_bytes(random.Random(seed * 1000 + number).getrandbits(8 * size + 8).to_bytes(size + 1, "little")[:size])
        records.append(manifest.record_of(str(path), name, f"{plan[:8]}-{name}"))
    value = {"format": 1, "about": "", "plan": plan, "sources": [], "files": [record._asdict() for record in records], "stats": {}}
    (path / ".npuops-merge" / "manifest.json").write_text(json.dumps(value))
    return path


def content(path: Path) -> dict[str, tuple[bytes, int]]:
    """Files that the engine sees, with their times."""
    return {item.name: (item.read_bytes(), item.stat().st_mtime_ns) for item in path.iterdir() if item.is_file()}


class Handler(server.Handler):
    """Does to each file that is asked for what the server's `fates` say next: cut or damage at a byte of the answer, or send slowly."""

    def _send(self, file, start, end):
        fates = self.server.fates
        kind, number = fates.pop(0) if fates else (None, 0)
        self.server.served.append((os.path.basename(file.name) if isinstance(file.name, str) else os.readlink(f"/proc/self/fd/{file.fileno()}"), start))
        if kind == "cut":
            super()._send(file, start, min(end, start + number))
            self.close_connection = True
        elif kind == "damage":
            file.seek(start)
            data = bytearray(file.read(end - start))
            data[number] ^= 1
            self.wfile.write(data)
        elif kind == "rate":
            while start < end and not self.server.closed.is_set():
                count = min(end - start, max(1, number // 20))
                super()._send(file, start, start + count)
                start += count
                time.sleep(0.05)
        else:
            super()._send(file, start, end)


class Servers:
    """Servers of a test, all closed at its end."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._all: list[server.Server] = []

    def __call__(self, path: Path, *fates: tuple[str, int], token: str = TOKEN) -> server.Server:
        one = server.listen(str(path), token, "127.0.0.1", 0, os.urandom(16).hex(), str(self._base / f"sums-{len(self._all)}.json"))
        one.RequestHandlerClass = Handler
        one.fates, one.served, one.closed = list(fates), [], threading.Event()
        one.nonce = server.leave_nonce(str(path), one.ident)
        one.url = f"http://127.0.0.1:{one.server_port}"
        threading.Thread(target=one.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        self._all.append(one)
        return one

    def close(self) -> None:
        for one in self._all:
            one.closed.set()
            one.shutdown()
            one.server_close()


class Progress:
    """What a receiver says."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.states: list[tuple] = []

    def update(self, done, total=None, message=None, unit=None) -> None:
        self.states.append((done, total, message))

    def log(self, line: str) -> None:
        self.lines.append(line)


def look(path: Path):
    return folder.look(str(path))
