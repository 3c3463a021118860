# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a vendor package is, told by its name alone, so that a node can be judged before the file is there.

The name grammar is that of the vendor's own installer, https://pypi.org/project/ascend-deployer/ (library/process_npu.py,
scripts/pkg_utils.py, downloader/software/*.json), and of https://github.com/Ascend/cann-container-image.
"""
from __future__ import annotations

import re
from dataclasses import dataclass

from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend.version import compare

KINDS = ("driver", "firmware", "toolkit", "kernels", "nnal")
HDK_KINDS = ("driver", "firmware")

_VERSION = r"(?P<version>\d+\.[\w.]*?)"
_PLATFORM = r"(?:_linux(?:-(?P<arch>aarch64|x86[-_]64))?)"
_END = r"\.(?P<format>run|zip)"
_PATTERNS = tuple(
    (kind, re.compile(pattern, re.IGNORECASE))
    for kind, pattern in (
        # Ascend-hdk-910b-npu-driver_25.0.rc1.1_linux-aarch64.run, Atlas-A3-hdk-npu-driver_…, …_25.0.rc1_sph001_linux.run
        (None, r"Ascend-hdk-(?P<chip>[\w]+)-npu-(?P<kind>driver|firmware)_" + _VERSION + _PLATFORM + "?" + _END),
        (None, r"(?:Atlas|Ascend)-(?P<chip>A\d)-hdk-npu-(?P<kind>driver|firmware)_" + _VERSION + _PLATFORM + "?" + _END),
        # Built from the vendor's open source: Ascend-hdk-910b-driver-25.5.0_ubuntu22.04-aarch64.run
        (None, r"Ascend-hdk-(?P<chip>\w+)-(?P<kind>driver)-" + _VERSION + r"_[a-z][\w.]*-(?P<arch>aarch64|x86[-_]64)" + _END),
        # One archive with driver and firmware: Ascend-hdk-910b-npu_25.0.rc1.1_linux-aarch64.zip
        ("hdk", r"Ascend-hdk-(?P<chip>\w+)-npu_" + _VERSION + _PLATFORM + _END),
        ("hdk", r"(?:Ascend)?(?P<chip>\w+)-hdk-npu_" + _VERSION + _PLATFORM + _END),
        ("hdk", r"Atlas-(?P<chip>A\d)-hdk-npu_" + _VERSION + _PLATFORM + _END),
        (None, r"Ascend-cann-(?P<kind>toolkit|nnal)_" + _VERSION + _PLATFORM + _END),
        ("kernels", r"Ascend-cann-kernels-(?P<chip>\w+?)_" + _VERSION + _PLATFORM + _END),
        ("kernels", r"Ascend-cann-(?P<chip>\w+?)-ops_" + _VERSION + _PLATFORM + _END),
        ("kernels", r"Atlas-(?P<chip>A\d)-cann-kernels_" + _VERSION + _PLATFORM + _END),
    )
)
_EXAMPLES = {
    "driver": "Ascend-hdk-910b-npu-driver_25.0.rc1.1_linux-aarch64.run",
    "firmware": "Ascend-hdk-910b-npu-firmware_7.7.0.1.231.run",
    "toolkit": "Ascend-cann-toolkit_8.1.RC1_linux-aarch64.run",
    "kernels": "Ascend-cann-kernels-910b_8.1.RC1_linux-aarch64.run",
    "nnal": "Ascend-cann-nnal_8.1.RC1_linux-aarch64.run",
}
# The vendor's other names of one family: ascend910_93 in folders, A3 in package names.
_FAMILY_ALIASES = {"910_93": "a3", "910c": "a3", "910a": "910", "910pro": "910", "a5": "950"}


class PackageError(Exception):
    """A package that this collection cannot judge or handle; the text says the fact, the expectation and the next step."""


def family(chip: str) -> str:
    """The chip family in this collection's spelling, from a package's or a folder's: 910B, ascend910b and 910b are "910b"."""
    name = chip.lower()
    name = name[len("ascend"):] if name.startswith("ascend") else name
    return _FAMILY_ALIASES.get(name, name)


@dataclass(frozen=True)
class Package:
    """A vendor package as its name describes it."""

    name: str
    kind: str  # one of KINDS, or "hdk" for an archive that holds driver and firmware
    version: str
    chip: str | None  # family, such as 910b; None for what fits every chip
    arch: str | None  # aarch64 or x86_64; None for what fits both
    format: str  # run or zip

    @classmethod
    def parse(cls, name: str) -> Package:
        """Read a file's name. Raises PackageError for a name that is none of the vendor's."""
        for kind, pattern in _PATTERNS:
            match = pattern.fullmatch(name)
            if match:
                found = match.groupdict()
                return cls(
                    name=name,
                    kind=kind or found["kind"].lower(),
                    version=found["version"],
                    chip=family(found["chip"]) if found.get("chip") else None,
                    arch=found["arch"].lower().replace("-", "_") if found.get("arch") else None,
                    format=found["format"].lower(),
                )
        raise PackageError(
            f"{name!r} is not the name of an Ascend driver, firmware, toolkit, kernels or NNAL package; "
            f"keep the vendor's file name, such as {_EXAMPLES['toolkit']}."
        )

    @classmethod
    def of_kind(cls, name: str, kind: str) -> Package:
        """Read the name of a package that must be of this kind, or be an archive that holds it."""
        package = cls.parse(name)
        if package.kind != kind and not (package.kind == "hdk" and kind in HDK_KINDS):
            raise PackageError(f"{name} is a {package.kind} package, but kind={kind} was asked for; give a file such as {_EXAMPLES[kind]}.")
        return package


def reason_to_install(
    kind: str, wanted: str, installed: str | None, missing: str | None = None, chip: str | None = None, chips: list[str] | None = None, force: bool = False
) -> str | None:
    """Why the node needs this package, in words for the user, or None when it has it.

    `missing` says what an interrupted or half-removed installation lacks; `chips` are the families that installed kernels serve.
    """
    verb = "are" if kind == "kernels" else "is"
    if missing:
        return f"{kind} {installed or wanted} {verb} only partly installed: {missing}"
    if installed is None:
        return f"{kind} {verb} not installed"
    if compare(installed, wanted):
        return f"{kind} {installed} {verb} installed, {wanted} {verb} wanted"
    if chip and chips is not None and chip not in chips:
        return f"{kind} {installed} {verb} installed for {', '.join(chips) or 'no chip'}, {chip} is wanted"
    if force:
        return f"{kind} {installed} {verb} installed, and installing again was asked for"
    return None


def action_of(kind: str, wanted: str, installed: str | None, missing: str | None = None) -> str:
    """What the vendor calls the change: install, upgrade or downgrade (CANN versions live side by side: always install)."""
    if kind not in HDK_KINDS or installed is None or missing:
        return "install"
    order = compare(installed, wanted)
    return "upgrade" if order < 0 else "downgrade" if order > 0 else "install"
