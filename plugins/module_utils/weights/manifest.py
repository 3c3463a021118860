# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a merge leaves behind to be found again: a manifest of what it wrote, and a journal while it writes.

Both lie in OUTPUT/.npuops-merge. The journal gets a line when a file is finished (written, flushed to disk, renamed), so that a
merge that was killed keeps what it has. The manifest replaces it at the end: a folder without manifest is no finished merge.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import stat
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Tuple

from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.errors import WeightsError, is_whole
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.files import open_regular, pread_exact
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.plan import Plan

WORK_FOLDER = ".npuops-merge"
MANIFEST = "manifest.json"
JOURNAL = "journal.jsonl"
PARTIAL = ".partial"
FORMAT = 1
_SAMPLE = 64 * 1024
_MAX_MANIFEST = 64 * 1024 * 1024


class Record(NamedTuple):
    """A finished file of ours. digest: what it was made of (OutFile.digest, SideFile.digest).

    sample: sha256 of its size and of its first, middle and last 64 KiB. sha256: of all of it, or None when it was never read whole.
    """

    name: str
    size: int
    mtime_ns: int
    digest: str
    sample: str
    sha256: Optional[str]


class Manifest(NamedTuple):
    """A finished merge: the plan's digest, the sources and files, and what its making took (stats)."""

    plan: str
    sources: List[Dict[str, Any]]
    records: Dict[str, Record]
    stats: Dict[str, Any]


def work_folder(output: str) -> str:
    return os.path.join(output, WORK_FOLDER)


def manifest_path(output: str) -> str:
    return os.path.join(output, WORK_FOLDER, MANIFEST)


def lock(output: str) -> Optional[int]:
    """Lock our folder against another merge, even one whose job lies elsewhere: a descriptor to close, None where locks do not work.

    Raises WeightsError when another process has it.
    """
    fd = os.open(work_folder(output), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(fd)
        if exc.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise WeightsError("another merge is writing here. Wait for its end, or end that process", output)
        return None
    return fd


def is_partial(name: str) -> bool:
    """Whether a file in the output folder is a part of ours that a killed merge left behind."""
    return name.startswith(".npuops-") and name.endswith(PARTIAL)


def sample_digest(path: str) -> str:
    """sha256 of a file's size and of its first, middle and last 64 KiB."""
    fd, info = open_regular(path)
    try:
        digest = hashlib.sha256(b"%d\n" % info.st_size)
        for offset in sorted({0, max(0, info.st_size // 2 - _SAMPLE // 2), max(0, info.st_size - _SAMPLE)}):
            digest.update(pread_exact(fd, min(_SAMPLE, info.st_size - offset), offset, path))
    finally:
        os.close(fd)
    return digest.hexdigest()


def record_of(output: str, name: str, digest: str, sha256: Optional[str] = None) -> Record:
    """The record of a file that is finished on disk."""
    path = os.path.join(output, name)
    info = os.stat(path)
    return Record(name, info.st_size, info.st_mtime_ns, digest, sample_digest(path), sha256)


def sync_folder(path: str) -> None:
    """Flush a folder's entries to disk, where its file system can."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        os.fsync(fd)
    except OSError:
        pass
    finally:
        os.close(fd)


def write_durably(path: str, data: bytes) -> None:
    """Write beside, flush, rename: the path holds the old content or the new one, never a part."""
    beside = os.path.join(os.path.dirname(path), "." + os.path.basename(path) + PARTIAL)
    try:
        with open(beside, "wb") as target:
            target.write(data)
            target.flush()
            os.fsync(target.fileno())
        os.replace(beside, path)
    except OSError as exc:
        try:
            os.unlink(beside)
        except OSError:
            pass
        raise WeightsError(f"cannot be written: {exc.strerror}", path)
    sync_folder(os.path.dirname(path))


def _record(value: Any) -> Optional[Record]:
    try:
        record = Record(**value)
    except TypeError:
        return None
    if not isinstance(record.name, str):
        return None
    plain = record.name == os.path.basename(record.name) and record.name not in ("", ".", "..") and "\0" not in record.name
    return record if plain and is_whole(record.size) and is_whole(record.mtime_ns) else None


def load(output: str) -> Optional[Manifest]:
    """The manifest of a folder, None where there is none or it is not of this form."""
    value = _read_json(manifest_path(output))
    if not isinstance(value, dict) or value.get("format") != FORMAT or not isinstance(value.get("files"), list):
        return None
    records = [record for record in map(_record, value["files"]) if record is not None]
    if len(records) != len(value["files"]):
        return None
    sources, stats = value.get("sources"), value.get("stats")
    return Manifest(str(value.get("plan")), sources if isinstance(sources, list) else [], {item.name: item for item in records},
                    stats if isinstance(stats, dict) else {})


def save(output: str, plan: Plan, records: Iterable[Record], stats: Dict[str, Any]) -> None:
    """Write the manifest, and drop the journal that led to it."""
    value = {
        "format": FORMAT,
        "about": "Written by npuops.ktransformers.gguf_safetensors_merge; state=absent removes what it lists.",
        "plan": plan.digest,
        "sources": sources_of(plan),
        "files": [item._asdict() for item in sorted(records)],
        "stats": stats,
    }
    write_durably(manifest_path(output), (json.dumps(value, indent=1) + "\n").encode("utf-8"))
    try:
        os.unlink(os.path.join(work_folder(output), JOURNAL))
    except FileNotFoundError:
        pass


def sources_of(plan: Plan) -> List[Dict[str, Any]]:
    return [{"side": item.side, "name": item.name, "size": item.size, "mtime_ns": item.mtime_ns} for item in plan.sources]


def _read_json(path: str) -> Any:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode) or os.path.getsize(path) > _MAX_MANIFEST:
            return None
        with open(path, "rb") as source:
            return json.loads(source.read().decode("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def load_records(output: str) -> Dict[str, Record]:
    """What is known to be finished: of the manifest, or of the journal of an unfinished merge (a torn last line is passed over)."""
    manifest = load(output)
    records = dict(manifest.records) if manifest else {}
    path = os.path.join(work_folder(output), JOURNAL)
    try:
        if stat.S_ISREG(os.stat(path).st_mode) and os.path.getsize(path) <= _MAX_MANIFEST:
            with open(path, "rb") as source:
                lines = source.read().split(b"\n")
        else:
            lines = []
    except OSError:
        lines = []
    for line in lines:
        try:
            record = _record(json.loads(line.decode("utf-8")))
        except (ValueError, RecursionError):
            record = None
        if record is not None:
            records[record.name] = record
    return records


# A line that is lost costs the file again, nothing else: so the journal is flushed once in so many bytes of finished files.
_FLUSH_EVERY = 1 << 30


class Journal:
    """Appends a line for each finished file."""

    def __init__(self, output: str, known: Iterable[Record]) -> None:
        """Begin with what is finished already; takes the manifest away, since the folder is now being changed."""
        path = os.path.join(work_folder(output), JOURNAL)
        write_durably(path, b"".join(self._line(item) for item in known))
        try:
            os.unlink(manifest_path(output))
        except FileNotFoundError:
            pass
        self._output = output
        self._unflushed = 0
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115

    @staticmethod
    def _line(record: Record) -> bytes:
        return json.dumps(record._asdict()).encode("utf-8") + b"\n"

    def add(self, record: Record) -> None:
        self._file.write(self._line(record))
        self._unflushed += record.size
        if self._unflushed >= _FLUSH_EVERY:
            self.flush()

    def flush(self) -> None:
        """Names and lines on disk; the files' bytes are there already."""
        sync_folder(self._output)
        os.fsync(self._file.fileno())
        self._unflushed = 0

    def close(self) -> None:
        self._file.close()


def compare(output: str, plan: Plan, records: Dict[str, Record]) -> Tuple[Dict[str, Record], List[str]]:
    """(records of the plan's files that are on disk as they were written, reasons in words for the rest)."""
    wanted = {item.name: (item.digest, item.size) for item in plan.files}
    wanted.update({item.name: (item.digest, len(item.data)) for item in plan.side_files})
    kept: Dict[str, Record] = {}
    reasons: List[str] = []
    absent: List[str] = []
    for name, (digest, size) in wanted.items():
        record = records.get(name)
        try:
            info: Optional[os.stat_result] = os.stat(os.path.join(output, name))
        except OSError:
            info = None
        if info is None:
            absent.append(name)
        elif record is None:
            reasons.append(f"{name} is there, and no record says that it is finished")
        elif (info.st_size, info.st_mtime_ns) != (record.size, record.mtime_ns) or record.size != size and record.digest == digest:
            reasons.append(f"{name} was changed since it was merged ({record.size} bytes then, {info.st_size} now)")
        elif record.digest != digest:
            reasons.append(f"{name} was made of other sources or options")
        else:
            kept[name] = record
    if absent and len(absent) < len(wanted):
        reasons.append(f"{len(absent)} of {len(wanted)} files are not there yet: {absent[0]}{', ...' if len(absent) > 1 else ''}")
    elif absent:
        reasons.append("the folder holds no merge yet")
    return kept, reasons


def changed_sources(manifest: Optional[Manifest], plan: Plan) -> List[str]:
    """In words, which sources are not those of the manifest."""
    if manifest is None:
        return []
    before = {(item.get("side"), item.get("name")): (item.get("size"), item.get("mtime_ns")) for item in manifest.sources if isinstance(item, dict)}
    found = []
    for item in plan.sources:
        was = before.pop((item.side, item.name), None)
        if was is None:
            found.append(f"{item.side} file {item.name} is new")
        elif was != (item.size, item.mtime_ns):
            found.append(f"{item.side} file {item.name} was changed since the merge ({was[0]} bytes then, {item.size} now)")
    return found + [f"{side} file {name} is gone" for side, name in before]


def foreign_files(output: str, plan: Optional[Plan], records: Dict[str, Record]) -> List[str]:
    """Files in and below the output folder that this merge neither wrote nor will write, relative to it."""
    own = set(records)
    if plan is not None:
        own.update(item.name for item in plan.files)
        own.update(item.name for item in plan.side_files)
    own.update("." + name + PARTIAL for name in list(own))
    found = []
    for folder, below, names in os.walk(output):
        if folder == output and WORK_FOLDER in below:
            below.remove(WORK_FOLDER)
        for name in names:
            relative = os.path.relpath(os.path.join(folder, name), output)
            if relative not in own and not is_partial(relative):
                found.append(relative)
    return sorted(found)
