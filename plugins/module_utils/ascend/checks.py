# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Why a planned change must not start on this node: all reasons at once, each with the command that repairs it.

What the vendor's installers refuse, and some that they don't but that would break the node. In check mode an earlier step
(the user, the driver, the toolkit, the file itself) counts as done: it would be there in a real run.
"""
from __future__ import annotations

import os
import stat
from typing import Iterator

from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend import driver_checks, node, pairings, pci, records, run
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend.package import HDK_KINDS
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend.plan import Plan, Roots
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend.problem import Runner, problem
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend.version import compare, version_key
from ansible_collections.npuops.ktransformers.plugins.module_utils.file_digest import sha256_of
from ansible_collections.npuops.ktransformers.plugins.module_utils.mounts import read_only_mount

_DRIVER_MIN_MB = 301  # the vendor refuses 300 (https://gitcode.com/cann/driver, env_check.sh)
_UNPACKED = 4  # unpacked and installed together, as a multiple of the package
_CHECK_SECONDS = 900


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
    if not src or plan.command[1:2] == (plan.before.uninstaller,):
        return
    if not os.path.isfile(src):
        if not runner.check_mode:
            yield problem("no_file", f"{src} is not on this node", "the package's file", "send it first (module npuops.ktransformers.media)")
    elif not os.access(src, os.R_OK):
        yield problem("unreadable", f"{src} may not be read by this user", "a readable file", f"chmod a+r {src}")
    elif plan.wish.sha256:
        found = sha256_of(src)
        if found != plan.wish.sha256.lower():
            yield problem("sha256", f"{src} has sha256 {found}", f"sha256 {plan.wish.sha256}", f"remove {src} and send it again")
    elif src.endswith(".run") and not runner.check_mode:
        # The packages check themselves with every run; asked now, a damaged one is named together with the other problems.
        outcome = run.capture(["bash", src, "--check"], _CHECK_SECONDS)
        if outcome.rc != 0:
            lines = [line.strip() for line in outcome.output.splitlines() if line.strip()]
            said = outcome.reason or (lines[-1] if lines else f"exit code {outcome.rc}")
            yield problem("integrity", f"{src} --check says: {said}", "a whole package", f"remove {src} and send it again")


def _rights(plan: Plan, roots: Roots, runner: Runner) -> Iterator[dict]:
    if plan.wish.kind in HDK_KINDS and runner.uid != 0:
        yield problem("root", f"the {plan.wish.kind} would be changed by uid {runner.uid}", "root", "run this task with become: true")
        return
    parent = node.existing_parent(roots.ascend)
    if not os.path.isdir(parent):
        yield problem("no_folder", f"{parent} is no folder", f"a folder on the way to {roots.ascend}", f"move {parent} away, or choose another install_path")
    elif read_only_mount(parent):
        yield problem("read_only", f"{parent} is on {read_only_mount(parent)}, which is mounted read-only", "a writable file system",
                      f"mount -o remount,rw {read_only_mount(parent)}")
    elif not os.access(parent, os.W_OK | os.X_OK):
        yield problem("unwritable", f"{parent} may not be written by uid {runner.uid}", "a writable install_path", "choose another one, or become root")
    if runner.uid == 0 and plan.wish.state == "present" and plan.wish.kind in ("driver", "nnal"):
        yield from _path_rights(plan, roots)


def _path_rights(plan: Plan, roots: Roots) -> Iterator[dict]:
    """The driver's and NNAL's installers, as root, want every folder of the path to be root's; the driver's user must reach its libraries.

    After https://gitcode.com/cann/driver (driver_install.sh, env_check.sh) and https://github.com/leideng/CANN-8.1.RC1 (nnal/atb install.sh).
    """
    path, top = node.existing_parent(roots.ascend), os.path.dirname(os.path.abspath(roots.etc))
    while path not in (top, os.path.dirname(path)):
        status = os.stat(path)
        mode = stat.S_IMODE(status.st_mode)
        if status.st_uid not in (0, os.geteuid()):
            yield problem("path_owner", f"{path} belongs to uid {status.st_uid}", "root owns every folder of the install path", f"chown root:root {path}")
        elif mode & 0o555 != 0o555 and plan.wish.kind == "driver":
            yield problem("path_mode", f"{path} has mode {mode:04o}", "mode 0755, so that every user can reach the driver's libraries", f"chmod 755 {path}")
        path = os.path.dirname(path)


def _space(plan: Plan, roots: Roots) -> Iterator[dict]:
    if plan.wish.state != "present":
        return
    try:
        size = os.path.getsize(plan.wish.src or "") // (1024 * 1024)
    except OSError:
        size = 0
    needed = max(_DRIVER_MIN_MB if plan.wish.kind == "driver" else 0, size * _UNPACKED)
    places = [roots.ascend, os.environ.get("TMPDIR") or "/tmp"] + ([plan.unpack_folder] if plan.unpack_folder else [])
    for path in places:
        free = node.free_mb(path)
        if free is not None and free < needed:
            yield problem(
                "disk", f"{free} MB are free on the file system of {path}", f"{needed} MB for {plan.wish.kind} {plan.wanted}",
                f"make room on {node.existing_parent(path)}",
            )


def _order(plan: Plan, roots: Roots, runner: Runner) -> Iterator[dict]:
    if plan.wish.state != "present" or runner.check_mode or plan.wish.kind not in ("kernels", "nnal"):
        return
    cann = records.read_cann(roots.ascend)
    tree = records.find_tree(cann, plan.wanted or "latest")
    if tree is None or tree["toolkit_state"] != "installed":
        there = ", ".join(found["toolkit"] for found in cann["trees"] if found["toolkit"]) or "none"
        yield problem(
            "toolkit_first", f"toolkit {plan.wanted} is not installed below {roots.ascend} (installed: {there})",
            f"the toolkit of the same version, {plan.wanted}", f"install Ascend-cann-toolkit_{plan.wanted} first",
        )
        return
    owner = os.stat(tree["path"]).st_uid
    if plan.wish.kind == "nnal" and owner != runner.uid and owner != os.geteuid():
        yield problem(
            "toolkit_owner", f"{tree['path']} belongs to uid {owner}, NNAL would be installed by uid {runner.uid}", "one user for toolkit and NNAL",
            f"install NNAL as uid {owner}",
        )


def _pairing(plan: Plan, roots: Roots, runner: Runner) -> Iterator[dict]:
    """A toolkit that was published with a newer HDK. In check mode a driver that will be there (wish.driver_version) counts as well."""
    if plan.wish.kind != "toolkit" or plan.wish.state != "present" or plan.wanted is None:
        return
    drivers = [records.read_driver(roots.ascend, roots.etc)["version"], plan.wish.driver_version if runner.check_mode else None]
    newest = max((driver for driver in drivers if driver), key=version_key, default=None)
    pair = pairings.older_than_the_pair(plan.wanted, newest) if newest else None
    if pair:
        yield problem(
            "pair_hdk", f"CANN {plan.wanted} was published with HDK {pair[0]} (driver {pair[1]}), this node has or gets driver {newest}",
            f"driver {pair[1]} or newer", "choose driver and CANN of one stack (npu_stack), or upgrade driver and firmware first", "warning",
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


def _uninstaller(plan: Plan) -> Iterator[dict]:
    if plan.wish.state == "absent" and not plan.command:
        yield problem(
            "no_uninstaller", f"{plan.reason}, but its uninstall script is gone", "the vendor's script, or the package that was installed",
            "give src, so that the package's own --uninstall can be used",
        )


def remarks(plan: Plan, roots: Roots) -> list[dict]:
    """What a node that needs no change should still know."""
    if plan.wish.kind != "toolkit" or plan.wish.state != "present" or plan.reason is not None:
        return []
    latest = records.read_cann(roots.ascend)["latest"]
    if latest and compare(latest, plan.wanted or latest) == 0:
        return []
    return [problem(
        "latest", f"toolkit {plan.wanted} is installed, but latest stands for {latest or 'no installed version'}", f"latest stands for {plan.wanted}",
        "install the toolkit again once with force: true, which makes latest point to it", "warning",
    )]


def refusals(plan: Plan, roots: Roots, runner: Runner) -> list[dict]:
    """Every problem of this plan; only remarks when there is nothing to do."""
    if plan.reason is None:
        return remarks(plan, roots)
    return [
        *_eula(plan), *_fits(plan, roots, runner), *_downgrade(plan), *_file(plan, runner), *_rights(plan, roots, runner), *_space(plan, roots),
        *_order(plan, roots, runner), *_pairing(plan, roots, runner), *driver_checks.refusals(plan, roots, runner),
        *_record_elsewhere(plan, roots, runner), *_uninstaller(plan),
    ]
