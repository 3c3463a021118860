# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Why a planned change must not start on this node: all reasons at once, each with the command that repairs it.

What the vendor's installers refuse, and some that they don't but that would break the node. In check mode an earlier step
(the user, the driver, the toolkit, the file itself) counts as done: it would be there in a real run.
"""
from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import Iterator

from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend import node, pci, records
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend.package import HDK_KINDS
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend.plan import Plan, Roots

_DRIVER_MIN_MB = 300  # the vendor's own limit (https://gitcode.com/cann/driver, driver_install.sh)
_UNPACKED = 4  # unpacked and installed together, as a multiple of the package


@dataclass(frozen=True)
class Runner:
    """Who would run the installer, and whether for real."""

    uid: int
    machine: str
    check_mode: bool = False


def problem(identity: str, observed: str, expected: str, repair: str, severity: str = "error") -> dict:
    """One entry of the list that every part of the collection returns."""
    return {"id": f"ascend_{identity}", "severity": severity, "observed": observed, "expected": expected, "repair": repair}


def sha256(path: str) -> str:
    """The file's checksum in hexadecimal. Raises OSError."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1024 * 1024), b""):
            digest.update(block)
    return digest.hexdigest()


def _eula(plan: Plan) -> Iterator[dict]:
    if plan.wish.state == "present" and not plan.wish.accept_eula:
        yield problem(
            "eula", f"the licence of {plan.package.name if plan.package else plan.wish.kind} is not accepted", "accept_eula is true",
            "read the licence on https://www.hiascend.com/ and set npu_accept_eula: true",
        )


def _fits(plan: Plan, roots: Roots, runner: Runner) -> Iterator[dict]:
    package = plan.package
    if package is None or plan.wish.state != "present":
        return
    if package.arch and package.arch != runner.machine:
        yield problem(
            "arch", f"{package.name} is for {package.arch}, this node is {runner.machine}", f"a package for {runner.machine}",
            f"put the {runner.machine} package into the media",
        )
    if package.chip is None:
        return
    devices, reason = pci.scan(roots.sysfs)
    families = {pci.FAMILIES[device["device_id"]] for device in devices if device["device_id"] in pci.FAMILIES}
    if families and package.chip not in families:
        yield problem(
            "chip", f"{package.name} is for chip {package.chip}, this node has {' and '.join(sorted(families))}",
            f"a package for {' or '.join(sorted(families))}", "choose the package by the chip that npu_info reports",
        )
    elif not devices and plan.wish.kind in HDK_KINDS:
        yield problem("no_npu", reason or "no NPU was found", "an Ascend NPU on the PCI bus", "look at `lspci -d 19e5:` and the card's seat", "warning")


def _downgrade(plan: Plan) -> Iterator[dict]:
    if plan.action == "downgrade" and not plan.wish.force:
        yield problem(
            "downgrade", f"{plan.wish.kind} {plan.before.version} is installed and newer than {plan.wanted}", f"{plan.wanted} or an older version",
            f"choose {plan.before.version} or newer, or set force: true to go back to {plan.wanted}",
        )


def _file(plan: Plan, runner: Runner) -> Iterator[dict]:
    src = plan.wish.src
    if not src or (plan.wish.state == "absent" and plan.before.uninstaller):
        return
    if not os.path.isfile(src):
        if not runner.check_mode:
            yield problem("no_file", f"{src} is not on this node", "the package's file", "send it first (module npuops.ktransformers.media)")
        return
    if not os.access(src, os.R_OK):
        yield problem("unreadable", f"{src} may not be read by this user", "a readable file", f"chmod a+r {src}")
        return
    if plan.wish.sha256:
        found = sha256(src)
        if found != plan.wish.sha256.lower():
            yield problem("sha256", f"{src} has sha256 {found}", f"sha256 {plan.wish.sha256}", f"remove {src} and send it again")


def _rights(plan: Plan, roots: Roots, runner: Runner) -> Iterator[dict]:
    if plan.wish.kind in HDK_KINDS and runner.uid != 0:
        yield problem("root", f"the {plan.wish.kind} would be changed by uid {runner.uid}", "root", "run this task with become: true")
        return
    parent = node.existing_parent(roots.ascend)
    try:
        read_only = bool(os.statvfs(parent).f_flag & os.ST_RDONLY)
    except OSError:
        read_only = False
    if read_only:
        yield problem("read_only", f"{parent} is on a file system that is mounted read-only", "a writable one", f"mount -o remount,rw {parent}")
    elif not os.access(parent, os.W_OK | os.X_OK):
        yield problem("unwritable", f"{parent} may not be written by uid {runner.uid}", "a writable install_path", "choose another one, or become root")


def _space(plan: Plan, roots: Roots) -> Iterator[dict]:
    if plan.wish.state != "present":
        return
    try:
        size = os.path.getsize(plan.wish.src or "") // (1024 * 1024)
    except OSError:
        size = 0
    needed = max(_DRIVER_MIN_MB if plan.wish.kind == "driver" else 0, size * _UNPACKED)
    for path in (roots.ascend, os.environ.get("TMPDIR") or "/tmp"):
        free = node.free_mb(path)
        if free is not None and free < needed:
            yield problem(
                "disk", f"{free} MB are free on the file system of {path}", f"{needed} MB for {plan.wish.kind} {plan.wanted}",
                f"make room on {node.existing_parent(path)}",
            )


def _order(plan: Plan, roots: Roots, runner: Runner) -> Iterator[dict]:
    if plan.wish.state != "present" or runner.check_mode:
        return
    if plan.wish.kind == "firmware":
        driver = records.read_driver(roots.ascend, roots.etc)
        if not driver["complete"]:
            yield problem(
                "driver_first", f"there is no whole driver: {driver['reason']}", "the driver that goes with this firmware", "install the driver first",
            )
    if plan.wish.kind in ("kernels", "nnal"):
        cann = records.read_cann(roots.ascend)
        tree = records.find_tree(cann, plan.wanted or "latest")
        if tree is None or tree["toolkit_state"] != "installed":
            there = ", ".join(found["toolkit"] for found in cann["trees"] if found["toolkit"]) or "none"
            yield problem(
                "toolkit_first", f"toolkit {plan.wanted} is not installed below {roots.ascend} (installed: {there})",
                f"the toolkit of the same version, {plan.wanted}", f"install Ascend-cann-toolkit_{plan.wanted} first",
            )


def _users(plan: Plan, roots: Roots, runner: Runner) -> Iterator[dict]:
    wish = plan.wish
    if wish.kind != "driver" or wish.state != "present" or plan.action == "upgrade":
        return
    recorded = plan.before.record.get("user"), plan.before.record.get("group")
    if all(recorded) and recorded != (wish.username, wish.usergroup):
        yield problem(
            "other_user", f"the driver's record in {roots.etc}/ascend_install.info belongs to {recorded[0]}:{recorded[1]}",
            f"{wish.username}:{wish.usergroup}", f"set install_username: {recorded[0]} and install_usergroup: {recorded[1]}, or uninstall the driver first",
        )
    if wish.username == "root" and not wish.install_for_all:
        yield problem("root_user", "install_username is root", "root only with install_for_all: true", "choose HwHiAiUser, or set install_for_all: true")
    if runner.check_mode or wish.username == "root":
        return
    groups = node.groups_of(roots.etc, wish.username)
    if not groups:
        yield problem(
            "no_user", f"there is no user {wish.username} in {roots.etc}/passwd", f"user {wish.username} in group {wish.usergroup}",
            f"groupadd -f {wish.usergroup} && useradd -g {wish.usergroup} -d /home/{wish.username} -m -s /bin/bash {wish.username}",
        )
    elif wish.usergroup not in groups:
        yield problem(
            "not_in_group", f"{wish.username} is in {', '.join(groups)}", f"{wish.username} in group {wish.usergroup}",
            f"groupadd -f {wish.usergroup} && usermod -aG {wish.usergroup} {wish.username}",
        )


def _busy(plan: Plan, roots: Roots, runner: Runner) -> Iterator[dict]:
    if plan.wish.kind not in HDK_KINDS or plan.before.version is None or plan.wish.force:
        return
    found, unused_reason = node.holders(roots.proc, roots.dev, ignore=(os.getpid(),))
    if found:
        names = ", ".join(f"{holder['name'] or 'process'} ({holder['pid']})" for holder in found[:8])
        more = f" and {len(found) - 8} more" if len(found) > 8 else ""
        yield problem(
            "busy", f"the NPUs are in use by {names}{more}", f"no process on the NPUs while the {plan.wish.kind} is changed",
            "stop these programs or containers, or set force: true and reboot afterwards", "warning" if runner.check_mode else "error",
        )


def _record_elsewhere(plan: Plan, roots: Roots, runner: Runner) -> Iterator[dict]:
    if plan.wish.kind in HDK_KINDS or plan.wish.state != "present" or runner.uid != 0:
        return
    path = os.path.join(roots.etc, "Ascend", "ascend_cann_install.info")
    recorded = (records.read_pairs(path)[0] or {}).get("Install_Path")
    if recorded and os.path.realpath(recorded) != os.path.realpath(roots.ascend):
        yield problem(
            "other_path", f"{path} says that CANN is in {recorded}, and every later package follows it", f"install_path {roots.ascend}",
            f"set ascend_root: {recorded}, or remove {path} when no CANN is left in {recorded}",
        )


def _uninstaller(plan: Plan, runner: Runner) -> Iterator[dict]:
    if plan.wish.state == "absent" and not plan.command:
        yield problem(
            "no_uninstaller", f"{plan.reason}, but its uninstall script is gone", "the vendor's script, or the package that was installed",
            "give src, so that the package's own --uninstall can be used",
        )


def refusals(plan: Plan, roots: Roots, runner: Runner) -> list[dict]:
    """Every problem of this plan; none when there is nothing to do."""
    if plan.reason is None:
        return []
    return [
        *_eula(plan), *_fits(plan, roots, runner), *_downgrade(plan), *_file(plan, runner), *_rights(plan, roots, runner), *_space(plan, roots),
        *_order(plan, roots, runner), *_users(plan, roots, runner), *_busy(plan, roots, runner), *_record_elsewhere(plan, roots, runner),
        *_uninstaller(plan, runner),
    ]
