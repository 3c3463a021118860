# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Self-extracting .run packages: a shell header like makeself's in front of a .tar.gz."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from tree import Tree

PACKAGES = Path(__file__).resolve().parent / "packages"


@dataclass(frozen=True)
class World:
    """Where the installers of one simulated node act, and as whom.

    root: folder of the simulated node, "" for the machine itself (--system).
    privileged: the installers may do what only root may; else they behave as for an ordinary user, whatever the uid.
    sysfs, proc: trees that describe the hardware; dev: where the device nodes are.
    """

    root: str
    privileged: bool
    sysfs: str
    proc: str
    dev: str

    @property
    def home(self) -> str:
        return f"{self.root}/home" if not self.privileged else f"{self.root}/root"

    def shell(self) -> str:
        """The same as shell assignments, sourced by every simulated script."""
        return "".join(
            f"{name}='{value}'\n"
            for name, value in {
                "SIM_ROOT": self.root,
                "SIM_PRIVILEGED": "y" if self.privileged else "n",
                "SIM_SYSFS": self.sysfs,
                "SIM_PROC": self.proc,
                "SIM_DEV": self.dev,
                "SIM_HOME": self.home,
                "SIM_STATE": f"{self.root}/var/lib/npuops-simulator",
            }.items()
        )


def render(template: str, values: dict[str, str]) -> str:
    """The text of packages/<template> with each @NAME@ replaced."""
    text = (PACKAGES / template).read_text()
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text


def run_package(*, name: str, label: str, version: str, payload: Tree, world: World, help_text: str, vendor_check: bool = False) -> bytes:
    """The bytes of the package `name`: payload must hold install.sh at its top."""
    data = payload.tar()
    unpacked = sum(len(content) for kind, _, content in payload.entries.values() if kind == "file")
    values = {
        "LABEL": label,
        "RUN_NAME": name,
        "VERSION": version,
        "SHA256": hashlib.sha256(data).hexdigest(),
        "PAYLOAD_BYTES": str(len(data)),
        "VENDOR_CHECK": "y" if vendor_check else "n",
        "TMP_ROOT": f"{world.root}/tmp" if world.root else "",
        "MAKESELF_LOG": f"{world.home}/log/makeself/makeself.log",
        "HELP": help_text.rstrip("\n"),
        "UNPACKED_KB": str(unpacked // 1024 + 1),
    }
    header = render("header.sh", values)
    lines = header.count("\n")
    return header.replace("@HEADER_LINES@", str(lines)).encode() + data
