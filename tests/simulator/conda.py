# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The simulated Miniconda: an installer whose `conda` is a stand-in for the command line, over a real solver and real environments.

The solver is py-rattler. On a node of this computer `conda` runs with the Python that has it; the installer for any other machine
carries its wheel, as the real one carries libmamba.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import channel
from runpack import World, render
from tree import Tree

INSTALLER = "Miniconda3-py311_24.9.2-0"


def rattler_version() -> str:
    """What requirements-rehearsal.txt has pinned for this Python."""
    return importlib.metadata.version("py-rattler")


def has_rattler(python: str) -> bool:
    try:
        return subprocess.run([python, "-I", "-c", "import rattler"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def rattler_wheel(arch: str) -> Path:
    """The wheel of py-rattler for nodes of `arch`, fetched once by pip. Raises OSError with pip's words."""
    version = rattler_version()
    found = sorted(channel.CACHE.glob(f"py_rattler-{version}-*{arch}.whl"))
    if found:
        return found[0]
    channel.CACHE.mkdir(parents=True, exist_ok=True)
    platforms = [f"--platform={name}_{arch}" for name in ("manylinux2014", "manylinux_2_17", "manylinux_2_28")]
    with tempfile.TemporaryDirectory(dir=channel.CACHE) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
        done = subprocess.run([*command, *platforms, f"--dest={folder}", f"py-rattler=={version}"], capture_output=True, text=True, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            raise OSError(f"py-rattler {version} for {arch} can't be fetched: {(done.stderr.strip() or 'no output').splitlines()[-1]}")
        return wheels[0].rename(channel.CACHE / wheels[0].name)


def installer(arch: str, python: str, world: World, internet: str = "") -> tuple[str, bytes]:
    """(file name, bytes) of the Miniconda-style installer. internet: a channel that answers for the ones which conda knows by name."""
    payload = Tree()
    for name in ("channels.py", "solver.py"):
        payload.file(f"simulator/{name}", render(f"conda/{name}", {}))
    payload.file("bin/conda", render("conda/cli.py", {}), 0o755)
    payload.file("LICENSE.txt", "Simulated by npuops: nothing of Anaconda is inside.\n")
    payload.folder("envs")
    payload.folder("pkgs")
    known = {"node_root": world.root, "internet": internet, "no_solver": ""}
    if not world.root or arch != platform.machine() or not has_rattler(python):
        try:
            payload.file("simulator/py_rattler.whl", rattler_wheel(arch).read_bytes())
        except OSError as exc:
            known["no_solver"] = str(exc)
    payload.file("simulator/known.json", json.dumps(known, indent=1) + "\n")
    for name, version in (("conda", "24.9.2"), ("python", "3.11.10")):
        record = {"name": name, "version": version, "build": "py311_0", "channel": "pkgs/main", "subdir": channel.SUBDIRS[arch], "simulated": "by npuops"}
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
