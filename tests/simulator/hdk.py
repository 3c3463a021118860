# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The simulated driver and firmware: their trees as installed (facts: ascend-vendor.md 4.1 to 4.3) and their packages."""

from __future__ import annotations

from dataclasses import dataclass

import elf
from runpack import World, render, run_package
from tree import Tree

COMMON = ("libaivault.so", "libaivaulttee.so", "libc_sec.so", "libkmc.so.20", "libmmpa.so", "libsdp.so.20", "libsecurec.so")
DRIVER = (
    "libadump.so",
    "libaicpu_processer.so",
    "libaicpu_scheduler.so",
    "libaicpu_sharder.so",
    "libascend_hal.so",
    "libascend_rdma_lite.so",
    "libdcmi.so",
    "libdrvdsmi_host.so",
    "libqos_manager.so",
    "libqueue_schedule.so",
    "libstackcore.so",
    "libtsd_common.so",
    "libtsdaemon.so",
)
EXPORTS = {
    "libascend_hal.so": ("halGetChipInfo", "halGetDeviceInfo", "drvGetDevNum", "drvDeviceOpen", "halMemAlloc", "halMemFree"),
    "libdcmi.so": ("dcmi_init", "dcmi_get_card_list"),
    "libc_sec.so": ("memcpy_s", "strcpy_s"),
}


@dataclass(frozen=True)
class Hdk:
    """One HDK release: driver, firmware and what their version.info files say."""

    driver: str = "25.0.rc1.1"
    firmware: str = "7.7.0.1.231"
    inner_version: str = "V100R001C21SPC002B220"
    hal: str = "7.35.23"
    compatible: tuple[str, ...] = ("V100R001C17", "V100R001C18", "V100R001C19", "V100R001C20", "V100R001C21")
    compatible_firmware: str = "[7.0.0,7.7.99]"
    compatible_driver: str = "[23.0.0,23.0.0.],[24.0,24.0.],[24.1,24.1.],[25.0,25.0.]"


HDK_25_0 = Hdk()
# ASSUMPTION for 25.3.rc1: firmware number (one 310P log), hal version and the firmware's compatible_version_drv.
HDK_25_3 = Hdk(
    "25.3.rc1",
    "7.8.0.2.212",
    "V100R001C23SPC002B212",
    "7.40.10",
    ("V100R001C19", "V100R001C20", "V100R001C21", "V100R001C22", "V100R001C23"),
    "[7.0.0,8.9.9]",
    "[24.1,24.1.],[25.0,25.0.],[25.2,25.2.],[25.3,25.3.]",
)
HDK_24_1 = Hdk(
    "24.1.0",
    "7.5.0.3.220",
    "V100R001C20SPC002B210",
    "7.30.10",
    ("V100R001C17", "V100R001C18", "V100R001C19", "V100R001C20"),
    "[7.0.0,7.6.99]",
    "[23.0.0,23.0.0.],[24.0,24.0.],[24.1,24.1.]",
)


def driver_version_info(hdk: Hdk) -> str:
    compatible = ",".join(f"[{item}]" for item in hdk.compatible)
    return (
        f"Version={hdk.driver}\nascendhal_version={hdk.hal}\naicpu_version=1.0\ntdt_version=1.0\nlog_version=1.0\nprof_version=2.0\n"
        f"dvppkernels_version=1.1\ntsfw_version=1.0\nInnerversion={hdk.inner_version}\ncompatible_version={compatible}\n"
        f"compatible_version_fw={hdk.compatible_firmware}\npackage_version={hdk.driver}\n"
    )


def firmware_version_info(hdk: Hdk) -> str:
    return f"Version={hdk.firmware}\nfirmware_version=1.0\npackage_version={hdk.driver}\ncompatible_version_drv={hdk.compatible_driver}\n"


def driver_tree(hdk: Hdk, arch: str, world: World) -> Tree:
    """…/driver as installed, without version.info, which the installer writes near its end."""
    tree = Tree()
    for folder, names in (("common", COMMON), ("driver", DRIVER)):
        for name in names:
            tree.file(
                f"driver/lib64/{folder}/{name}",
                elf.shared_object(arch, name, EXPORTS.get(name, (name.split(".")[0] + "_stub",)), (), hdk.driver.encode()),
                0o444,
            )
    tree.folder("driver/lib64/inner")
    tree.folder("driver/device")
    tree.file("driver/include/ascend_hal_error.h", "/* simulated by npuops */\n", 0o444)
    tree.file("driver/build.info", f"simulated by npuops\nversion={hdk.driver}\n", 0o444)
    tree.file("driver/scene.info", f"os=linux\narch={arch}\n", 0o444)
    tree.file(
        "driver/bin/setenv.bash",
        "# simulated by npuops\n"
        "export LD_LIBRARY_PATH=%PATH%/driver/lib64:%PATH%/driver/lib64/common:%PATH%/driver/lib64/driver:$LD_LIBRARY_PATH\n"
        "export PATH=/usr/local/bin:/usr/local/sbin:$PATH\n",
        0o555,
    )
    scripts(tree, "driver", world)
    tree.file("driver/tools/upgrade-tool", render("hdk/upgrade-tool", {"WORLD": world.shell()}), 0o555)
    for tool in ("hccn_tool", "msnpureport"):
        tree.file(f"driver/tools/{tool}", '#!/bin/sh\necho "simulated by npuops"\n', 0o555)
    return tree


def firmware_tree(world: World) -> Tree:
    """…/firmware as installed, without version.info. ASSUMPTION: nothing more is known of its tree."""
    tree = Tree()
    scripts(tree, "firmware", world)
    return tree


def scripts(tree: Tree, what: str, world: World) -> None:
    """<what>/script/uninstall.sh and what it sources."""
    tree.file(f"{what}/script/uninstall.sh", render(f"hdk/{what}_uninstall.sh", {"WORLD": world.shell()}), 0o500)
    tree.file(f"{what}/script/sim_common.sh", render("common.sh", {}), 0o400)
    tree.file(f"{what}/script/hdk_common.sh", render("hdk/common.sh", {}), 0o400)


def npu_smi(world: World) -> str:
    return render("hdk/npu-smi", {"WORLD": world.shell()})


DRIVER_OPTIONS = """\
  --full --run --debug --devel --docker   Install of this type
  --upgrade                          Upgrade product immediately
  --install-path=<path>              Install to specific dir
  --install-username=<username>      Install to specific username
  --install-usergroup=<usergroup>    Install to specific usergroup
  --install-for-all                  Install for all user
  --uninstall                        Uninstall product
  --version --check                  Query or check the package
  --force                            Take effect after host restart
  --norebuild                        No kernel module rebuild
  (simulated by npuops)"""
FIRMWARE_OPTIONS = "  --full --upgrade --check --version --quiet   (simulated by npuops)"


def driver_package(hdk: Hdk, arch: str, world: World, chip: str = "910b", pci: str = "d802") -> tuple[str, bytes]:
    """(file name, bytes) of the driver's package; the file name writes x86-64, unlike CANN's."""
    payload = Tree()
    payload.add(driver_tree(hdk, arch, world), "tree")
    payload.file("install.sh", render("hdk/driver.sh", {}), 0o755)
    payload.file("common.sh", render("common.sh", {}))
    payload.file("hdk_common.sh", render("hdk/common.sh", {}))
    payload.file("version.info", driver_version_info(hdk))
    payload.file("npu-smi", npu_smi(world), 0o555)
    spelled = arch.replace("_", "-")
    payload.file("sim.conf", world.shell() + f"PKG_VERSION={hdk.driver}\nPKG_ARCH={spelled}\nPKG_CHIP={chip}\nPKG_PCI={pci}\n")
    name = f"Ascend-hdk-{chip}-npu-driver_{hdk.driver}_linux-{spelled}.run"
    return name, run_package(
        name=name, label="ASCEND DRIVER RUN PACKAGE", version=hdk.driver, payload=payload, world=world, help_text=DRIVER_OPTIONS, vendor_check=True
    )


def firmware_package(hdk: Hdk, world: World, chip: str = "910b") -> tuple[str, bytes]:
    """(file name, bytes) of the firmware's package, which names neither OS nor architecture."""
    payload = Tree()
    payload.add(firmware_tree(world), "tree")
    payload.file("install.sh", render("hdk/firmware.sh", {}), 0o755)
    payload.file("common.sh", render("common.sh", {}))
    payload.file("hdk_common.sh", render("hdk/common.sh", {}))
    payload.file("version.info", firmware_version_info(hdk))
    payload.file("sim.conf", world.shell() + f"PKG_VERSION={hdk.firmware}\nPKG_CHIP={chip}\n")
    name = f"Ascend-hdk-{chip}-npu-firmware_{hdk.firmware}.run"
    label = f"ASCEND-HDK-{chip.upper()}-NPU FIRMWARE RUN PACKAGE"
    return name, run_package(name=name, label=label, version=hdk.firmware, payload=payload, world=world, help_text=FIRMWARE_OPTIONS, vendor_check=True)
