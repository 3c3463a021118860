# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The manifest of the media: read it, find names in it, write it anew.

manifest.yml:  files: [{path, sha256, size, version, arch: aarch64|x86_64|noarch, commit, lacks, origin, supplier}, …]
commit, lacks: of an archive of sources, see module_utils/source_parts.py
"""

from __future__ import annotations

import difflib
import os
import re
import tarfile
import typing as t

import yaml
from ansible_collections.npuops.ktransformers.plugins.module_utils.media import LOCK, MANIFEST, SUMS, File, MediaError, Sums, check_name
from ansible_collections.npuops.ktransformers.plugins.module_utils.source_parts import ARCHIVES, look_into

_HEADING = """\
# Written by `ansible-playbook npuops.ktransformers.media`, which keeps the texts (origin, supplier, …) that you add to a file.
# origin: where the file can be had; supplier: who has it where that is not public.
"""
INDEX_WITH = "ansible-playbook npuops.ktransformers.media"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)

Entry = t.Dict[str, t.Any]


class Manifest(t.NamedTuple):
    """Entries by path; where: the manifest's path or address, for messages."""

    entries: t.Dict[str, Entry]
    where: str


def parse(text: t.Union[str, bytes], where: str) -> Manifest:
    """Read a manifest. Raises MediaError naming the place of the first thing that is wrong."""
    entries: t.Dict[str, Entry] = {}
    for number, entry in enumerate(_entries(text, where), 1):
        problem = _what_is_wrong(entry)
        if problem:
            name = entry.get("path", f"number {number}") if isinstance(entry, dict) else f"number {number}"
            raise MediaError(f"{where}: the entry {name} {problem}; index the media again: {INDEX_WITH}")
        entries[entry["path"]] = entry
    return Manifest(entries, where)


def _entries(text: t.Union[str, bytes], where: str) -> t.List[t.Any]:
    try:
        value = yaml.load(text, Loader=_LOADER)  # noqa: S506 - it is the safe one
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise MediaError(f"{where} is no YAML ({' '.join(str(exc).split())}); index the media again: {INDEX_WITH}") from exc
    files = value.get("files") if isinstance(value, dict) else None
    if not isinstance(files, list):
        raise MediaError(f"{where} has no list 'files'; index the media again: {INDEX_WITH}")
    return files


def _what_is_wrong(entry: t.Any) -> t.Optional[str]:
    if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
        return "has no path"
    try:
        check_name(entry["path"])
    except MediaError as exc:
        return f"has a path that is none: {exc}"
    if not re.fullmatch(r"[0-9a-f]{64}", str(entry.get("sha256", ""))):
        return "has no sha256 of 64 hexadecimal digits"
    size = entry.get("size")
    if size is not None and (not isinstance(size, int) or size < 0):
        return f"has the size {size!r}, which is no number of bytes"
    return None


def file_of(entry: Entry) -> File:
    return File(entry["path"], entry["sha256"], entry.get("size"), _text(entry.get("origin")), _text(entry.get("supplier")))


def _text(value: t.Any) -> t.Optional[str]:
    return None if value is None else " ".join(str(value).split())


def select(manifest: Manifest, names: t.Sequence[str]) -> t.Tuple[t.List[Entry], t.List[str]]:
    """Entries for `names` in their order, each once, and the names that nothing answers. A name that ends with / is a folder."""
    chosen: t.Dict[str, Entry] = {}
    unknown = []
    for name in names:
        check_name(name)
        if name.endswith("/"):
            found = {path: entry for path, entry in sorted(manifest.entries.items()) if path.startswith(name)}
        else:
            found = {name: manifest.entries[name]} if name in manifest.entries else {}
        chosen.update((path, entry) for path, entry in found.items() if path not in chosen)
        if not found:
            unknown.append(name)
    return list(chosen.values()), unknown


def similar(manifest: Manifest, name: str) -> t.List[str]:
    """Up to three names of the manifest that look like `name`: another version, another architecture, another folder."""
    candidates = list(manifest.entries)
    if name.endswith("/"):
        candidates = sorted({folder + "/" for path in candidates for folder in _folders(path)})
    lower = {candidate.lower(): candidate for candidate in candidates}
    close = difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.6)
    base = os.path.basename(name.rstrip("/"))
    elsewhere = [candidate for candidate in candidates if os.path.basename(candidate.rstrip("/")) == base]
    return list(dict.fromkeys([*elsewhere, *(lower[key] for key in close)]))[:3]


def _folders(path: str) -> t.List[str]:
    parts = path.split("/")[:-1]
    return ["/".join(parts[: count + 1]) for count in range(len(parts))]


# Indexing


class Index(t.NamedTuple):
    """What became of a manifest: its new text, and the names that differ from the old one."""

    text: str
    added: t.List[str]
    updated: t.List[str]
    removed: t.List[str]


def index(folder: str, old_text: t.Optional[str]) -> Index:
    """The manifest of what is in `folder`; texts of the old one stay. Raises MediaError, OSError."""
    where = os.path.join(folder, MANIFEST)
    old: t.Dict[str, Entry] = {}
    if old_text is not None:
        old = {entry["path"]: entry for entry in _entries(old_text, where) if isinstance(entry, dict) and isinstance(entry.get("path"), str)}
    sums = Sums(folder)
    names = list_files(folder)
    entries = []
    for name in names:
        size = os.stat(os.path.join(folder, *name.split("/"))).st_size
        entry: Entry = {"path": name, "sha256": sums.of(name), "size": size}
        entry.update(guess(name))
        entry.update((key, value) for key, value in old.get(name, {}).items() if key not in _TOLD)
        if name.startswith("source/") and name.endswith(ARCHIVES):
            entry.update(_look_into(folder, name))
        entries.append(entry)
    sums.keep_only(names)
    sums.save()
    text = _HEADING + yaml.dump({"files": entries}, Dumper=_DUMPER, sort_keys=False, allow_unicode=True, width=1000)
    updated = [entry["path"] for entry in entries if entry["path"] in old and old[entry["path"]].get("sha256") != entry["sha256"]]
    return Index(text, [name for name in names if name not in old], updated, [name for name in old if name not in names])


# What the file itself tells, in contrast to texts that people add.
_TOLD = ("path", "sha256", "size", "commit", "lacks")


def _look_into(folder: str, name: str) -> Entry:
    try:
        return look_into(os.path.join(folder, *name.split("/")))
    except (tarfile.TarError, EOFError, OSError) as exc:
        raise MediaError(f"{name} is no archive that can be read to its end ({exc}); get it again from where it came from") from exc


def list_files(folder: str) -> t.List[str]:
    """Names of all files below `folder`, sorted; hidden ones and the manifest itself are none."""
    found = []
    for where, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            path = os.path.relpath(os.path.join(where, name), folder).replace(os.sep, "/")
            if not name.startswith(".") and path not in (MANIFEST, SUMS, LOCK):
                found.append(path)
    return sorted(found)


_ARCHES = {"aarch64": "aarch64", "arm64": "aarch64", "x86_64": "x86_64", "x86-64": "x86_64", "amd64": "x86_64"}
_VERSION_OF = [
    # Ascend-cann-toolkit_8.1.RC1_linux-aarch64.run, Ascend-hdk-910b-npu-firmware_7.7.0.1.231.run
    re.compile(r"^Ascend-.+?_(?P<version>\d[^_]*?)(?:_linux[-.\w]+)?\.(?:run|zip|tar\.gz|deb|rpm)$"),
    # torch-2.3.1-cp311-cp311-manylinux2014_aarch64.whl (PEP 427)
    re.compile(r"^[^-]+-(?P<version>[^-]+)(?:-\d[^-]*)?-[^-]+-[^-]+-[^-]+\.whl$"),
    # Miniconda3-py311_24.9.2-0-Linux-aarch64.sh
    re.compile(r"^(?:Mini|Ana)(?:conda|forge)\d?-(?P<version>.+)-Linux-[-\w]+\.sh$"),
    # numpy-1.26.4-py311h1234_0.conda
    re.compile(r"^.+-(?P<version>[^-]+)-[^-]+(?:\.conda|\.tar\.bz2)$"),
    # cmake_3.22.1-1ubuntu1_arm64.deb
    re.compile(r"^[^_]+_(?P<version>[^_]+)_[^_]+\.deb$"),
    # cmake-3.22.1-1.oe2203.aarch64.rpm
    re.compile(r"^.+?-(?P<version>\d[^-]*-[^-]+)\.[^.-]+\.rpm$"),
    # op-plugin-7.0.0.tar.gz, ktransformers-v0.2.4-npu.bundle
    re.compile(r"^.+?-v?(?P<version>\d.*?)(?:\.tar\.\w+|\.tgz|\.zip|\.bundle)$"),
]


def guess(name: str) -> Entry:
    """version (where the name shows one) and arch of a file, from its name and folder."""
    base = os.path.basename(name)
    match = next((found for found in (pattern.match(base) for pattern in _VERSION_OF) if found), None)
    answer: Entry = {"version": match.group("version")} if match else {}
    for_all = re.search(r"(-any\.whl|_all\.deb|\.noarch\.rpm)$", base)
    answer["arch"] = "noarch" if for_all else _arch(base) or _arch(os.path.dirname(name)) or "noarch"
    return answer


def _arch(text: str) -> t.Optional[str]:
    match = re.search(r"(?<![0-9A-Za-z])(" + "|".join(map(re.escape, _ARCHES)) + r")(?![0-9A-Za-z])", text)
    return _ARCHES[match.group(1)] if match else None
