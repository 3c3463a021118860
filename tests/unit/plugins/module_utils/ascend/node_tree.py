# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A node as files below one folder: what the kernel shows, what the vendor's installers leave, and packages that do as they are told."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend.plan import Roots

KERNELS = "opp/built-in/op_impl/ai_core/tbe/kernel/config"
ARCH = os.uname().machine
HDK_ARCH = ARCH.replace("_", "-")

DRIVER_PACKAGE = f"Ascend-hdk-910b-npu-driver_25.0.rc1.1_linux-{HDK_ARCH}.run"
FIRMWARE_PACKAGE = "Ascend-hdk-910b-npu-firmware_7.7.0.1.231.run"
TOOLKIT_PACKAGE = f"Ascend-cann-toolkit_8.1.RC1_linux-{ARCH}.run"
KERNELS_PACKAGE = f"Ascend-cann-kernels-910b_8.1.RC1_linux-{ARCH}.run"
NNAL_PACKAGE = f"Ascend-cann-nnal_8.1.RC1_linux-{ARCH}.run"


class NodeTree:
    """Builds the files. Every method may be called again to change what it laid before."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ascend = root / "usr/local/Ascend"
        for folder in ("sys/bus/pci/devices", "proc/sys/kernel/random", "dev", "etc", "usr/local", "tmp"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        self.write("proc/sys/kernel/osrelease", "5.15.0-25-generic\n")
        self.write("proc/sys/kernel/random/boot_id", "11111111-2222-3333-4444-555555555555\n")
        self.write("etc/passwd", "root:x:0:0:root:/root:/bin/bash\nHwHiAiUser:x:1000:1000::/home/HwHiAiUser:/bin/bash\n")
        self.write("etc/group", "root:x:0:\nHwHiAiUser:x:1000:\n")

    def write(self, path: str, text: str, mode: int = 0o644) -> Path:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        target.chmod(mode)
        return target

    def install(self, path: str, text: str = "", mode: int = 0o644) -> Path:
        """A file below the Ascend folder."""
        return self.write(f"usr/local/Ascend/{path}", text, mode)

    @property
    def roots(self) -> Roots:
        return Roots(
            ascend=str(self.ascend),
            etc=str(self.root / "etc"),
            sysfs=str(self.root / "sys"),
            proc=str(self.root / "proc"),
            dev=str(self.root / "dev"),
            state=str(self.root / "var/lib/npuops"),
        )

    @property
    def options(self) -> dict:
        """The same for the modules."""
        roots = self.roots
        return {
            "sysfs_root": roots.sysfs,
            "proc_root": roots.proc,
            "dev_root": roots.dev,
            "etc_root": roots.etc,
            "state_dir": roots.state,
        }

    def pci(self, address: str, **ids: str) -> None:
        defaults = {
            "vendor": "0x19e5",
            "device": "0xd802",
            "subsystem_vendor": "0x19e5",
            "subsystem_device": "0x3004",
            "class": "0x120000",
            "numa_node": "0",
        }
        for name, value in {**defaults, **ids}.items():
            self.write(f"sys/bus/pci/devices/{address}/{name}", value + "\n")

    def npus(self, count: int = 8) -> None:
        for number, address in enumerate(["01", "02", "41", "42", "81", "82", "c1", "c2"][:count]):
            self.pci(f"0000:{address}:00.0", numa_node=str(number))
            self.write(f"dev/davinci{number}", "", 0o660)
        self.write("dev/davinci_manager", "", 0o660)

    def driver(self, version: str = "25.0.rc1.1", user: str = "HwHiAiUser", for_all: str = "no", firmware: str = "[7.0.0,7.7.99]") -> None:
        self.driver_record(user, for_all)
        self.install(
            "driver/version.info",
            f"Version={version}\nInnerversion=V100R001C21SPC002B220\n"
            f"compatible_version=[V100R001C20],[V100R001C21]\ncompatible_version_fw={firmware}\npackage_version={version}\n",
            0o444,
        )
        self.install("driver/lib64/driver/libascend_hal.so")
        self.install("driver/lib64/common/libc_sec.so")

    def driver_record(self, user: str = "HwHiAiUser", for_all: str = "no") -> None:
        self.write(
            "etc/ascend_install.info",
            f"UserName={user}\nUserGroup={user}\nDriver_Install_Type=full\n"
            f"Driver_Install_Path_Param={self.ascend}\nDriver_Install_For_All={for_all}\nDriver_Install_Mode=normal\n",
        )

    def firmware(self, version: str = "7.7.0.1.231", drivers: str = "[24.1,24.1.],[25.0,25.0.]") -> None:
        self.install("firmware/version.info", f"Version={version}\nfirmware_version=1.0\npackage_version=25.0.rc1.1\ncompatible_version_drv={drivers}\n")

    def toolkit(self, version: str = "8.1.RC1", latest: bool = True) -> Path:
        tree = f"ascend-toolkit/{version}"
        home = self.ascend / tree
        self.install(
            f"{tree}/{ARCH}-linux/ascend_toolkit_install.info",
            f"package_name=Ascend-cann-toolkit\nversion={version}\ninnerversion=V100R001C21SPC001B238\n"
            f"compatible_version=[V100R001C20],[V100R001C21]\narch={ARCH}\nos=linux\npath={home}/{ARCH}-linux\n",
        )
        for part in ("runtime", "compiler", "hccl", "opp", "toolkit", "tools/aoe", "tools/ncs"):
            self.install(f"{tree}/{part}/version.info", f"Version=7.7.0.1.238\nversion_dir={version}\n")
        self.install(f"{tree}/{ARCH}-linux/lib64/libhccl.so")
        self.link(f"{tree}/lib64", f"{ARCH}-linux/lib64")
        self.install(f"{tree}/{ARCH}-linux/script/set_env.sh", self.toolkit_environment(str(home)))
        if latest:
            for name in (f"{ARCH}-linux/ascend_toolkit_install.info", "runtime", "compiler", "hccl", "opp", "toolkit"):
                self.link(f"ascend-toolkit/latest/{name}", os.path.relpath(home / name, (self.ascend / "ascend-toolkit/latest" / name).parent))
            self.link("ascend-toolkit/latest/lib64", f"../{version}/{ARCH}-linux/lib64")
            parts = ("runtime", "compiler", "hccl", "opp", "toolkit", "aoe", "ncs", "opp_kernel")
            self.install(
                "ascend-toolkit/latest/version.cfg", "# version: 1.0\n" + "".join(f"{part}_installed_version=[7.7.0.1.238:{version}]\n" for part in parts)
            )
            self.install("ascend-toolkit/set_env.sh", self.toolkit_environment(f"{self.ascend}/ascend-toolkit/latest"))
        return home

    @staticmethod
    def toolkit_environment(home: str) -> str:
        """What the vendor's script does, with its faults: a trailing colon, no driver libraries, the same entry twice."""
        return (
            f"export ASCEND_TOOLKIT_HOME={home}\n"
            "export LD_LIBRARY_PATH=${ASCEND_TOOLKIT_HOME}/lib64:${ASCEND_TOOLKIT_HOME}/lib64:$LD_LIBRARY_PATH\n"
            "export PYTHONPATH=${ASCEND_TOOLKIT_HOME}/python/site-packages:$PYTHONPATH\n"
            "export PATH=${ASCEND_TOOLKIT_HOME}/bin:$PATH\nexport ASCEND_OPP_PATH=${ASCEND_TOOLKIT_HOME}/opp\n"
            "export ASCEND_HOME_PATH=${ASCEND_TOOLKIT_HOME}\necho a chatty script\n"
        )

    def kernels(self, version: str = "8.1.RC1", chip: str = "ascend910b") -> None:
        tree = f"ascend-toolkit/{version}"
        self.install(f"{tree}/opp_kernel/version.info", f"Version=7.7.0.1.238\nversion_dir={version}\n")
        self.install(f"{tree}/opp_kernel/ascend_install.info", "OPP_KERNEL_INSTALL_TYPE=full\n")
        self.install(f"{tree}/{KERNELS}/{chip}/binary_info_config.json", "{}")

    def cann85(self, version: str = "8.5.0", kernels: bool = True) -> Path:
        tree = f"cann-{version}"
        self.install(f"{tree}/{ARCH}-linux/ascend_toolkit_install.info", f"version={version}\ninnerversion=V100R001C25SPC001B212\narch={ARCH}\n")
        if kernels:
            self.install(f"{tree}/{ARCH}-linux/ascend_ops_install.info", f"version={version}\n")
            self.install(f"{tree}/{KERNELS}/ascend910b/binary_info_config.json", "{}")
        for part in ("runtime", "compiler"):
            self.install(f"{tree}/share/info/{part}/version.info", "Version=8.5\n")
        self.install(f"{tree}/set_env.sh", self.toolkit_environment(f"{self.ascend}/cann"))
        self.link("cann", tree)
        self.link("ascend-toolkit/latest", "../cann")
        return self.ascend / tree

    def nnal(self, version: str = "8.1.RC1", abis: tuple[int, ...] = (0, 1)) -> None:
        self.install(
            f"nnal/atb/{version}/version.info", f"    Ascend-cann-atb : {version}\n    Ascend-cann-atb Version : {version}.B150\n    Platform : {ARCH}\n"
        )
        for abi in abis:
            self.install(f"nnal/atb/{version}/atb/cxx_abi_{abi}/lib/libatb.so")
        self.link("nnal/atb/latest", version)
        self.install(
            "nnal/atb/set_env.sh",
            (
                'here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)\nabi=1\nfor word in "$@"; do case $word in --cxx_abi=*) abi=${word#*=};; esac; done\n'
                'export ATB_HOME_PATH="$here/latest/atb/cxx_abi_$abi"\nexport LD_LIBRARY_PATH=$ATB_HOME_PATH/lib:$LD_LIBRARY_PATH\n'
                'export ATB_SHARE_MEMORY_NAME_SUFFIX=""\nexport ASDOPS_LOG_PATH=~\n'
            ),
        )

    def link(self, path: str, target: str) -> None:
        """A link below the Ascend folder."""
        link = self.ascend / path
        link.parent.mkdir(parents=True, exist_ok=True)
        if link.is_symlink() or link.exists():
            link.unlink()
        link.symlink_to(target)

    def program(self, path: str, body: str) -> str:
        return str(self.write(path, f"#!/bin/bash\n{body}\n", 0o755))

    def payload(self) -> NodeTree:
        """Another tree, whose files a package of this node brings along."""
        return NodeTree(self.root / "payload")

    def package(
        self,
        name: str,
        brings: NodeTree | None = None,
        prints: tuple[str, ...] = (),
        rc: int = 0,
        body: str = "",
        check: str = "exit 0",
    ) -> str:
        """A package that notes how it was called, copies what it brings, prints, and returns rc. Paths in what it brings are made this node's."""
        lines = [
            f'[ "$*" = --check ] && {{ {check}; }}',
            f"printf '%s\\n' \"$*\" >> {shlex.quote(str(self.root / 'calls'))}",
            f"env > {shlex.quote(str(self.root / 'called-environment'))}; umask >> {shlex.quote(str(self.root / 'called-environment'))}",
            *(f"echo {shlex.quote(line)}" for line in prints),
        ]
        if brings:
            for folder in ("usr/local/Ascend", "etc"):
                if (brings.root / folder).is_dir():
                    lines.append(f"mkdir -p {self.root}/{folder} && cp -a {brings.root}/{folder}/. {self.root}/{folder}/")
            lines.append(f"grep -rlI {brings.root} {self.ascend} {self.root}/etc | xargs -r sed -i 's#{brings.root}#{self.root}#g'")
        return self.program(f"media/{name}", "\n".join([*lines, body, f"exit {rc}"]))

    @property
    def calls(self) -> list[str]:
        log = self.root / "calls"
        return log.read_text().splitlines() if log.exists() else []
