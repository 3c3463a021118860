# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An environment as conda-pack packed it: what is in the archive, whether it fits a node, and how it gets its place.

conda-pack writes a tar archive of the prefix with one more program, bin/conda-unpack, which puts the new prefix into the files
that hold the old one: https://conda.github.io/conda-pack/
"""
from __future__ import annotations

import json
import os
import re
import shutil
import tarfile
import typing as t
import zlib

# (command, environment) -> (exit code, stdout, stderr)
Runner = t.Callable[[t.List[str], t.Dict[str, str]], t.Tuple[int, str, str]]

UNPACK = "bin/conda-unpack"
_RECORD = re.compile(r"^conda-meta/[^/]+-[^-/]+-[^-/]+\.json$")
_SUBDIRS = {"linux-64": "x86_64", "linux-aarch64": "aarch64"}


class PackedEnvError(Exception):
    """The archive cannot become the environment: says what was expected and the next step, in one sentence."""


class Packed(t.NamedTuple):
    """What an archive holds: versions by conda's package names, and the machine of its Python (None: not told)."""

    packages: t.Dict[str, str]
    machine: str | None


def inspect(path: str) -> Packed:
    """Read the archive from end to end. Raises PackedEnvError when it is damaged, unsafe or not conda-pack's, OSError."""
    name = os.path.basename(path)
    packages: t.Dict[str, str] = {}
    machine, unpacks = None, False
    try:
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                _refuse_unsafe(name, member)
                where = os.path.normpath(member.name)
                unpacks = unpacks or where == UNPACK
                stream = archive.extractfile(member) if member.isfile() and _RECORD.match(where) else None
                if stream is not None:
                    record = json.loads(stream.read().decode("utf-8"))
                    packages[record["name"]] = record["version"]
                    if record["name"] == "python":
                        machine = _SUBDIRS.get(record.get("subdir", ""), record.get("subdir"))
    except (tarfile.TarError, EOFError, zlib.error) as exc:
        raise PackedEnvError(f"{name} is damaged or cut short ({exc}); bring it to the media again, then index them.") from exc
    except (ValueError, KeyError, TypeError) as exc:
        raise PackedEnvError(f"{name} has a record of conda that cannot be read ({exc}); pack the environment again with conda-pack.") from exc
    if not unpacks:
        raise PackedEnvError(f"{name} has no {UNPACK}, expected an archive that conda-pack made; pack the environment again with conda-pack.")
    return Packed(packages, machine)


def _refuse_unsafe(name: str, member: tarfile.TarInfo) -> None:
    where = os.path.normpath(member.name)
    targets = [where] + ([os.path.normpath(member.linkname)] if member.islnk() else [])
    if any(target.startswith(("/", "../")) or target == ".." for target in targets) or not (
            member.isfile() or member.isdir() or member.issym() or member.islnk()):
        raise PackedEnvError(f"{name} holds {member.name}, which would lie outside the environment or is no file; take another archive.")


def problems(packed: Packed, python_version: str, machine: str, packages: t.Sequence[str]) -> t.List[str]:
    """Why the archive does not fit: a sentence part each. packages: conda's names that have to be there, versions after them are not compared."""
    version = packed.packages.get("python")
    found = []
    if version is None:
        found.append("it has no Python")
    elif not (version + ".").startswith(python_version + "."):
        found.append(f"it has Python {version}, {python_version} is wanted")
    if packed.machine not in (None, machine):
        found.append(f"it is for {packed.machine}, the node is {machine}")
    names = [re.sub(r"[ =<>!].*$", "", package) for package in packages]
    return found + [f"it has no {name}" for name in names if name not in packed.packages]


def unpack(path: str, prefix: str, run: Runner, environment: t.Dict[str, str]) -> None:
    """Lay the environment beside `prefix`, give it its name, and let conda-unpack write the prefix into it. Raises PackedEnvError, OSError.

    Whoever calls has inspected the archive. What is in the way is never removed, what could not be finished is.
    """
    if os.path.lexists(prefix):
        raise PackedEnvError(f"{prefix} is there already, and not a working environment; move it away.")
    beside = prefix + ".npuops-new"
    shutil.rmtree(beside, ignore_errors=True)
    os.makedirs(beside, mode=0o755)
    try:
        with tarfile.open(path, "r:*") as archive:
            # Their owners are those of another computer.
            if hasattr(tarfile, "fully_trusted_filter"):
                archive.extractall(beside, filter=lambda member, _where: _ours(member))
            else:
                archive.extractall(beside, members=[_ours(member) for member in archive])
        os.rename(beside, prefix)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    try:
        python = os.path.join(prefix, "bin", "python")
        # Not -I: from 0.9 on conda-unpack imports a module that lies beside it.
        code, out, err = run([python, "-E", "-s", os.path.join(prefix, UNPACK)], environment)
        if code:
            raise PackedEnvError(f"conda-unpack failed in {prefix}: {_last_line(err, out)}; pack the environment again with conda-pack.")
        code, out, err = run([python, "-I", "-c", "import sys; print(sys.prefix)"], environment)
        if code or os.path.realpath(out.strip()) != os.path.realpath(prefix):
            raise PackedEnvError(f"{python} has the prefix {_last_line(out, err)}, expected {prefix}; pack the environment again with conda-pack.")
    except BaseException:
        shutil.rmtree(prefix, ignore_errors=True)
        raise


def _ours(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid, member.gid, member.uname, member.gname = os.getuid(), os.getgid(), "", ""
    # The service reads it as another user.
    member.mode = (member.mode | 0o644 | (0o111 if member.isdir() or member.mode & 0o100 else 0)) & 0o755
    return member


def _last_line(*texts: str) -> str:
    return next((text.strip().splitlines()[-1].strip() for text in texts if text.strip()), "no output")
