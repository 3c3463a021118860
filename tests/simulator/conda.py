# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The simulated Miniconda: an installer with a conda that answers a deployment's calls, and a channel mirror."""

from __future__ import annotations

import bz2
import hashlib
import io
import json
import subprocess
import tarfile

import elf
from runpack import World, render
from tree import Tree, member

INSTALLER = "Miniconda3-py311_24.9.2-0"
SUBDIRS = {"x86_64": "linux-64", "aarch64": "linux-aarch64"}


def python_version(python: str) -> str:
    """X.Y.Z of `python`; an empty string when it can't be asked here (it may exist in a container only)."""
    try:
        return subprocess.run([python, "-c", "import platform; print(platform.python_version())"], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "3.11.11"


def packages(version: str) -> list[dict[str, object]]:
    """What the channels have: name, version, build, dependencies, whether conda-forge has it, and where it lies."""
    return [
        {"name": "python", "version": version, "build": "h955ad1f_0", "depends": ["libgcc-ng", "pip"], "forge": True, "noarch": False},
        {"name": "pip", "version": "24.2", "build": "py311_0", "depends": ["python"], "forge": True, "noarch": True},
        {"name": "libgcc-ng", "version": "13.2.0", "build": "h807b86a_5", "depends": [], "forge": True, "noarch": False},
        {"name": "libstdcxx-ng", "version": "13.2.0", "build": "h7e041cc_5", "depends": [], "forge": True, "noarch": False},
        {"name": "ca-certificates", "version": "2024.9.24", "build": "h06a4308_0", "depends": [], "forge": True, "noarch": False},
        {"name": "openssl", "version": "3.0.15", "build": "h5eee18b_0", "depends": [], "forge": True, "noarch": False},
    ]


def installer(arch: str, python: str, world: World) -> tuple[str, bytes]:
    """(file name, bytes) of the Miniconda-style installer."""
    payload = Tree()
    payload.file("bin/conda", render("conda/cli.py", {}), 0o755)
    payload.file("simulator/channels.py", render("conda/channels.py", {}))
    payload.file("LICENSE.txt", "Simulated by npuops: nothing of Anaconda is inside.\n")
    payload.folder("envs")
    payload.folder("pkgs")
    known = {"python": python, "node_root": world.root, "packages": packages(python_version(python))}
    payload.file("simulator/packages.json", json.dumps(known, indent=1) + "\n")
    payload.file(
        "simulator/libstdc++.so.6", elf.shared_object(arch, "libstdc++.so.6", ["_ZSt4cout"], (), b"\0GLIBCXX_3.4.30\0GLIBCXX_3.4.31\0GLIBCXX_3.4.32\0")
    )
    for name, version in (("conda", "24.9.2"), ("python", "3.11.10")):
        record = {"name": name, "version": version, "build": "py311_0", "channel": "pkgs/main", "subdir": SUBDIRS[arch], "simulated": "by npuops"}
        payload.file(f"conda-meta/{name}-{version}-py311_0.json", json.dumps(record) + "\n")
    data = payload.tar()
    name = f"{INSTALLER}-Linux-{arch}.sh"
    header = render(
        "conda/installer.sh",
        {
            "NAME": name,
            "VERSION": "py311_24.9.2-0",
            "ARCH": arch,
            "PYTHON": python,
            "ROOT": world.root,
            "HOME_DIR": world.home if world.root else "$HOME",
            "SHA256": hashlib.sha256(data).hexdigest(),
        },
    )
    header = header.replace("@HEADER_LINES@", str(header.count("\n")))
    return name, header.encode() + data


def conda_package(record: dict[str, object], subdir: str) -> bytes:
    """A .tar.bz2 package with info/index.json and nothing else."""
    index = json.dumps(
        {**{key: record[key] for key in ("name", "version", "build", "depends")}, "build_number": 0, "subdir": subdir, "simulated": "by npuops"}
    ).encode()
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.GNU_FORMAT) as archive:
        info = member("info/index.json", tarfile.REGTYPE, 0o644)
        info.size = len(index)
        archive.addfile(info, io.BytesIO(index))
    return bz2.compress(raw.getvalue(), 1)


def channel(arch: str, python: str) -> dict[str, bytes]:
    """Files of a channel mirror, by their path below conda/channel."""
    files: dict[str, bytes] = {}
    subdir = SUBDIRS[arch]
    indexes: dict[str, dict[str, object]] = {subdir: {}, "noarch": {}}
    for record in packages(python_version(python)):
        where = "noarch" if record["noarch"] else subdir
        name = f"{record['name']}-{record['version']}-{record['build']}.tar.bz2"
        content = conda_package(record, where)
        files[f"{where}/{name}"] = content
        indexes[where][name] = {
            **{key: record[key] for key in ("name", "version", "build", "depends")},
            "build_number": 0,
            "subdir": where,
            "size": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "md5": hashlib.md5(content).hexdigest(),
        }
    for where, index in indexes.items():
        files[f"{where}/repodata.json"] = (
            json.dumps({"info": {"subdir": where}, "packages": index, "packages.conda": {}, "repodata_version": 1}, indent=1) + "\n"
        ).encode()
    return files
