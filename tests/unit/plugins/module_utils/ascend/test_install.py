# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import shlex
import shutil
import time

import pytest
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend import install, reboot
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend.env import EnvironmentProblem
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend.plan import Wish, make

from tests.unit.plugins.module_utils.ascend.node_tree import ARCH, DRIVER_PACKAGE, FIRMWARE_PACKAGE, KERNELS_PACKAGE, NNAL_PACKAGE, TOOLKIT_PACKAGE

LIVE = "[Driver] [2025-07-17 10:00:00] [INFO]\033[32mDriver package installed successfully! The new version takes effect immediately. \033[0m"
REBOOT = "[Driver] [2025-07-17 10:00:00] [INFO]Driver package installed successfully! Reboot needed for installation/upgrade to take effect!"
STUCK = "[Driver] [2025-07-17 10:00:00] [WARNING]Kernel modules can not be removed, reboot needed for installation/upgrade to take effect! "


def carry_out(tree, src, timeout=60.0, **options):
    kind = options.pop("kind", None) or next(kind for kind in ("driver", "firmware", "toolkit", "kernels", "nnal") if kind in src.rpartition("/")[2])
    plan = make(Wish(kind=kind, src=src, **options), tree.roots)
    assert plan.reason is not None
    return install.carry_out(plan, tree.roots, str(tree.root / "logs"), timeout)


def driver(tree, version="25.0.rc1.1"):
    brings = tree.payload()
    brings.driver(version)
    return brings


def owed(tree):
    return reboot.owed(tree.roots.state, tree.roots.proc)


def test_a_driver(tree):
    result = carry_out(tree, tree.package(DRIVER_PACKAGE, driver(tree), (LIVE,)))
    assert (result.rc, result.failure, result.after.version, result.reboot_reason, owed(tree)) == (0, None, "25.0.rc1.1", None, None)
    assert tree.calls == [
        f"--nox11 --full --quiet --install-username=HwHiAiUser --install-usergroup=HwHiAiUser --install-path={tree.ascend}",
    ]
    # Colours are no part of a log.
    assert result.log_tail == ["[Driver] [2025-07-17 10:00:00] [INFO]Driver package installed successfully! The new version takes effect immediately."]
    with open(result.log, encoding="utf-8") as log:
        lines = log.read().splitlines()
    assert lines[0].startswith(f"# bash {tree.root}/media/{DRIVER_PACKAGE} --nox11 --full") and lines[1:] == [
        *result.log_tail,
        "# returned 0; on disk as wanted",
    ]
    assert oct(os.stat(result.log).st_mode & 0o777) == "0o640"


def test_the_installer_gets_a_clean_room(tree, monkeypatch):
    monkeypatch.setenv("LD_LIBRARY_PATH", "/another/cann")
    monkeypatch.setenv("ASCEND_HOME_PATH", "/another/cann")
    old = os.umask(0o027)
    try:
        result = carry_out(tree, tree.package(DRIVER_PACKAGE, driver(tree), body="read line && echo typed; [ -t 0 ] && echo terminal; pwd"))
    finally:
        os.umask(old)
    assert result.log_tail == ["/"]
    environment = (tree.root / "called-environment").read_text()
    assert "/another/cann" not in environment and environment.splitlines()[-1] == "0022"


@pytest.mark.parametrize("rc, line", [(2, LIVE), (0, REBOOT), (2, REBOOT), (0, STUCK)])
def test_a_driver_that_wants_a_reboot(tree, rc, line):
    result = carry_out(tree, tree.package(DRIVER_PACKAGE, driver(tree), (line,), rc))
    why = "the installation of driver 25.0.rc1.1 takes effect with a reboot (the vendor's installer says so)"
    assert (result.rc, result.failure, result.reboot_reason, owed(tree)) == (rc, None, why, why)


def test_firmware_always_wants_a_reboot_and_says_so_before_it_flashes(tree):
    tree.driver()
    brings = tree.payload()
    brings.firmware()
    src = tree.package(
        FIRMWARE_PACKAGE, brings, ("[Firmware] Firmware package installed successfully!",), body=f"cp {tree.roots.state}/reboot-owed.json {tree.root}/then"
    )
    result = carry_out(tree, src)
    why = "firmware 7.7.0.1.231 takes effect with a reboot"
    assert (result.failure, result.reboot_reason, owed(tree)) == (None, why, why)
    assert why in (tree.root / "then").read_text()


@pytest.mark.parametrize("before", [None, "a driver waits"])
def test_firmware_that_did_nothing_owes_nothing(tree, before):
    tree.driver()
    if before:
        reboot.owe(tree.roots.state, tree.roots.proc, before, "driver", "1")
    result = carry_out(tree, tree.package(FIRMWARE_PACKAGE, rc=1))
    assert (result.reboot_reason, owed(tree)) == (None, before)


@pytest.mark.parametrize(
    "rc, prints, brings, failure",
    [
        pytest.param(
            1,
            ("[Driver] x [ERROR]ERR_NO:0x0091;ERR_DES:HwHiAiUser not exists! Please add HwHiAiUser",),
            False,
            "the driver installer returned 1, and no driver is there; it printed: [Driver] x [ERROR]ERR_NO:0x0091;ERR_DES:HwHiAiUser not exists! "
            "Please add HwHiAiUser; create the user and group of the driver first",
            id="refused",
        ),
        pytest.param(
            0,
            ("[Driver] x [INFO]installation Stoped!",),
            False,
            "the driver installer returned 0, but no driver is there; it printed: [Driver] x [INFO]installation Stoped!",
            id="the-exit-code-lies",
        ),
        pytest.param(
            1,
            ("Drv_dkms_env_check failed, details in : /var/log/x",),
            True,
            "the driver installer returned 1, though driver 25.0.rc1.1 is on disk as wanted; it printed: Drv_dkms_env_check failed, details in : "
            "/var/log/x; install dkms, gcc, make and linux-headers-$(uname -r)",
            id="failed-late",
        ),
        pytest.param(
            1,
            ("Verifying archive integrity...  100%   SHA256 checksums are OK. All good.", "[Driver] x [ERROR]something else"),
            False,
            "the driver installer returned 1, and no driver is there; it printed: [Driver] x [ERROR]something else",
            id="a-whole-package-is-not-called-corrupted",
        ),
        pytest.param(
            2,
            ("Verifying archive integrity...  100%", "Error in SHA256 checksums: 1f is different from 2e"),
            False,
            "the driver installer returned 2, but no driver is there; it printed: Error in SHA256 checksums: 1f is different from 2e; "
            "the package is corrupted: send it again",
            id="corrupted",
        ),
        pytest.param(3, (), False, "the driver installer returned 3, and no driver is there", id="silent"),
    ],
)
def test_failures(tree, rc, prints, brings, failure):
    result = carry_out(tree, tree.package(DRIVER_PACKAGE, driver(tree) if brings else None, prints, rc))
    assert result.failure == failure
    with open(result.log, encoding="utf-8") as log:
        assert log.read().splitlines()[-1] == f"# returned {rc}; {failure}"


def test_an_interrupted_installer_and_the_next_run(tree):
    brings = driver(tree)
    (brings.ascend / "driver/version.info").unlink()
    result = carry_out(tree, tree.package(DRIVER_PACKAGE, brings, rc=1))
    assert result.failure.startswith("the driver installer returned 1, and the driver is only partly there: ")
    result = carry_out(tree, tree.package(DRIVER_PACKAGE, driver(tree)))
    assert (result.failure, result.after.version) == (None, "25.0.rc1.1")


def test_another_version_than_the_name_says(tree):
    result = carry_out(tree, tree.package(DRIVER_PACKAGE, driver(tree, "25.0.rc1")))
    assert result.failure == "the driver installer returned 0, but driver 25.0.rc1 is there instead of 25.0.rc1.1"


def test_an_installer_that_hangs_is_killed(tree):
    started = time.monotonic()
    result = carry_out(tree, tree.package(DRIVER_PACKAGE, body="printf 'one\\ntwo'; sleep 60"), timeout=0.5)
    assert result.failure == "the driver installer was killed after 0.5 s, and no driver is there; it printed: two"
    assert (result.rc, result.log_tail) == (None, ["one", "two"]) and time.monotonic() - started < 50


def test_a_service_that_keeps_the_output_open_does_not_hold_the_run(tree):
    started = time.monotonic()
    result = carry_out(tree, tree.package(DRIVER_PACKAGE, driver(tree), body="sleep 60 &"))
    assert result.failure is None and time.monotonic() - started < 50


def test_a_progress_bar_keeps_its_end(tree):
    result = carry_out(tree, tree.package(DRIVER_PACKAGE, driver(tree), body="printf 'Uncompressing   1%%\\rUncompressing  50%%\\rUncompressing 100%%\\n'"))
    assert result.log_tail == ["Uncompressing 100%"]


def test_a_log_that_cannot_be_kept_is_no_failure(tree):
    tree.write("logs", "a file where the folder should be")
    result = carry_out(tree, tree.package(DRIVER_PACKAGE, driver(tree), (LIVE,)))
    assert (result.failure, result.log) == (None, None)
    assert result.log_tail[-1].startswith("the installer's log could not be kept in ")


def test_a_disk_that_fills_up_while_the_log_is_written(tree, monkeypatch):
    real = os.open
    monkeypatch.setattr(os, "open", lambda path, *rest: real("/dev/full", os.O_WRONLY) if str(path).endswith(".log") else real(path, *rest))
    result = carry_out(tree, tree.package(DRIVER_PACKAGE, driver(tree), (LIVE, "second")))
    assert (result.failure, result.log) == (None, None)
    assert result.log_tail[1] == "second" and result.log_tail[2].endswith(": No space left on device")


def test_a_state_folder_that_cannot_be_written_stops_firmware_before_it_starts(tree):
    tree.driver()
    tree.write("var/lib/npuops", "a file")
    with pytest.raises(OSError):
        carry_out(tree, tree.package(FIRMWARE_PACKAGE))
    assert tree.calls == []


def test_cann(tree):
    brings = tree.payload()
    brings.toolkit()
    result = carry_out(tree, tree.package(TOOLKIT_PACKAGE, brings))
    assert (result.failure, result.after.version, result.reboot_reason) == (None, "8.1.RC1", None)
    brings.kernels()
    result = carry_out(tree, tree.package(KERNELS_PACKAGE, brings))
    assert (result.failure, result.after.chips) == (None, ("910b",))
    brings.nnal()
    result = carry_out(tree, tree.package(NNAL_PACKAGE, brings), cxx_abi=0)
    assert (result.failure, result.after.version) == (None, "8.1.RC1")
    # NNAL's installer asks for the toolkit's environment, and no script was sourced by a task.
    environment = (tree.root / "called-environment").read_text().splitlines()
    home = f"{tree.ascend}/ascend-toolkit/8.1.RC1"
    assert f"ASCEND_TOOLKIT_HOME={home}" in environment and f"ASCEND_HOME_PATH={home}" in environment


def test_rc_2_is_no_success_of_cann(tree):
    brings = tree.payload()
    brings.toolkit()
    assert carry_out(tree, tree.package(TOOLKIT_PACKAGE, brings, rc=2)).failure == (
        "the toolkit installer returned 2, though toolkit 8.1.RC1 is on disk as wanted"
    )


def test_kernels_for_another_chip_than_the_name_says(tree):
    tree.toolkit()
    brings = tree.payload()
    brings.kernels(chip="ascend310p")
    assert carry_out(tree, tree.package(KERNELS_PACKAGE, brings)).failure == ("the kernels installer returned 0, but the kernels on disk serve 310p, not 910b")


def test_nnal_without_the_wanted_abi(tree):
    tree.toolkit()
    brings = tree.payload()
    brings.nnal(abis=(1,))
    assert carry_out(tree, tree.package(NNAL_PACKAGE, brings), cxx_abi=0).failure == ("the nnal installer returned 0, but NNAL has no libatb.so for C++ ABI 0")


def test_nnal_without_a_toolkit(tree):
    with pytest.raises(EnvironmentProblem) as refused:
        carry_out(tree, tree.package(NNAL_PACKAGE))
    assert str(refused.value) == (
        f"NNAL's installer needs the environment of toolkit 8.1.RC1: CANN 8.1.RC1 is not installed below {tree.ascend} (installed: none)."
    )


def removal(tree, kind, path, body, rc=0, **options):
    tree.install(path, f'#!/bin/bash\necho "$*" >> {tree.root}/calls\n{body}\nexit {rc}\n', 0o755)
    plan = make(Wish(kind=kind, state="absent", **options), tree.roots)
    return install.carry_out(plan, tree.roots, str(tree.root / "logs"), 60)


def test_removals(tree):
    tree.driver()
    tree.firmware()
    tree.toolkit()
    tree.kernels()
    tree.nnal()
    home = tree.ascend / "ascend-toolkit/8.1.RC1"
    result = removal(tree, "nnal", "nnal/atb/8.1.RC1/scripts/uninstall.sh", f"rm -rf {tree.ascend}/nnal/atb/*")
    assert (result.failure, result.after.version) == (None, None)
    result = removal(tree, "kernels", "ascend-toolkit/8.1.RC1/opp_kernel/script/uninstall.sh", f"rm -rf {home}/opp_kernel {home}/opp/built-in")
    assert (result.failure, result.after.version) == (None, None)
    result = removal(tree, "toolkit", f"ascend-toolkit/8.1.RC1/{ARCH}-linux/script/uninstall.sh", f"rm -rf {home}")
    assert (result.failure, result.after.version) == (None, None)
    result = removal(tree, "firmware", "firmware/script/uninstall.sh", f"rm -rf {tree.ascend}/firmware; echo Uninstallation takes effect immediately.")
    assert (result.failure, result.reboot_reason) == (None, None)
    result = removal(
        tree,
        "driver",
        "driver/script/uninstall.sh",
        f"rm -rf {tree.ascend}/driver {tree.root}/etc/ascend_install.info; echo 'Reboot needed for uninstallation to take effect!'",
        force=True,
    )
    why = "the removal of driver 25.0.rc1.1 takes effect with a reboot (the vendor's installer says so)"
    assert (result.failure, result.reboot_reason, owed(tree)) == (None, why, why)
    assert tree.calls == ["", "", "", "", "--quiet --force"]


def test_another_version_may_stay(tree):
    tree.toolkit("8.1.RC1")
    tree.toolkit("8.0.RC3")
    home = tree.ascend / "ascend-toolkit/8.1.RC1"
    result = removal(tree, "toolkit", f"ascend-toolkit/8.1.RC1/{ARCH}-linux/script/uninstall.sh", f"rm -rf {home}", version="8.1.RC1")
    assert (result.failure, result.after.version) == (None, "8.0.RC3")
    tree.nnal("8.1.RC1")
    tree.nnal("8.0.RC3")
    script = "nnal/atb/8.1.RC1/scripts/uninstall.sh"
    result = removal(tree, "nnal", script, "true", version="8.1.RC1")
    assert result.failure == "the nnal uninstaller returned 0, but nnal 8.1.RC1 is still there"
    result = removal(tree, "nnal", script, f"rm -rf {tree.ascend}/nnal/atb/8.1.RC1", version="8.1.RC1")
    assert (result.failure, result.after.version) == (None, "8.0.RC3")


def test_an_uninstaller_that_lies(tree):
    """CANN's pipes a script through tee without pipefail, so it returns 0 although a part failed."""
    tree.toolkit()
    result = removal(tree, "toolkit", f"ascend-toolkit/8.1.RC1/{ARCH}-linux/script/uninstall.sh", "echo toolkit uninstall success")
    assert result.failure == "the toolkit uninstaller returned 0, but toolkit 8.1.RC1 is still there; it printed: toolkit uninstall success"


def test_a_removal_that_leaves_parts(tree):
    tree.toolkit()
    home = tree.ascend / "ascend-toolkit/8.1.RC1"
    result = removal(tree, "toolkit", f"ascend-toolkit/8.1.RC1/{ARCH}-linux/script/uninstall.sh", f"rm -rf {home}/{ARCH}-linux {home}/hccl")
    assert result.failure == (
        f"the toolkit uninstaller returned 0, but parts of the toolkit are left: {home} has no ascend_toolkit_install.info, though compiler, opp, runtime, "
        "toolkit are there"
    )


def test_a_package_in_a_folder_with_a_blank(tree):
    src = tree.package(DRIVER_PACKAGE, driver(tree))
    folder = tree.root / "my media"
    folder.mkdir()
    shutil.move(src, folder)
    assert carry_out(tree, f"{folder}/{DRIVER_PACKAGE}").failure is None
    assert shlex.quote(str(folder)) != str(folder)
