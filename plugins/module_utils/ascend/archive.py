# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The vendor's .zip archives: one or two .run packages with their signature files (.cms, .crl), or such an archive inside another one.

The layout is that which https://pypi.org/project/ascend-deployer/ (jobs.py) unpacks: the outer archive holds NAME, NAME.cms and
a .crl; where NAME is itself a .zip, the .run packages are in that.
"""
from __future__ import annotations

import os
import shutil
import stat
import zipfile
from dataclasses import dataclass
from typing import IO

from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend import run
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend.package import Package, PackageError

_SIGNATURES = (".cms", ".crl")


@dataclass(frozen=True)
class Unpacked:
    """What an archive held: the package to run, its signature files, and the file that the signature is for."""

    run: str
    signatures: list[str]
    signed: str | None


def _members(archive: zipfile.ZipFile, name: str) -> dict[str, zipfile.ZipInfo]:
    """File name -> member. Raises PackageError for members that would be written elsewhere."""
    members = {}
    for member in archive.infolist():
        if member.is_dir():
            continue
        parts = member.filename.replace("\\", "/").split("/")
        if member.filename.startswith("/") or ".." in parts or stat.S_ISLNK(member.external_attr >> 16):
            raise PackageError(f"{name} holds the member {member.filename!r}, which points out of it; get the archive from the vendor again.")
        members[parts[-1]] = member
    return members


def _pick(names: list[str], kind: str, archive_name: str) -> str:
    """The .run of a kind among file names. Raises PackageError when it isn't one."""
    fitting = []
    for name in names:
        try:
            if name.endswith(".run") and Package.parse(name).kind == kind:
                fitting.append(name)
        except PackageError:
            continue
    if len(fitting) != 1:
        there = ", ".join(sorted(names)) or "nothing"
        raise PackageError(f"{archive_name} holds {len(fitting)} {kind} packages, expected one (it holds {there}); get the archive from the vendor again.")
    return fitting[0]


def _open(source: str | IO[bytes], name: str) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(source)
    except (zipfile.BadZipFile, NotImplementedError) as exc:
        raise PackageError(f"{name} is no readable .zip archive ({exc}); send it again.")


def find_run(path: str, kind: str) -> str:
    """The name of the .run package of a kind that an archive holds. Raises PackageError, OSError."""
    name = os.path.basename(path)
    with _open(path, name) as outer:
        members = _members(outer, name)
        nested = [inner for inner in members if inner.endswith(".zip")]
        if not nested:
            return _pick(list(members), kind, name)
        with outer.open(members[nested[0]]) as stream, _open(stream, nested[0]) as archive:
            return _pick(list(_members(archive, nested[0])), kind, nested[0])


def _extract(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: str) -> str:
    with archive.open(member) as source, open(target, "wb") as file:
        shutil.copyfileobj(source, file, 1024 * 1024)
    return target


def unpack(path: str, kind: str, folder: str) -> Unpacked:
    """Unpack the .run of a kind and the signature files into a folder. Raises PackageError, OSError (a full disk)."""
    os.makedirs(folder, mode=0o755, exist_ok=True)
    name = os.path.basename(path)
    try:
        with _open(path, name) as outer:
            members = _members(outer, name)
            signatures = [_extract(outer, members[found], os.path.join(folder, found)) for found in sorted(members) if found.endswith(_SIGNATURES)]
            nested = [inner for inner in members if inner.endswith(".zip")]
            if nested:
                signed = _extract(outer, members[nested[0]], os.path.join(folder, nested[0]))
                with _open(signed, nested[0]) as archive:
                    inside = _members(archive, nested[0])
                    wanted = _pick(list(inside), kind, nested[0])
                    return Unpacked(_extract(archive, inside[wanted], os.path.join(folder, wanted)), signatures, signed)
            wanted = _pick(list(members), kind, name)
            target = _extract(outer, members[wanted], os.path.join(folder, wanted))
            return Unpacked(target, signatures, target)
    except (zipfile.BadZipFile, EOFError) as exc:
        raise PackageError(f"{name} is damaged ({exc}); send it again.")


def clean(unpacked: Unpacked) -> None:
    """Remove the large files again; the signature files stay as evidence."""
    for path in dict.fromkeys([unpacked.run, unpacked.signed]):
        if path and os.path.exists(path):
            os.unlink(path)


def verify(unpacked: Unpacked, authority: str, ignore_time: bool) -> None:
    """Check the vendor's signature with openssl against the user's certificate authority. Raises PackageError when it doesn't verify."""
    signature = (unpacked.signed or "") + ".cms"
    if signature not in unpacked.signatures:
        raise PackageError(
            f"{os.path.basename(unpacked.signed or unpacked.run)} came without its .cms signature; get the vendor's .zip, or leave signature_ca out."
        )
    command = ["openssl", "cms", "-verify", "-binary", "-inform", "DER", "-in", signature, "-content", unpacked.signed or ""]
    command += ["-CAfile", authority, "-purpose", "any"]
    outcome = run.capture(command + (["-no_check_time"] if ignore_time else []) + ["-out", os.devnull], 600)
    if outcome.rc != 0:
        lines = [line for line in outcome.output.splitlines() if line.strip()]
        telling = [line for line in lines if "erification" in line] or lines or [f"openssl returned {outcome.rc}"]
        said = outcome.reason or telling[-1]
        raise PackageError(
            f"the signature {signature} does not verify against {authority} ({said}); get the archive from the vendor again, or correct signature_ca."
        )
