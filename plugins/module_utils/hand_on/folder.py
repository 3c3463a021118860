# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The folder that is handed on: whether it is complete, what of it is missing, and how a file that has arrived gets its name.

It is a merged folder like any other: the manifest says what belongs to it, the journal what has arrived until the manifest is there,
and gguf_safetensors_merge with state=absent removes it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import re
import typing as t

from ansible_collections.npuops.ktransformers.plugins.module_utils import job
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights import copy as copying
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights import manifest
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.errors import shortened

NONCE = "nonce-"  # a server leaves an empty file of this name and its id in the folder's work folder
_ID = re.compile(r"[0-9a-f]{32}")
# Room for manifest, journal and the job's own files.
_SLACK = 16 * 1024 * 1024


class HandOnError(job.JobError):
    """Weights that can't be handed on; the text is for the user."""


class Wanted(t.NamedTuple):
    """The source's manifest. value: the JSON as it came; records: by name, in its order."""

    plan: str
    value: t.Dict[str, t.Any]
    records: t.Dict[str, manifest.Record]


class Look(t.NamedTuple):
    """What is in a folder. reasons: in words, why it is not the complete merge that is wanted."""

    reasons: t.List[str]
    plan: t.Optional[str] = None
    files: int = 0
    bytes: int = 0

    @property
    def complete(self) -> bool:
        return not self.reasons


def node() -> str:
    return platform.node() or "this node"


def parse(raw: bytes, origin: str) -> Wanted:
    """A manifest that was received. Raises HandOnError when it is none, or names a file that would not lie in the folder itself."""
    try:
        value = json.loads(raw.decode("utf-8"))
        records = [manifest.Record(**item) for item in value["files"]]
        fine = value["format"] == manifest.FORMAT and all(_fits(record) for record in records)
    except (ValueError, TypeError, KeyError, RecursionError):
        fine = False
    if not fine:
        raise HandOnError(f"{origin} sent something that is no manifest of a merge; it and this node need the same version of the collection")
    return Wanted(str(value.get("plan")), value, {record.name: record for record in records})


def _fits(record: manifest.Record) -> bool:
    name = record.name
    plain = isinstance(name, str) and name == os.path.basename(name) and name not in ("", ".", "..") and "\0" not in name
    sums = isinstance(record.digest, str) and (record.sha256 is None or isinstance(record.sha256, str))
    return plain and sums and not name.startswith(".npuops-") and _is_count(record.size) and _is_count(record.mtime_ns)


def _is_count(value: t.Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def untouched(dest: str, record: manifest.Record) -> bool:
    """Whether a file is on disk as its record says."""
    try:
        info = os.stat(os.path.join(dest, record.name))
    except OSError:
        return False
    return (info.st_size, info.st_mtime_ns) == (record.size, record.mtime_ns)


def look(dest: str, plan: t.Optional[str] = None) -> Look:
    """What is in `dest`, by its own manifest; plan: digest that the merge must have, None takes any."""
    known = manifest.load(dest)
    if known is None:
        begun = os.path.isdir(manifest.work_folder(dest))
        return Look([f"{dest} holds weights that have not arrived as a whole" if begun else f"{dest} holds no merged weights"])
    size = sum(record.size for record in known.records.values())
    reasons = []
    if plan is not None and known.plan != plan:
        reasons.append(f"{dest} holds another merge ({known.plan[:12]} where {plan[:12]} is wanted)")
    else:
        touched = [record.name for record in known.records.values() if not untouched(dest, record)]
        if touched:
            reasons.append(f"of {len(known.records)} files in {dest}, {len(touched)} are missing or were changed: {shortened(touched)}")
        foreign = foreign_weights(dest, known.records)
        if foreign:
            reasons.append(f"{dest} holds safetensors files that do not belong to the merge: {shortened(foreign)}")
    return Look(reasons, known.plan, len(known.records), size)


def foreign_weights(dest: str, own: t.Mapping[str, manifest.Record]) -> t.List[str]:
    """Files that the engine would read beside the merge."""
    return [name for name in manifest.foreign_files(dest, None, dict(own)) if name.endswith(".safetensors")] if os.path.isdir(dest) else []


def in_the_way(dest: str) -> t.List[str]:
    """In words, what in `dest` can't stay there, as far as can be said before the source is asked (whose files begin with npuops-)."""
    foreign = [name for name in foreign_weights(dest, manifest.load_records(dest)) if not os.path.basename(name).startswith("npuops-")]
    return [foreign_words(dest, foreign)] if foreign else []


def foreign_words(dest: str, foreign: t.Sequence[str]) -> str:
    return f"{dest} holds safetensors files that do not belong to the merge: {shortened(foreign)}; the engine would read them, so move them away"


def unwritable_words(dest: str, name: str, exc: OSError) -> str:
    """What a write that failed while a file arrived means to the user."""
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        room = "the quota" if exc.errno == errno.EDQUOT else "the disk"
        return f"{room} of {dest} became full while {name} arrived; make room and run the playbook again: what has arrived is kept"
    return f"{os.path.join(dest, name)} can't be written: {exc.strerror or exc}; what has arrived is kept"


def compare(dest: str, wanted: Wanted) -> t.Tuple[t.Dict[str, manifest.Record], t.Dict[str, str]]:
    """(records of files that are there, name → why in words for those that are missing, short or different)."""
    records = manifest.load_records(dest)
    kept: t.Dict[str, manifest.Record] = {}
    missing: t.Dict[str, str] = {}
    for name, want in wanted.records.items():
        record = records.get(name)
        path = os.path.join(dest, name)
        if not os.path.lexists(path):
            missing[name] = "is not there"
        elif not os.path.isfile(path) or os.path.islink(path):
            raise HandOnError(f"{path} is in the way: it is no file; move it away")
        elif record is None:
            missing[name] = "is there, and no record says that it has arrived"
        elif (record.size, record.digest) != (want.size, want.digest):
            missing[name] = "is of another merge"
        elif not untouched(dest, record):
            size = os.path.getsize(path)
            missing[name] = f"has {size} bytes instead of {want.size}" if size != want.size else "was changed since it arrived"
        else:
            kept[name] = record
    return kept, missing


def partial(dest: str, record: manifest.Record) -> str:
    """Where a file lies while it arrives: not under a name that the engine would read, and never mixed with another version of it."""
    return os.path.join(dest, f".npuops-{record.name}.{hashlib.sha256(record.digest.encode()).hexdigest()[:12]}{manifest.PARTIAL}")


def clear(dest: str, wanted: Wanted, kept: t.Mapping[str, manifest.Record]) -> None:
    """Take away what an earlier merge left, and parts of files that are not wanted any more. Raises HandOnError."""
    if not os.path.isdir(dest):
        return
    parts = {os.path.basename(partial(dest, record)) for record in wanted.records.values()}
    old = {name for name, record in manifest.load_records(dest).items() if name not in kept and record.digest != _digest(wanted, name)}
    old |= {name for name in os.listdir(dest) if manifest.is_partial(name) and name not in parts}
    for name in sorted(old):
        try:
            os.unlink(os.path.join(dest, name))
        except FileNotFoundError:
            pass
        except OSError as exc:
            raise HandOnError(f"{os.path.join(dest, name)} is of an earlier merge and can't be removed: {exc.strerror}; remove it")


def _digest(wanted: Wanted, name: str) -> t.Optional[str]:
    return wanted.records[name].digest if name in wanted.records else None


def own_bytes(dest: str) -> int:
    """Bytes of the merge, or of its parts, that are on the disk already."""
    if not os.path.isdir(dest):
        return 0
    names = set(manifest.load_records(dest)) | {name for name in os.listdir(dest) if manifest.is_partial(name)}
    return sum(os.path.getsize(os.path.join(dest, name)) for name in names if os.path.isfile(os.path.join(dest, name)))


def too_little_room(dest: str, needed: int, reserve: int) -> t.Optional[str]:
    """In words, that the disk has no room for `needed` bytes more, with `reserve` left free; None when it has."""
    nearest = copying.nearest_folder(dest)
    free = copying.free_bytes(nearest)
    if free is None or needed <= 0 or free >= needed + reserve + _SLACK:
        return None
    return (
        f"{nearest} has {free / 1e9:.1f} GB free, and {(needed + _SLACK) / 1e9:.1f} GB of merged weights are to be received there, "
        f"with {reserve / 1e9:.1f} GB left free; make room, or choose another folder"
    )


def place(dest: str, record: manifest.Record, sha256: str) -> manifest.Record:
    """Give a file that has arrived whole its name and time, flushed to disk; its record. Raises OSError."""
    path = partial(dest, record)
    with open(path, "rb") as file:
        os.utime(file.fileno(), ns=(record.mtime_ns, record.mtime_ns))
        os.fsync(file.fileno())
    os.replace(path, os.path.join(dest, record.name))
    return _now(dest, record, sha256)


def adopt(dest: str, record: manifest.Record, sha256: str) -> manifest.Record:
    """The record of a file that was in place already. Raises OSError."""
    path = os.path.join(dest, record.name)
    os.utime(path, ns=(record.mtime_ns, record.mtime_ns))
    return _now(dest, record, sha256)


def _now(dest: str, record: manifest.Record, sha256: str) -> manifest.Record:
    # A file system of coarse times keeps another one than was set.
    return record._replace(mtime_ns=os.stat(os.path.join(dest, record.name)).st_mtime_ns, sha256=sha256)


def finish(dest: str, wanted: Wanted, records: t.Mapping[str, manifest.Record]) -> None:
    """Write the manifest: from now on the folder is a whole merge. Raises WeightsError."""
    value = dict(wanted.value, files=[records[name]._asdict() for name in wanted.records])
    manifest.sync_folder(dest)
    manifest.write_durably(manifest.manifest_path(dest), (json.dumps(value, indent=1) + "\n").encode("utf-8"))
    try:
        os.unlink(os.path.join(manifest.work_folder(dest), manifest.JOURNAL))
    except FileNotFoundError:
        pass


def nonce_path(dest: str, ident: str) -> t.Optional[str]:
    """Where a server with this id has left its mark, when `dest` is the very folder that it serves. None for an id that is none."""
    return os.path.join(manifest.work_folder(dest), NONCE + ident) if _ID.fullmatch(ident) else None
