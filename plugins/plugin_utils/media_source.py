# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the media are: a directory on the controller, or a mirror."""

from __future__ import annotations

import abc
import os
import typing as t

from ansible_collections.npuops.ktransformers.plugins.module_utils.media import MANIFEST, MediaError, Mirror
from ansible_collections.npuops.ktransformers.plugins.plugin_utils import manifest as manifests

Problem = t.Dict[str, t.Any]


class Source(abc.ABC):
    """A place that holds the media; base: its path or address, as it may be shown; full: with the password of an address."""

    is_directory = False

    def __init__(self, base: str, full: str) -> None:
        self.base = base
        self.full = full

    @abc.abstractmethod
    def manifest(self) -> manifests.Manifest:
        """Raises MediaError."""

    @abc.abstractmethod
    def path(self, name: str) -> str:
        """Local path or address of a file."""

    @abc.abstractmethod
    def problems(self, entries: t.Iterable[manifests.Entry]) -> t.Dict[str, Problem]:
        """What can be said from here of files that the manifest lists and the source doesn't have, by their names."""


class Directory(Source):
    is_directory = True

    def manifest(self) -> manifests.Manifest:
        where = os.path.join(self.base, MANIFEST)
        try:
            with open(where, "rb") as file:
                text = file.read()
        except FileNotFoundError as exc:
            raise MediaError(f"the media in {self.base} have no {MANIFEST}; write it: {manifests.INDEX_WITH}") from exc
        except OSError as exc:
            raise MediaError(f"{where} can't be read: {exc.strerror}; make it readable for you") from exc
        return manifests.parse(text, where)

    def path(self, name: str) -> str:
        return os.path.join(self.base, *name.split("/"))

    def problems(self, entries: t.Iterable[manifests.Entry]) -> t.Dict[str, Problem]:
        found = {}
        for entry in entries:
            path = self.path(entry["path"])
            observed = _what_is_wrong(path, entry.get("size"))
            if observed:
                more = manifests.file_of(entry).comes_from()
                expected = "the file that the manifest lists" + (f" ({entry['size']} bytes)" if entry.get("size") is not None else "")
                found[entry["path"]] = problem(entry["path"], observed, expected, f"put the file there{'; ' + more if more else ''}")
        return found


def _what_is_wrong(path: str, size: t.Optional[int]) -> t.Optional[str]:
    try:
        found = os.stat(path).st_size
    except OSError as exc:
        return f"{path} is not there" if isinstance(exc, FileNotFoundError) else f"{path} can't be read: {exc.strerror}"
    if not os.path.isfile(path):
        return f"{path} is no file"
    if not os.access(path, os.R_OK):
        return f"{path} can't be read: permission denied"
    return f"{path} has {found} bytes" if size is not None and found != size else None


class HttpMirror(Source):
    def __init__(self, url: str, validate_certs: bool) -> None:
        self._mirror = Mirror(url, validate_certs, patience=3)
        super().__init__(self._mirror.url, url)

    def manifest(self) -> manifests.Manifest:
        return manifests.parse(self._mirror.read(MANIFEST), self._mirror.address(MANIFEST))

    def path(self, name: str) -> str:
        return self._mirror.address(name)

    def problems(self, entries: t.Iterable[manifests.Entry]) -> t.Dict[str, Problem]:
        return {}  # the node asks


def find(source: t.Optional[str], folders: t.Sequence[str], validate_certs: bool = True) -> Source:
    """The source that the user named; a relative directory is looked for in `folders`. Raises MediaError."""
    if not source:
        raise MediaError("media_source is not set: give it the directory on this computer, or the http(s):// mirror, that holds the media")
    if "://" in source:
        return HttpMirror(source, validate_certs)
    tried = list(dict.fromkeys(os.path.normpath(os.path.join(folder, os.path.expanduser(source))) for folder in folders))
    for path in tried:
        if os.path.isdir(path):
            return Directory(path, path)
    raise MediaError(f"the media are not in {' or '.join(tried)}: no such directory; put them there, or correct media_source")


def not_listed(manifest: manifests.Manifest, name: str) -> Problem:
    """A name that the manifest doesn't have."""
    alike = manifests.similar(manifest, name)
    observed = f"{name} is not in {manifest.where}" + (f", which has {', '.join(alike)}" if alike else "")
    return problem(name, observed, f"an entry for {name}", f"put the file into the media and index them: {manifests.INDEX_WITH}")


def problem(name: str, observed: str, expected: str, repair: str) -> Problem:
    """A check that did not pass, as the action preflight takes it."""
    return {"id": f"media-{os.path.basename(name.rstrip('/'))}", "ok": False, "observed": observed, "expected": expected, "repair": repair}


def words(problems: t.Sequence[Problem]) -> str:
    return "\n".join(f"{one['observed']}; expected: {one['expected']}; {one['repair']}" for one in problems)
