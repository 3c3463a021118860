# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a source tree needs besides itself and finds on the node: its submodules, and the repositories that its build would clone.

A file for each, an archive or a git bundle, known by what is in it: `git archive` (and so a download of GitHub's) writes the commit into
the archive, a bundle lists its heads. So the file's name is free, except for an archive that does not tell: then its name has to.

A bundle is fetched into a repository of its own in its place, not by `git submodule update`: since 2.38.1 git refuses local files there
(protocol.file.allow, CVE-2022-39253), and a submodule that has the recorded commit checked out is never fetched again.
"""
from __future__ import annotations

import os
import re
import shutil
import tarfile
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Set, Tuple

COMMIT = re.compile(r"^[0-9a-f]{40}$")
IN_NAME = re.compile(r"(?<![0-9a-f])([0-9a-f]{7,40})(?![0-9a-f])")
ARCHIVES = (".tar.gz", ".tgz", ".tar", ".tar.xz")
_KIND = re.compile(f"({'|'.join(map(re.escape, (*ARCHIVES, '.bundle', '.git')))})$")
# Runs git with these arguments, in a folder or in none; returns what it printed.
Git = Callable[..., str]


def media_folder(source: str) -> str:
    """Where the media have the parts of a source, a name in the media or the URL of a repository: `source/op-plugin-7.0.0.submodules/`."""
    name = source.rstrip("/").rsplit("/", 1)[-1]
    return f"source/{_KIND.sub('', name)}.submodules/"


class PartsError(Exception):
    """What cannot be laid, and the next step."""


@dataclass(frozen=True)
class Part:
    """A repository that belongs to `path` of the tree: at a commit that the tree records, or on a branch."""
    path: str
    url: str
    commit: str = ""
    branch: str = ""
    wants_git: bool = False  # a git work tree, since git works in it later

    @property
    def repository(self) -> str:
        return re.sub(r"\.git$", "", self.url.rstrip("/")).rsplit("/", 1)[-1]

    def words(self) -> str:
        """What is missing and the file to put there, for people."""
        at = f"branch {self.branch}" if self.branch else f"commit {self.commit}" if self.commit else "a commit that an archive does not tell"
        if self.branch:
            put = f"{self.repository}-{self.branch}.bundle, a git bundle with that branch"
        elif self.wants_git:
            put = f"{self.repository}-{self.commit}.bundle, a git bundle with that commit"
        elif self.commit:
            put = f"{self.repository}-{self.commit}.tar.gz, or a git bundle with that commit"
        else:
            return f"{self.path} ({self.url}, {at}): take a git bundle for what it lies in, or name its commit"
        return f"{self.path} ({self.url}, {at}): put {put}"


@dataclass(frozen=True)
class Store:
    """A file on the node that may be a part. commit: of an archive, '' when unknown; heads: reference → commit of a bundle."""
    path: str
    commit: str
    heads: Mapping[str, str]

    @property
    def name(self) -> str:
        return os.path.basename(self.path)

    @property
    def bundle(self) -> bool:
        return self.name.endswith(".bundle")

    def words(self) -> str:
        if not self.bundle:
            return f"{self.name} is commit {self.commit}" if self.commit else f"{self.name} does not tell its commit"
        return f"{self.name} has {', '.join(f'{reference} {commit[:12]}' for reference, commit in sorted(self.heads.items())) or 'no heads'}"


def read_gitmodules(folder: str) -> List[Tuple[str, str]]:
    """(path, url) of each submodule that the folder's .gitmodules names; [] without one."""
    try:
        with open(os.path.join(folder, ".gitmodules"), encoding="utf-8", errors="replace") as stream:
            return parse_gitmodules(stream.read())
    except OSError:
        return []


def parse_gitmodules(text: str) -> List[Tuple[str, str]]:
    """(path, url) of each submodule that the text of a .gitmodules names."""
    found: List[Dict[str, str]] = []
    for line in map(str.strip, text.splitlines()):
        if re.match(r"\[\s*submodule\b", line):
            found.append({})
        key, sign, value = line.partition("=")
        if sign and found:
            found[-1][key.strip()] = value.strip().strip('"')
    return [(os.path.normpath(one["path"]), one.get("url", "")) for one in found if one.get("path")]


def archive_commit(path: str) -> str:
    """The commit that git archive noted in an archive, or the one in its name, or ''."""
    try:
        with tarfile.open(path) as archive:
            return noted_commit(archive) or named_commit(path)
    except (tarfile.TarError, EOFError, OSError):
        return named_commit(path)


def noted_commit(archive: tarfile.TarFile) -> str:
    noted = archive.pax_headers.get("comment", "")
    return noted if COMMIT.match(noted) else ""


def named_commit(path: str) -> str:
    named = IN_NAME.findall(os.path.basename(path))
    return named[-1] if named else ""


def look_into(path: str) -> Dict[str, Any]:
    """What an archive tells of itself: `commit`, as git archive noted it, and `lacks`, the submodules that it names and has no file of.

    An archive that tells neither gives {}. Raises OSError, EOFError and tarfile.TarError."""
    named: List[str] = []
    filled: Set[str] = set()
    with tarfile.open(path) as archive:
        commit = noted_commit(archive)
        for member in archive:
            parts = os.path.normpath(member.name).split("/")
            if not member.isdir():
                filled.update("/".join(parts[1:count]) for count in range(2, len(parts)))
            if len(parts) == 2 and parts[1] == ".gitmodules" and member.isfile():
                content = archive.extractfile(member)
                named = [name for name, _url in parse_gitmodules(content.read().decode("utf-8", "replace") if content else "")]
    told = {"commit": commit, "lacks": [name for name in named if name not in filled]}
    return {key: value for key, value in told.items() if value}


def unsupplied(lacks: Sequence[str], needed: Sequence[str], only: Mapping[str, str], files: Sequence[Mapping[str, Any]]) -> List[str]:
    """Those of `lacks` that the tree needs and will not get, by what the media's manifest tells; an unpacked archive gets what `only` names.

    only: path → commit. files: {name, commit} of those in the folder of the source's parts; a bundle may hold any commit."""
    def comes(path: str) -> bool:
        commit = only.get(path) or ""
        known = [file.get("commit") or named_commit(file["name"]) for file in files]
        return bool(commit) and (any(file["name"].endswith(".bundle") for file in files) or any(same(commit, one) for one in known))

    return [path for path in lacks if path in {*needed, *only} and not comes(path)]


def look_at(path: str, git: Git) -> Store:
    if not path.endswith(".bundle"):
        return Store(path, archive_commit(path), {})
    lines = git(None, "bundle", "list-heads", path, hint=f"{path} is no git bundle: make it again").splitlines()
    return Store(path, "", {reference: commit for commit, reference in (line.split(" ", 1) for line in lines if " " in line)})


def same(commit: str, known: str) -> bool:
    """Whether `known`, which may be the first digits of one, is `commit`."""
    return bool(commit) and bool(known) and commit.startswith(known)


def is_filled(path: str) -> bool:
    return os.path.isdir(path) and bool(os.listdir(path))


class Filler:
    """Fills one tree. Raises what `git` and `unpack` raise; returns what was not to be had."""

    def __init__(self, files: Sequence[str], git: Git, unpack: Callable[[str, str], str], only: Mapping[str, str], online: bool) -> None:
        self.git = git
        self.unpack = unpack  # (archive, new folder) → the top level folder
        self.only = {os.path.normpath(path): commit or "" for path, commit in only.items()}
        self.online = online  # git may clone what the files do not have
        self.stores = [look_at(path, git) for path in files]
        self.missing: List[str] = []

    def clones(self, tree: str, wanted: Sequence[Mapping[str, str]]) -> None:
        """Lay repositories that a build would clone, on their branch and with all of their submodules."""
        for one in wanted:
            part = Part(os.path.normpath(one["path"]), one["url"], branch=one["version"], wants_git=True)
            target = os.path.join(tree, part.path)
            if is_filled(target):
                continue
            store = next((store for store in self.stores if f"refs/heads/{part.branch}" in store.heads), None)
            if store is not None:
                self.lay_bundle(store, part, target, store.heads[f"refs/heads/{part.branch}"])
                self.submodules(target, part.path, all_of_them=True, wants_git=True)
            elif not self.online:
                self.miss(part)

    def submodules(self, folder: str, prefix: str = "", all_of_them: bool = False, wants_git: bool = False) -> None:
        """Lay the submodules of `folder`, which is `prefix` of the tree, and theirs. A folder with files in it is taken as it is."""
        recorded = self.recorded(folder)
        for path, url in read_gitmodules(folder):
            full, target = os.path.join(prefix, path), os.path.join(folder, path)
            if path.startswith("..") or os.path.isabs(path) or (self.only and not all_of_them and full not in self.only):
                continue
            if recorded is not None and path not in recorded:
                continue  # named in .gitmodules only: git ignores it as well
            if recorded is None and not prefix and not self.only:
                continue  # whoever packed the tree left it out, and nobody says that it is wanted, or at which commit
            if os.path.commonpath([os.path.realpath(folder), os.path.realpath(target)]) != os.path.realpath(folder):
                raise PartsError(f"the submodule {full} leads out of the tree, to {os.path.realpath(target)}; get the source again from its supplier.")
            part = Part(full, url, (recorded or {}).get(path) or self.only.get(full, ""), wants_git=wants_git)
            if is_filled(target) or self.lay(part, target):
                self.submodules(target, full, all_of_them, wants_git)
            elif self.online and recorded is not None:
                self.git(folder, "submodule", "update", "--init", "--quiet", "--", path,
                         hint=f"where the node reaches no git server, {part.words()} into the media")
                self.submodules(target, full, all_of_them, wants_git)
            else:
                self.miss(part)

    def recorded(self, folder: str) -> Optional[Dict[str, str]]:
        """Path → commit of the submodules that a git work tree records; None for a folder that is none."""
        if not os.path.exists(os.path.join(folder, ".git")):
            return None
        entries = self.git(folder, "ls-tree", "-r", "-z", "HEAD").split("\0")
        return {entry.split("\t", 1)[1]: entry.split()[2] for entry in entries if entry.startswith("160000 ")}

    def lay(self, part: Part, target: str) -> bool:
        if not part.commit:
            return False
        for store in self.stores:
            if not store.bundle and not part.wants_git and same(part.commit, store.commit):
                top = self.unpack(store.path, target + ".npuops-part")
                if os.path.isdir(target):
                    os.rmdir(target)
                os.makedirs(os.path.dirname(target), exist_ok=True)
                os.rename(os.path.join(target + ".npuops-part", top), target)
                shutil.rmtree(target + ".npuops-part")
                return True
        exact = [store for store in self.stores if store.bundle and part.commit in store.heads.values()]
        alike = [store for store in self.stores if store.bundle and store not in exact and store.name.startswith(part.repository)]
        return any(self.lay_bundle(store, part, target, part.commit) for store in exact + alike)

    def lay_bundle(self, store: Store, part: Part, target: str, commit: str) -> bool:
        """Make `target` a repository with what the bundle holds, and check the commit out; False when the bundle does not have it."""
        os.makedirs(target, exist_ok=True)
        self.git(target, "init", "--quiet")
        self.git(target, "fetch", "--quiet", store.path, *(f"+{name}:refs/npuops/{number}" for number, name in enumerate(sorted(store.heads))),
                 hint=f"make {store.name} again with the whole history: git bundle create {store.name} HEAD")
        if not self.git(target, "rev-list", "--max-count=1", "--ignore-missing", commit).strip():
            shutil.rmtree(target)
            os.makedirs(target)
            return False
        self.git(target, "remote", "add", "origin", part.url)
        self.git(target, "checkout", "--quiet", *(["-B", part.branch] if part.branch else ["--detach"]), commit)
        return True

    def miss(self, part: Part) -> None:
        alike = [store.words() for store in self.stores if store.name.lower().startswith(part.repository.lower())]
        kind = ", an archive will not do since git works in it" if part.wants_git and not part.branch else ""
        self.missing.append(part.words() + kind + (f" (there: {'; '.join(alike)})" if alike else ""))
