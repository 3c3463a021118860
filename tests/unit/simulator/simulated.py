"""A simulated node, and packages run on it as real processes."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

SIMULATOR = Path(__file__).resolve().parents[2] / "simulator"
# build.py runs as a script, so its modules import each other by their plain names.
if str(SIMULATOR) not in sys.path:
    sys.path.append(str(SIMULATOR))

from cann import CANN_8_1, kernels_package, nnal_package, toolkit_package  # noqa: E402
from hdk import HDK_25_0, driver_package, firmware_package  # noqa: E402
from node import lay_node  # noqa: E402
from runpack import World  # noqa: E402

ARCH = platform.machine()
OTHER_ARCH = {"x86_64": "aarch64", "aarch64": "x86_64"}[ARCH]


class Node:
    """A simulated node and the packages that act on it."""

    def __init__(self, root: Path, privileged: bool, hdk=HDK_25_0):
        self.root = root / "node"
        self.media = root / "media"
        self.media.mkdir(parents=True)
        self.world = World(str(self.root), privileged, f"{self.root}/sys", f"{self.root}/proc", f"{self.root}/dev")
        self.ascend = self.root / "usr/local/Ascend"
        self.toolkit = self.ascend / "ascend-toolkit"
        lay_node(self.root, hdk, ARCH, self.world)

    def file(self, name: str, content: bytes) -> Path:
        path = self.media / name
        path.write_bytes(content)
        return path

    def package(self, kind: str, release=None, arch: str = ARCH) -> Path:
        """The .run file of a kind: driver, firmware, toolkit, kernels or nnal."""
        if kind in ("driver", "firmware"):
            release = release or HDK_25_0
            return self.file(*(driver_package(release, arch, self.world) if kind == "driver" else firmware_package(release, self.world)))
        make = {"toolkit": toolkit_package, "kernels": kernels_package, "nnal": nnal_package}[kind]
        return self.file(*make(release or CANN_8_1, arch, self.world))

    def run(self, command, *arguments: str, stdin: str = "", env: dict[str, str] | None = None) -> subprocess.CompletedProcess:
        environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/nonexistent", "LANG": "C", **(env or {})}
        return subprocess.run(["bash", str(command), *arguments], input=stdin, env=environment, capture_output=True, text=True, timeout=60, check=False)

    def install(self, kind: str, *arguments: str, **keywords) -> subprocess.CompletedProcess:
        """The published line: --quiet, an action, and for CANN the install path."""
        if not arguments:
            arguments = ("--full", "--quiet") if kind in ("driver", "firmware") else ("--quiet", "--nox11", "--install", f"--install-path={self.ascend}")
        if kind == "nnal" and "env" not in keywords:
            keywords["env"] = self.toolkit_environment()
        return self.run(self.package(kind), *arguments, **keywords)

    def toolkit_environment(self) -> dict[str, str]:
        home = str(self.toolkit / "latest")
        return {"ASCEND_TOOLKIT_HOME": home, "ASCEND_HOME_PATH": home}

    def fault(self, name: str, content: str = "") -> Path:
        path = self.root / "var/lib/npuops-simulator/faults" / name
        path.write_text(content)
        return path

    def text(self, path: str) -> str:
        return (self.root / path).read_text()

    def add_user(self) -> None:
        for name, line in (("passwd", "HwHiAiUser:x:1000:1000::/home/HwHiAiUser:/bin/bash\n"), ("group", "HwHiAiUser:x:1000:\n")):
            path = self.root / "etc" / name
            path.write_text(path.read_text() + line)

    def snapshot(self) -> dict[str, tuple]:
        """Every path of the node with what it is, to see whether something changed."""
        found = {}
        for folder, folders, files in os.walk(self.root):
            for name in folders + files:
                path = os.path.join(folder, name)
                state = os.lstat(path)
                found[os.path.relpath(path, self.root)] = (
                    state.st_mode,
                    state.st_size if not os.path.isdir(path) else 0,
                    state.st_mtime_ns if not os.path.isdir(path) else 0,
                )
        return found
