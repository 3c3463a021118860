# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Changes that a source tree needs on this architecture, as an overlay: the originals are kept, and come back on request.

The guide copies five files of `for_arm/` over others and comments a requirement out. Both are data here: replacements and edits, each
for one machine (as `uname -m` says it) or for all. A tree that no longer has the source of a replacement, or the line of an edit (the
public branches have merged them), is left as it is.
"""
from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence

FOLDER = ".npuops-overlay"
RECORD = "record.json"

# Options of the modules that are told of an overlay; the fragment `overlay` documents them.
ARGUMENTS: Dict[str, Any] = {
    "replacements": {"type": "list", "elements": "dict", "default": [], "options": {
        "src": {"type": "str", "required": True}, "dest": {"type": "str", "required": True}, "machine": {"type": "str"}}},
    "edits": {"type": "list", "elements": "dict", "default": [], "options": {
        "path": {"type": "str", "required": True}, "pattern": {"type": "str", "required": True},
        "replacement": {"type": "str", "required": True}, "machine": {"type": "str"}}},
}


class OverlayError(Exception):
    """What the tree has, what was expected and the next step, in one sentence."""


@dataclass(frozen=True)
class Change:
    """One file of the tree as the overlay wants it. wanted None: the original is right as it is."""
    path: str                   # relative to the tree
    reason: str                 # why it differs, for people
    now: Optional[bytes]        # None where there is no such file
    original: Optional[bytes]
    wanted: Optional[bytes]

    @property
    def pending(self) -> bool:
        return self.now != (self.original if self.wanted is None else self.wanted)


def _sha256(data: Optional[bytes]) -> Optional[str]:
    return None if data is None else hashlib.sha256(data).hexdigest()


def _read(path: str) -> Optional[bytes]:
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except FileNotFoundError:
        return None


def inside(tree: str, relative: str) -> str:
    """Path of a file of the tree. Raises OverlayError for one that leaves it."""
    path = os.path.normpath(os.path.join(tree, relative))
    if os.path.isabs(relative) or os.path.relpath(path, tree).startswith(".."):
        raise OverlayError(f"the overlay names {relative}, which is outside the tree; expected a path relative to {tree}.")
    return path


def read_record(tree: str) -> Dict[str, Dict[str, Any]]:
    """{relative path: {original: sha256 or None, applied: sha256}} of what was changed here."""
    data = _read(os.path.join(tree, FOLDER, RECORD))
    try:
        return json.loads(data) if data else {}
    except ValueError:
        raise OverlayError(f"{tree}/{FOLDER}/{RECORD} is damaged; lay the source tree again.")


def edited(text: bytes, pattern: str, replacement: str) -> bytes:
    """`text` with the regular expression replaced in every line. Raises OverlayError for an expression that is none."""
    try:
        expression = re.compile(pattern.encode())
        return b"\n".join(expression.sub(replacement.encode(), line) for line in text.split(b"\n"))
    except re.error as exc:
        raise OverlayError(f"'{pattern}' with '{replacement}' is no edit of a line ({exc}); correct the overlay.")


def for_machine(entries: Sequence[Mapping[str, Any]], machine: str) -> List[Mapping[str, Any]]:
    return [one for one in entries if not one.get("machine") or one["machine"] == machine]


def plan(tree: str, replacements: Sequence[Mapping[str, Any]], edits: Sequence[Mapping[str, Any]], machine: str) -> List[Change]:
    """Every file that the overlay is about, and what it should be. Raises OverlayError where somebody else changed such a file."""
    replacements, edits = for_machine(replacements, machine), for_machine(edits, machine)
    record = read_record(tree)
    wanted: Dict[str, bytes] = {}
    reasons: Dict[str, str] = {}
    for one in replacements:
        data = _read(inside(tree, one["src"]))
        if data is not None:
            wanted[one["dest"]] = data
            reasons[one["dest"]] = f"replaced by {one['src']}"
    changes = []
    for path in sorted({one["dest"] for one in replacements} | {one["path"] for one in edits} | set(record)):
        now = _read(inside(tree, path))
        original = _original(tree, path, now, record.get(path))
        for one in edits:
            if one["path"] == path and original is not None:
                text = wanted.get(path, original)
                new = edited(text, one["pattern"], one["replacement"])
                if new != text:
                    wanted[path] = new
                    reasons[path] = reasons.get(path) or f"{one['pattern']} is replaced by {one['replacement']}"
        if path in wanted or path in record:
            changes.append(Change(path, reasons.get(path, "not needed any more"), now, original, wanted.get(path)))
    return changes


def _original(tree: str, path: str, now: Optional[bytes], record: Optional[Mapping[str, Any]]) -> Optional[bytes]:
    if record is None:
        return now
    if _sha256(now) == record["original"]:
        return now
    kept = _read(os.path.join(tree, FOLDER, path))
    if _sha256(kept) != record["original"]:
        raise OverlayError(f"the original of {tree}/{path} that was kept is gone; lay the source tree again.")
    if _sha256(now) != record["applied"]:
        raise OverlayError(f"{tree}/{path} was changed after the overlay was laid over it; put the change into the source itself, and lay the tree again.")
    return kept


def digest(changes: Sequence[Change]) -> str:
    """What a build depends on: the files as the overlay makes them."""
    state = hashlib.sha256()
    for change in changes:
        if change.wanted is not None:
            state.update(f"{change.path} {_sha256(change.wanted)}\n".encode())
    return state.hexdigest()


def apply(tree: str, changes: Sequence[Change]) -> None:
    """Write what is pending. The original is kept, and recorded, before its file changes."""
    record = read_record(tree)
    folder = os.path.join(tree, FOLDER)
    for change in changes:
        if not change.pending:
            continue
        kept = os.path.join(folder, change.path)
        if change.wanted is not None:
            if change.original is not None:
                _write(kept, change.original, inside(tree, change.path))
            record[change.path] = {"original": _sha256(change.original), "applied": _sha256(change.wanted)}
            _write_record(folder, record)
            _write(inside(tree, change.path), change.wanted, kept)
            continue
        if change.original is None:
            os.unlink(inside(tree, change.path))
        else:
            _write(inside(tree, change.path), change.original, kept)
        record.pop(change.path)
        _write_record(folder, record)
    if not record:
        shutil.rmtree(folder, ignore_errors=True)


def _write_record(folder: str, record: Mapping[str, Any]) -> None:
    _write(os.path.join(folder, RECORD), (json.dumps(record, indent=1, sort_keys=True) + "\n").encode(), None)


def _write(path: str, data: bytes, like: Optional[str]) -> None:
    """Write beside and rename; the mode is that of `like`, where there is such a file."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    beside = path + ".npuops-new"
    with open(beside, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    if like and os.path.exists(like):
        shutil.copymode(like, beside)
    os.replace(beside, path)
