# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The simulated node: an Atlas 800I A2 (8 × 910B4, 192 cores, 8 NUMA nodes, 1 TiB) as sysfs, /proc, /dev and /etc show it.

Addresses, ids and node names: facts, ascend-vendor.md 5. What a real node shows besides is left out.
"""

from __future__ import annotations

import uuid
from pathlib import Path

from hdk import Hdk, driver_tree, driver_version_info, firmware_tree, firmware_version_info, npu_smi
from runpack import World, render
from tree import Tree

# Bus order; npu-smi's ids are another order.
NPUS = ("0000:01:00.0", "0000:02:00.0", "0000:41:00.0", "0000:42:00.0", "0000:81:00.0", "0000:82:00.0", "0000:c1:00.0", "0000:c2:00.0")
KERNEL = "5.15.0-25-generic"
CPUS, NUMA_NODES = 192, 8
MEMORY_KB = 1024 * 1024 * 1024
MODULES = ("drv_pcie_host", "drv_devmng_host", "drv_devmm_host", "drv_davinci_intf_host", "drv_pcie_hdc_host", "drv_seclib_host", "ascend_event_sched_host")
DPKG = ("dkms", "gcc", "make", f"linux-headers-{KERNEL}", "pciutils", "net-tools", "unattended-upgrades")


def hardware(with_driver: bool) -> Tree:
    """sys/ and proc/."""
    tree = Tree()
    for index, address in enumerate(NPUS):
        folder = f"sys/bus/pci/devices/{address}"
        for name, value in (
            ("vendor", "0x19e5"),
            ("device", "0xd802"),
            ("subsystem_vendor", "0x19e5"),
            ("subsystem_device", "0x3004"),
            ("class", "0x120000"),
            ("revision", "0x20"),
            ("numa_node", str(index)),
        ):
            tree.file(f"{folder}/{name}", value + "\n")
        tree.file(
            f"{folder}/uevent",
            ("DRIVER=devdrv_device_driver\n" if with_driver else "")
            + f"PCI_CLASS=120000\nPCI_ID=19E5:D802\nPCI_SUBSYS_ID=19E5:3004\nPCI_SLOT_NAME={address}\n",
        )
    # A neighbour that is no NPU: an SSD of another vendor.
    for name, value in (
        ("vendor", "0x144d"),
        ("device", "0xa80a"),
        ("subsystem_vendor", "0x144d"),
        ("subsystem_device", "0xa813"),
        ("class", "0x010802"),
        ("numa_node", "0"),
    ):
        tree.file(f"sys/bus/pci/devices/0000:05:00.0/{name}", value + "\n")
    per_node = CPUS // NUMA_NODES
    for number in range(NUMA_NODES):
        folder = f"sys/devices/system/node/node{number}"
        tree.file(f"{folder}/cpulist", f"{number * per_node}-{(number + 1) * per_node - 1}\n")
        tree.file(
            f"{folder}/meminfo",
            f"Node {number} MemTotal:       {MEMORY_KB // NUMA_NODES} kB\nNode {number} MemFree:        {MEMORY_KB // NUMA_NODES - 4194304} kB\n",
        )
    tree.file("sys/devices/system/node/online", f"0-{NUMA_NODES - 1}\n")
    tree.file("sys/devices/system/cpu/online", f"0-{CPUS - 1}\n")
    tree.file(
        "proc/meminfo",
        f"MemTotal:       {MEMORY_KB} kB\nMemFree:        {MEMORY_KB - 48 * 1024 * 1024} kB\nMemAvailable:   {MEMORY_KB - 32 * 1024 * 1024} kB\n"
        "Buffers:          524288 kB\nCached:         16777216 kB\nSwapTotal:             0 kB\nHugePages_Total:       0\nHugepagesize:       2048 kB\n",
    )
    tree.file(
        "proc/cpuinfo",
        "".join(
            f"processor\t: {number}\nBogoMIPS\t: 200.00\nFeatures\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm asimddp\n"
            "CPU implementer\t: 0x48\nCPU architecture: 8\nCPU part\t: 0xd01\n\n"
            for number in range(CPUS)
        ),
    )
    tree.file(
        "proc/mounts",
        "/dev/sda2 / ext4 rw,relatime 0 0\n/dev/nvme0n1 /mnt/weights xfs rw,relatime,attr2,inode64,noquota 0 0\ntmpfs /run tmpfs rw,nosuid 0 0\n",
    )
    tree.file(
        "proc/modules",
        "".join(f"{name} 1048576 1 - Live 0x0000000000000000 (OE)\n" for name in (MODULES if with_driver else ()))
        + "nvme 49152 2 - Live 0x0000000000000000\n",
    )
    tree.file("proc/uptime", "86400.00 16588800.00\n")
    tree.file("proc/sys/kernel/osrelease", KERNEL + "\n")
    tree.file("proc/sys/kernel/hostname", "npuops-simulated\n")
    tree.file("proc/sys/kernel/random/boot_id", f"{uuid.uuid4()}\n")
    tree.file("proc/version", f"Linux version {KERNEL} (simulated by npuops) #25-Ubuntu SMP\n")
    return tree


def etc(world: World, with_driver: bool) -> Tree:
    tree = Tree()
    tree.file(
        "etc/os-release",
        'PRETTY_NAME="Ubuntu 22.04 LTS"\nNAME="Ubuntu"\nVERSION_ID="22.04"\nVERSION="22.04 LTS (Jammy Jellyfish)"\nVERSION_CODENAME=jammy\n'
        "ID=ubuntu\nID_LIKE=debian\nUBUNTU_CODENAME=jammy\n",
    )
    users = "root:x:0:0:root:/root:/bin/bash\n"
    groups = "root:x:0:\n"
    if with_driver:
        users += "HwHiAiUser:x:1000:1000::/home/HwHiAiUser:/bin/bash\n"
        groups += "HwHiAiUser:x:1000:\n"
    tree.file("etc/passwd", users)
    tree.file("etc/group", groups)
    tree.file("etc/apt/apt.conf.d/20auto-upgrades", 'APT::Periodic::Update-Package-Lists "1";\nAPT::Periodic::Unattended-Upgrade "1";\n')
    tree.file("var/lib/dpkg/status", "".join(f"Package: {name}\nStatus: install ok installed\nVersion: 1.0-simulated\n\n" for name in DPKG))
    if with_driver:
        tree.file(
            "etc/ascend_install.info",
            "UserName=HwHiAiUser\nUserGroup=HwHiAiUser\nDriver_Install_Type=full\n"
            f"Driver_Install_Path_Param={world.root}/usr/local/Ascend\nDriver_Install_For_All=no\nDriver_Install_Mode=normal\n"
            f"Firmware_Install_Type=full\nFirmware_Install_Path_Param={world.root}/usr/local/Ascend\n",
        )
        lib = f"{world.root}/usr/local/Ascend/driver/lib64"
        tree.file("etc/ld.so.conf.d/ascend_driver_so.conf", f"{lib}/common\n{lib}/driver\n{lib}\n")
    return tree


def device_nodes() -> Tree:
    """ASSUMPTION: plain files stand for the character devices, which an ordinary user cannot make."""
    tree = Tree()
    for name in (*(f"davinci{number}" for number in range(len(NPUS))), "davinci_manager", "devmm_svm", "hisi_hdc"):
        tree.file(f"dev/{name}", b"", 0o660)
    return tree


def admin_installed(hdk: Hdk, arch: str, world: World) -> Tree:
    """The driver and firmware that an administrator has installed."""
    tree, root = Tree(), "usr/local/Ascend"
    tree.add(driver_tree(hdk, arch, world), root)
    for path, (kind, mode, content) in list(tree.entries.items()):
        if path.endswith("setenv.bash"):
            tree.entries[path] = (kind, mode, content.replace(b"%PATH%", f"{world.root}/{root}".encode()))
    tree.file(f"{root}/driver/version.info", driver_version_info(hdk), 0o444)
    tree.add(firmware_tree(world), root)
    tree.file(f"{root}/firmware/version.info", firmware_version_info(hdk), 0o444)
    for folder in ("bin", "sbin"):
        tree.file(f"usr/local/{folder}/npu-smi", npu_smi(world), 0o555)
    tree.file("usr/local/dcmi/dcmi_interface_api.h", "/* simulated by npuops */\n", 0o444)
    tree.file("lib/davinci.conf", f"DAVINCI_HOME_PATH={world.root}/usr/local/Ascend\n")
    return tree


def lay_node(root: Path, hdk: Hdk, arch: str, world: World) -> bool:
    """Lay the node's tree below root unless one is there; True when it was laid.

    world.root == "" (--system): only sys/, proc/ and the script that simulates a reboot.
    world.privileged below a root: a bare node, whose driver is still to be installed.
    """
    if (root / "proc").is_dir():
        return False
    bare = world.privileged
    tree = hardware(with_driver=not bare)
    tree.file("simulated-reboot", render("hdk/reboot", {"WORLD": world.shell()}), 0o755)
    if world.root:
        tree.add(etc(world, with_driver=not bare))
        for folder in (
            "home",
            "root",
            "tmp",
            "opt",
            "usr/local/bin",
            "usr/local/sbin",
            "var/log",
            "var/lib/npuops-simulator/faults",
            "mnt/weights",
            "dev",
            "run",
        ):
            tree.folder(folder)
        if not bare:
            tree.add(device_nodes())
            tree.add(admin_installed(hdk, arch, world))
    tree.lay(root)
    return True
