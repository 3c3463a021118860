# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Why driver or firmware must not be changed on this node now.

After the vendor's own scripts, https://gitcode.com/cann/driver (env_check.sh, driver_install.sh, run_driver_install.sh, check_tools.conf).
An upgrade removes the old driver first, so a refusal half-way leaves a node without one: everything is asked before.
"""
from __future__ import annotations

import os
import shutil
from typing import Iterator

from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend import info, node, pairings, records, run
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend.package import HDK_KINDS
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend.plan import Plan, Roots
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend.problem import Runner, problem
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend.version import compare, in_range

_SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Of check_tools.conf those that a server may lack, with the package that brings them (its name is the same everywhere).
_TOOLS = {"pciutils": "lspci", "net-tools": "ifconfig"}


def _first_driver(plan: Plan, roots: Roots, runner: Runner) -> Iterator[dict]:
    if plan.wish.kind != "firmware" or runner.check_mode:
        return
    driver = records.read_driver(roots.ascend, roots.etc)
    if not driver["complete"]:
        yield problem("driver_first", f"there is no whole driver: {driver['reason']}", "the driver that goes with this firmware", "install the driver first")


def _users(plan: Plan, roots: Roots, runner: Runner) -> Iterator[dict]:
    wish = plan.wish
    if wish.kind != "driver":
        return
    recorded: tuple[str, str] = (plan.before.record.get("user") or "", plan.before.record.get("group") or "")
    if plan.action == "upgrade" and all(recorded):
        user, group = recorded  # an upgrade keeps them, whatever the options say
    else:
        user, group = wish.username, wish.usergroup
        if all(recorded) and recorded != (user, group):
            yield problem(
                "other_user", f"the driver's record in {roots.etc}/ascend_install.info belongs to {recorded[0]}:{recorded[1]}", f"{user}:{group}",
                f"set install_username: {recorded[0]} and install_usergroup: {recorded[1]}, or uninstall the driver first",
            )
        if user == "root" and not wish.install_for_all:
            yield problem(
                "root_user", "install_username is root", "root only with install_for_all: true", "choose HwHiAiUser, or set install_for_all: true",
            )
    if user == "root" or runner.check_mode:
        return
    groups = node.groups_of(roots.etc, user)
    if not groups:
        yield problem(
            "no_user", f"there is no user {user} in {roots.etc}/passwd", f"user {user} in group {group}",
            f"groupadd -f {group} && useradd -g {group} -d /home/{user} -m -s /bin/bash {user}",
        )
    elif group not in groups:
        yield problem(
            "not_in_group", f"{user} is in {', '.join(groups)}", f"{user} in group {group}", f"groupadd -f {group} && usermod -aG {group} {user}",
        )


def _access(plan: Plan) -> Iterator[dict]:
    for_all = plan.before.record.get("install_for_all")
    if plan.wish.kind == "driver" and plan.action == "upgrade" and for_all is not None and for_all is not plan.wish.install_for_all:
        chosen = {True: "for all users", False: "for its own user and group only"}
        yield problem(
            "install_for_all", f"the driver was installed {chosen[for_all]}, which an upgrade keeps", f"a driver {chosen[plan.wish.install_for_all]}",
            f"uninstall and install the driver to change it, or set install_for_all: {str(for_all).lower()}", "warning",
        )


def _rpm_lacks(kernel: str) -> list[str] | None:
    """What of the build tools rpm doesn't know, or None where there is no rpm."""
    rpm = shutil.which("rpm", path=_SEARCH)
    if rpm is None:
        return None
    outcome = run.capture([rpm, "-qa"], 60)
    if outcome.rc != 0:
        return None
    there = outcome.output.split()
    lacks = [name for name in ("dkms", "gcc", "make") if not any(package.startswith(name + "-") for package in there)]
    for part in ("headers", "devel"):
        if not any(package.startswith("kernel-") and f"{part}-{kernel}" in package for package in there):
            lacks.append(f"kernel-{part}-{kernel}")
    return lacks


def _build_tools(plan: Plan, roots: Roots, runner: Runner) -> Iterator[dict]:
    """What DKMS needs to build the modules. The vendor asks the package database, not the file system, and so does this."""
    if plan.wish.kind != "driver":
        return
    severity = "warning" if runner.check_mode else "error"
    kernel = node.host(roots.sysfs, roots.proc, roots.etc)["kernel"]
    database = node.packages(roots.var, ("dkms", "gcc", "make", f"linux-headers-{kernel}", *_TOOLS))
    if database is not None:
        lacks: list[str] | None = [name for name in ("dkms", "gcc", "make", f"linux-headers-{kernel}") if not database[name]]
        install = "apt-get install"
    else:
        lacks, install = _rpm_lacks(kernel), "dnf install"
    if lacks and plan.wish.kernel_modules == "build":
        yield problem(
            "build_tools", f"not installed: {', '.join(lacks)}", f"what building the kernel modules for {kernel} needs",
            f"{install} {' '.join(lacks)}, or set kernel_modules: prebuilt when the package's ready-made modules fit this kernel", severity,
        )
    missing = [
        package for package, program in _TOOLS.items() if not (database or {}).get(package) and shutil.which(program, path=_SEARCH) is None
    ]
    if missing:
        yield problem(
            "tools", f"not installed: {', '.join(missing)}", "the programs that the driver's installer calls", f"{install} {' '.join(missing)}", severity,
        )


def _parent_path(plan: Plan, roots: Roots) -> Iterator[dict]:
    parent = os.path.dirname(os.path.abspath(roots.ascend))
    if plan.wish.kind == "driver" and not os.path.isdir(parent):
        yield problem("parent_path", f"{parent} does not exist", "only the last folder of install_path may be missing", f"mkdir -p -m 755 {parent}")


def _old_firmware(plan: Plan, roots: Roots) -> Iterator[dict]:
    """A 910B with firmware *.11.* must first pass driver 23.0.RC1 (env_check.sh, please_change_RC1driver_package)."""
    if plan.wish.kind != "driver" or plan.package is None or plan.package.chip != "910b":
        return
    version = records.read_firmware(roots.ascend)["version"] or ""
    if version.split(".")[1:2] == ["11"] and compare(plan.package.version, "23.0.rc1") > 0:
        yield problem(
            "old_firmware", f"firmware {version} is installed", "firmware of driver 23.0.RC1 or newer", "install driver 23.0.RC1 first, then this one",
        )


def _pairing(plan: Plan, roots: Roots) -> Iterator[dict]:
    """Driver and firmware say which versions of the other they work with. Between the two steps of an upgrade they may not match."""
    wanted = plan.wanted or ""
    if plan.package is None or plan.package.kind == "hdk":
        return
    if plan.wish.kind == "firmware":
        driver = records.read_driver(roots.ascend, roots.etc)
        fits = driver["compatible_firmware"]
        if fits and not in_range(wanted, *fits):
            yield problem(
                "pair_firmware", f"driver {driver['version']} works with firmware {fits[0]} to {fits[1]}", f"a driver for firmware {wanted}",
                "upgrade the driver next, to the version of the same HDK", "warning",
            )
    else:
        yield from _with_cann(wanted, roots)
        firmware = records.read_firmware(roots.ascend)
        pairs = firmware["compatible_drivers"]
        if pairs and not any(in_range(wanted, low, high) for low, high in pairs):
            known = ", ".join(low for low, unused_high in pairs)
            yield problem(
                "pair_driver", f"firmware {firmware['version']} works with drivers {known}", f"a firmware for driver {wanted}",
                "upgrade the firmware first, to the version of the same HDK", "warning",
            )


def _with_cann(wanted: str, roots: Roots) -> Iterator[dict]:
    """A driver that is older than the HDK of an installed CANN."""
    for tree in records.read_cann(roots.ascend)["trees"]:
        pair = pairings.older_than_the_pair(tree["version"], wanted) if tree["toolkit"] else None
        if pair:
            yield problem(
                "pair_hdk", f"CANN {tree['version']} is installed, which was published with HDK {pair[0]} (driver {pair[1]})",
                f"driver {pair[1]} or newer, not {wanted}", f"choose HDK {pair[0]}, or install the CANN that goes with driver {wanted}", "warning",
            )


def _busy(plan: Plan, roots: Roots, runner: Runner) -> Iterator[dict]:
    if plan.wish.kind not in HDK_KINDS or plan.before.version is None or plan.wish.force:
        return
    users = {holder["pid"]: holder["name"] for holder in node.holders(roots.proc, roots.dev, ignore=(os.getpid(),))[0]}
    if runner.uid == 0 or not users:
        # npu-smi also sees what holds an NPU through a virtual device.
        driver = plan.before.path if plan.wish.kind == "driver" else os.path.join(roots.ascend, "driver")
        for process in info.query_smi(plan.wish.npu_smi, 20, driver or "")["processes"]:
            users.setdefault(process["pid"], process["name"])
    if users:
        names = ", ".join(f"{name or 'process'} ({pid})" for pid, name in sorted(users.items())[:8])
        more = f" and {len(users) - 8} more" if len(users) > 8 else ""
        yield problem(
            "busy", f"the NPUs are in use by {names}{more}", f"no process on the NPUs while the {plan.wish.kind} is changed",
            "stop these programs or containers, or set force: true and reboot afterwards", "warning" if runner.check_mode else "error",
        )


def refusals(plan: Plan, roots: Roots, runner: Runner) -> list[dict]:
    """Every problem of a plan for driver or firmware; none for the other kinds."""
    if plan.wish.kind not in HDK_KINDS:
        return []
    if plan.wish.state == "absent":
        return list(_busy(plan, roots, runner))
    return [
        *_first_driver(plan, roots, runner), *_users(plan, roots, runner), *_access(plan), *_build_tools(plan, roots, runner), *_parent_path(plan, roots),
        *_old_firmware(plan, roots), *_pairing(plan, roots), *_busy(plan, roots, runner),
    ]
