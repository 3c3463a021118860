# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What has to be done about one vendor package: a value, made from its name and from what is on disk.

Options of the packages: driver and firmware after https://gitcode.com/cann/driver (args_parse.sh, help.info) and
https://pypi.org/project/ascend-deployer/ (library/process_npu.py); CANN after https://github.com/Ascend/cann-container-image.
"""
from __future__ import annotations

import glob
import os
from dataclasses import dataclass, field, replace

from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend import archive, records
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend.package import (
    HDK_KINDS,
    Package,
    PackageError,
    action_of,
    reason_to_install,
)
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend.version import compare

DEFAULT_ROOT = "/usr/local/Ascend"


@dataclass(frozen=True)
class Roots:
    """Where to look; a test has its own."""

    ascend: str = DEFAULT_ROOT
    etc: str = "/etc"
    sysfs: str = "/sys"
    proc: str = "/proc"
    dev: str = "/dev"
    state: str = "/var/lib/npuops"

    @property
    def var(self) -> str:
        """Where /var is: beside /etc, wherever that is."""
        return os.path.join(os.path.dirname(os.path.abspath(self.etc)), "var")


@dataclass(frozen=True)
class Wish:
    """What the user asked for."""

    kind: str
    src: str | None = None
    state: str = "present"
    version: str | None = None  # only for state=absent without src
    install_for_all: bool = False
    username: str = "HwHiAiUser"
    usergroup: str = "HwHiAiUser"
    force: bool = False
    accept_eula: bool = False
    sha256: str | None = None
    cxx_abi: int | None = None
    kernel_modules: str = "build"  # or "prebuilt"
    signature_ca: str | None = None
    signature_ignore_time: bool = False
    npu_smi: str = ""
    driver_version: str | None = None  # the driver that the node will have, for a judgement before it is there


@dataclass(frozen=True)
class Installed:
    """What is on disk of one kind. `partial` says what an interrupted installation or removal lacks; `uninstaller` is a script or None."""

    version: str | None = None
    partial: str | None = None
    chips: tuple[str, ...] | None = None
    path: str | None = None
    uninstaller: str | None = None
    record: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """A decision: nothing to do where `reason` is None. An empty command with a reason: nothing is there to do it with."""

    wish: Wish
    package: Package | None
    before: Installed
    action: str  # install, upgrade, downgrade, reinstall or remove
    reason: str | None
    command: tuple[str, ...] = ()

    @property
    def unpack_folder(self) -> str | None:
        """Where an archive's package must be unpacked to before it runs; None for a .run, and when a script on disk does it."""
        if self.package is None or self.package.format != "zip" or len(self.command) < 2 or not self.command[1].endswith(".run"):
            return None
        return os.path.dirname(self.command[1])

    @property
    def wanted(self) -> str | None:
        """The version that must be on disk afterwards; None after a removal."""
        if self.wish.state == "absent":
            return None
        return self.package.version if self.package else self.wish.version


def _first_file(*patterns: str) -> str | None:
    for pattern in patterns:
        for path in sorted(glob.glob(pattern)):
            if os.path.isfile(path):
                return path
    return None


def _partial(record: dict, prefix: str = "") -> str | None:
    return record[prefix + "reason"] if record[prefix + "state"] == "partial" else None


def _driver(roots: Roots) -> Installed:
    driver = records.read_driver(roots.ascend, roots.etc)
    path = driver["path"] or os.path.join(roots.ascend, "driver")
    return Installed(
        version=driver["version"], partial=_partial(driver), path=path,
        uninstaller=_first_file(os.path.join(glob.escape(path), "script", "uninstall.sh")), record=driver,
    )


def _firmware(roots: Roots) -> Installed:
    firmware = records.read_firmware(roots.ascend)
    path = os.path.join(roots.ascend, "firmware")
    return Installed(
        version=firmware["version"], partial=_partial(firmware), path=path,
        uninstaller=_first_file(os.path.join(glob.escape(path), "script", "uninstall.sh")), record=firmware,
    )


def _tree(roots: Roots, version: str | None) -> tuple[dict, dict | None]:
    cann = records.read_cann(roots.ascend)
    tree = records.find_tree(cann, version or "latest")
    if tree is None and version is None and len(cann["trees"]) == 1:
        tree = cann["trees"][0]
    return cann, tree


def _toolkit(roots: Roots, version: str | None) -> Installed:
    cann, tree = _tree(roots, version)
    if tree is None:
        # Another version beside the wanted one is not in its way; it is named in the reason.
        others = [found["toolkit"] for found in cann["trees"] if found["toolkit"]]
        return Installed(version=others[0] if others else None)
    path = glob.escape(tree["path"])
    return Installed(
        version=tree["toolkit"], partial=_partial(tree, "toolkit_"), path=tree["path"], record=tree,
        uninstaller=_first_file(
            os.path.join(path, "*-linux", "script", "uninstall.sh"), os.path.join(path, "script", "uninstall.sh"), os.path.join(path, "cann_uninstall.sh"),
        ),
    )


def _kernels(roots: Roots, version: str | None) -> Installed:
    cann, tree = _tree(roots, version)
    if tree is None:
        others = [found["kernels"]["version"] for found in cann["trees"] if found["kernels"]]
        return Installed(version=others[0] if others else None)
    path, kernels = glob.escape(tree["path"]), tree["kernels"] or {}
    return Installed(
        version=kernels.get("version"), partial=_partial(tree, "kernels_"), chips=tuple(kernels.get("chips", ())), path=tree["path"], record=tree,
        uninstaller=_first_file(
            os.path.join(path, "opp_kernel", "script", "uninstall.sh"), os.path.join(path, "*-linux", "script", "ops_uninstall.sh"),
            os.path.join(path, "script", "ops_uninstall.sh"),
        ),
    )


def _nnal(roots: Roots) -> Installed:
    nnal = records.read_nnal(roots.ascend)
    parent = glob.escape(os.path.join(roots.ascend, "nnal"))
    return Installed(
        version=nnal["version"], partial=_partial(nnal), path=nnal["path"], record=nnal,
        uninstaller=_first_file(
            os.path.join(parent, "nnal_uninstall.sh"), os.path.join(parent, "atb", "latest", "scripts", "uninstall.sh"),
            os.path.join(parent, "atb", "*", "scripts", "uninstall.sh"),
        ),
    )


def installed(kind: str, roots: Roots, version: str | None = None) -> Installed:
    """What is on disk of this kind; for CANN's parts, of this version (without one, of the version that `latest` stands for)."""
    if kind == "driver":
        return _driver(roots)
    if kind == "firmware":
        return _firmware(roots)
    if kind == "toolkit":
        return _toolkit(roots, version)
    if kind == "kernels":
        return _kernels(roots, version)
    return _nnal(roots)


def _install_path_option(roots: Roots, as_root: bool) -> list[str]:
    """--install-path, unless the system's record of CANN decides: where it stands the option is not given any more."""
    record = records.read_pairs(os.path.join(roots.etc, "Ascend", "ascend_cann_install.info"))[0] or {}
    return [] if as_root and record.get("Install_Path") else [f"--install-path={roots.ascend}"]


def install_command(wish: Wish, run: str, action: str, roots: Roots, as_root: bool) -> list[str]:
    """The vendor's command line. --nox11 and --quiet always: the prompts have no end of file (https://gitcode.com/cann/driver, driver_install.sh)."""
    command = ["bash", run, "--nox11"]
    if wish.kind == "driver":
        if action == "upgrade":
            # An upgrade takes user, path and access from the record and refuses the options.
            command += ["--upgrade", "--quiet"]
        else:
            command += ["--full", "--quiet"]
            if wish.install_for_all:
                command.append("--install-for-all")
            command += [f"--install-username={wish.username}", f"--install-usergroup={wish.usergroup}"]
            if roots.ascend != DEFAULT_ROOT:
                command.append(f"--install-path={roots.ascend}")
        if wish.force:
            command.append("--force")
        return command
    if wish.kind == "firmware":
        return command + (["--upgrade", "--quiet"] if action == "upgrade" else ["--full", "--quiet"])
    if action == "reinstall" and wish.kind != "nnal":
        # Over the same version the vendor's own deployer upgrades; NNAL's installer replaces by itself.
        return command + ["--upgrade", "--quiet"] + _install_path_option(roots, as_root)
    command += ["--install", "--quiet"] + _install_path_option(roots, as_root)
    return command + (["--install-for-all"] if wish.install_for_all else [])


def remove_command(wish: Wish, run: str | None, before: Installed) -> list[str]:
    """The vendor's uninstaller on disk, or the package's own option where the script is gone."""
    force = ["--force"] if wish.force and wish.kind == "driver" else []
    if before.uninstaller:
        return ["bash", before.uninstaller] + (["--quiet"] if wish.kind == "driver" else []) + force
    if run is None:
        return []
    # Driver and firmware take --uninstall alone or with --force, and refuse --quiet beside it.
    return ["bash", run, "--nox11", "--uninstall"] + (force if wish.kind in HDK_KINDS else ["--quiet"])


def _run_file(wish: Wish, package: Package | None, roots: Roots) -> tuple[Package | None, str | None]:
    """The package that will run, and where it will lie. An archive's is unpacked below the state folder.

    The firmware's own version stands only inside the archive of driver and firmware: it is looked up where the archive is there.
    """
    if package is None or package.format == "run":
        return package, wish.src
    inner = os.path.splitext(package.name)[0] + ".run"
    if package.kind == "hdk" and wish.src and os.path.isfile(wish.src):
        inner = archive.find_run(wish.src, wish.kind)
        found = Package.parse(inner)
        package = Package(package.name, wish.kind, found.version, found.chip, found.arch, package.format)
    return package, os.path.join(roots.state, "unpacked", os.path.splitext(package.name)[0], inner)


def _absent(wish: Wish, roots: Roots, package: Package | None, run: str | None) -> Plan:
    version = package.version if package else wish.version
    before = installed(wish.kind, roots, version)
    if wish.kind == "nnal" and version and version in before.record["versions"] and version != before.version:
        script = _first_file(os.path.join(glob.escape(roots.ascend), "nnal", "atb", version, "scripts", "uninstall.sh"))
        before = replace(before, version=version, partial=None, uninstaller=script)
    there = before.version is not None or before.partial is not None
    if there and before.version and version and wish.kind not in HDK_KINDS:
        # Another version than the one to be removed stays.
        there = compare(before.version, version) == 0
    label = f"{wish.kind} {before.version}" if before.version else f"incomplete {wish.kind}"
    verb = "are" if wish.kind == "kernels" else "is"
    reason = f"{label} {verb} installed" if there else None
    return Plan(wish, package, before, "remove", reason, tuple(remove_command(wish, run, before)) if there else ())


def make(wish: Wish, roots: Roots, as_root: bool | None = None) -> Plan:
    """Decide. Raises PackageError when the file's name doesn't tell what is wanted, OSError when an archive cannot be read."""
    as_root = os.geteuid() == 0 if as_root is None else as_root
    package, run = _run_file(wish, Package.of_kind(os.path.basename(wish.src), wish.kind) if wish.src else None, roots)
    if wish.state == "absent":
        return _absent(wish, roots, package, run)
    if package is None or run is None:
        raise PackageError(f"kind={wish.kind} has no src; give the path of the package (its name is enough where nothing has to be installed).")
    before = installed(wish.kind, roots, package.version)
    if package.kind == "hdk" and wish.kind == "firmware":
        # Known by the archive's name only: the record tells which HDK the firmware came with.
        before = replace(before, version=before.record.get("package_version") or before.version)
    reason = reason_to_install(
        wish.kind, package.version, before.version, before.partial, package.chip, None if before.chips is None else list(before.chips), wish.force,
    )
    action = action_of(wish.kind, package.version, before.version, before.partial)
    other_chip = before.chips is not None and package.chip not in before.chips
    if reason and action == "install" and before.version and compare(before.version, package.version) == 0 and not (other_chip and before.chips):
        action = "reinstall"
    return Plan(wish, package, before, action, reason, tuple(install_command(wish, run, action, roots, as_root)) if reason else ())
