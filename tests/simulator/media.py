# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The simulated media: everything that an installation takes, with its manifest.

One function a kind of file, so that a test can ask for another release, another architecture or a package of its own.
"""

from __future__ import annotations

import hashlib
import io
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

import channel
import conda
import sources
import wheels
import yaml
from cann import CANN_8_1, CANN_8_3, Cann, kernels_package, nnal_package, toolkit_package
from hdk import HDK_25_0, HDK_25_3, Hdk, driver_package, firmware_package
from runpack import World
from tree import DATE


@dataclass(frozen=True)
class Release:
    """One published set of vendor packages."""

    hdk: Hdk
    cann: Cann


RELEASES = {"guide": Release(HDK_25_0, CANN_8_1), "upstream-2025-10": Release(HDK_25_3, CANN_8_3)}


class Media:
    """Files of the media by their path below it, with what the manifest says of each."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.described: dict[str, dict[str, str]] = {}

    def put(self, path: str, content: bytes, version: str, arch: str, what: str, supplier: str = "") -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        self.described[path] = {"version": version, "arch": arch, "origin": f"simulated {what}", **({"supplier": supplier} if supplier else {})}

    def describe(self, entry: dict[str, str]) -> None:
        """Take over what another builder says of a file that it laid: path, version, arch, origin, maybe supplier."""
        self.described[entry["path"]] = {key: value for key, value in entry.items() if key != "path"}

    def write_manifest(self) -> None:
        """manifest.yml over every file that lies in the media, those laid by others included."""
        files = []
        for path in sorted(item for item in self.root.rglob("*") if item.is_file() and item.name != "manifest.yml"):
            name = path.relative_to(self.root).as_posix()
            known = self.described.get(name, {"version": "simulated", "arch": "noarch", "origin": "simulated file of the engine"})
            files.append({"path": name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "size": path.stat().st_size, **known})
        text = "---\n# Written by tests/simulator/build.py: nothing here comes from a vendor.\n" + yaml.safe_dump(
            {"files": files}, sort_keys=False, width=200
        )
        (self.root / "manifest.yml").write_text(text)


def vendor_zip(*packages: tuple[str, bytes]) -> bytes:
    """The zip that the vendor publishes: the .run files (for HDK driver and firmware together), each with its two signature files."""
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in packages:
            # ASSUMPTION: the signature files' names; that there are .cms and .crl files is likely (facts: ascend-vendor.md 1.1).
            for path, data in ((name, content), (f"{name}.cms", b"simulated signature"), (f"{name}.crl", b"simulated revocation list")):
                archive.writestr(zipfile.ZipInfo(path, time.gmtime(DATE)[:6]), data)
    return raw.getvalue()


def vendor_packages(media: Media, release: Release, arch: str, world: World) -> None:
    """ascend/: driver, firmware, toolkit, kernels-910b and NNAL."""
    name, content = driver_package(release.hdk, arch, world)
    media.put(f"ascend/{name}", content, release.hdk.driver, arch, "Ascend HDK driver package")
    name, content = firmware_package(release.hdk, world)
    media.put(f"ascend/{name}", content, release.hdk.firmware, "noarch", "Ascend HDK firmware package")
    for what, package in (("toolkit", toolkit_package), ("kernels", kernels_package), ("NNAL", nnal_package)):
        name, content = package(release.cann, arch, world)
        media.put(f"ascend/{name}", content, release.cann.version, arch, f"CANN {what} package")


def conda_files(media: Media, arch: str, python: str, world: World, internet: str = "") -> None:
    """conda/: the installer and the channel mirror; internet: where this mirror will lie, which answers for conda-forge too."""
    name, content = conda.installer(arch, python, world, internet)
    media.put(f"conda/{name}", content, "py311_24.9.2-0", arch, "Miniconda installer")
    for path, data in channel.channel(arch, python, system=not world.root).items():
        media.put(f"conda/channel/{path}", data, "simulated", "noarch" if path.startswith("noarch/") else arch, "conda channel")


def wheel_files(media: Media, arch: str, published: str = "") -> None:
    """wheels/<arch>/: the guide's pip set and its lock. published: the distributions that are not simulated but PyPI's, or "all"."""
    for name, content in wheels.wheelhouse(arch, published).items():
        version = name.split("-")[1] if name.endswith(".whl") else "simulated"
        media.put(f"wheels/{arch}/{name}", content, version, arch, "wheel" if name.endswith(".whl") else "lock of the wheels")


def source_files(media: Media, world: World) -> None:
    """source/: op-plugin as an archive, and as a git bundle where git is at hand."""
    tree = sources.op_plugin(world)
    supplier = "who supplies the deployment guide's private parts"
    media.put(f"source/{sources.NAME}.tar.gz", tree.tar(sources.NAME, 9), "7.0.0", "noarch", "adapted op-plugin", supplier=supplier)
    bundle = sources.git_bundle(tree, "7.0.0", "op-plugin 7.0.0, simulated")
    if bundle is not None:
        media.put(f"source/{sources.NAME}.bundle", bundle, "7.0.0", "noarch", "adapted op-plugin, as a git bundle", supplier=supplier)
