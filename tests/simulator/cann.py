# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The simulated CANN packages: toolkit, kernels and NNAL, file by file.

Layout and records: an installed CANN 8.1.RC1, github.com/leideng/CANN-8.1.RC1 (facts: ascend-vendor.md 4.4, 4.5, 6).
Of some thousand files only those are here that something may ask for. Text files carry %TOP%, %VERSION_DIR%, %USER% and
%GROUP%, which the installer fills in.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import elf
from runpack import PACKAGES, World, render, run_package
from tree import Tree

PACKAGE_SOURCE = '"""Simulated by npuops: stands in for CANN\'s Python package."""\n'


@dataclass(frozen=True)
class Cann:
    """One CANN release: how it is spelled, and what its records say."""

    version: str = "8.1.RC1"
    component: str = "7.7.0.1.238"
    inner_version: str = "V100R001C21SPC001B238"
    compatible: tuple[str, ...] = ("V100R001C15", "V100R001C18", "V100R001C19", "V100R001C20", "V100R001C21")
    nnal_build: str = "B150"
    timestamp: str = "20250428_203017761"


# CANN 8.3.RC1 of the second stack. ASSUMPTION: component, inner version and build; only 8.1.RC1's and 8.2.RC1's are published.
CANN_8_1 = Cann()
# The same version, built again: what a vendor's corrected download is. ASSUMPTION: no such one of 8.1.RC1 is known.
CANN_8_1_AGAIN = Cann(inner_version="V100R001C21SPC001B242", timestamp="20250619_101500123")
CANN_8_2 = Cann(
    "8.2.RC1", "7.8.0.1.231", "V100R001C22SPC001B231", ("V100R001C15", "V100R001C18", "V100R001C19", "V100R001C20", "V100R001C21", "V100R001C22"), "B100"
)
CANN_8_3 = Cann("8.3.RC1", "7.9.0.1.231", "V100R001C23SPC001B231", ("V100R001C19", "V100R001C20", "V100R001C21", "V100R001C22", "V100R001C23"), "B100")

# library → (inner package, exported names, libraries it needs). What torch_npu needs: facts, python-stack.md 4.2.
LIBRARIES: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "libruntime.so": (
        "runtime",
        (
            "rtSetDevice",
            "rtGetDevice",
            "rtGetDeviceCount",
            "rtDeviceReset",
            "rtStreamCreate",
            "rtStreamDestroy",
            "rtStreamSynchronize",
            "rtEventCreate",
            "rtEventRecord",
            "rtMalloc",
            "rtFree",
            "rtMemcpy",
            "rtMemcpyAsync",
            "rtKernelLaunch",
            "rtKernelLaunchWithHandle",
            "rtStreamBeginCapture",
            "rtStreamEndCapture",
            "rtModelCreate",
            "rtModelExecute",
            "rtGetSocVersion",
        ),
        ("libascend_hal.so",),
    ),
    "libascendcl.so": (
        "runtime",
        (
            "aclInit",
            "aclFinalize",
            "aclrtSetDevice",
            "aclrtGetDeviceCount",
            "aclrtGetSocName",
            "aclrtMalloc",
            "aclrtFree",
            "aclrtMemcpy",
            "aclrtCreateStream",
            "aclrtSynchronizeStream",
            "aclrtResetDevice",
            "aclGetRecentErrMsg",
            "aclmdlRICaptureBegin",
            "aclmdlRICaptureEnd",
            "aclAppLog",
        ),
        ("libruntime.so",),
    ),
    "libacl_tdt_channel.so": ("runtime", ("acltdtCreateChannel", "acltdtDestroyChannel"), ()),
    "libnnopbase.so": ("runtime", ("NnopbaseInit",), ()),
    "libascendalog.so": ("runtime", ("DlogRecord", "DlogGetlogLevel"), ()),
    "liberror_manager.so": ("runtime", ("ReportErrMessage",), ()),
    "libacl_op_compiler.so": ("compiler", ("aclopCompile", "aclopCompileAndExecute"), ()),
    "libge_runner.so": ("compiler", ("GEInitialize", "GEFinalize"), ()),
    "libge_common.so": ("compiler", ("GeCommonInit",), ()),
    "libgraph.so": ("compiler", ("GraphCreate",), ()),
    "libregister.so": ("compiler", ("OpRegister",), ()),
    "libfmk_parser.so": ("compiler", ("FmkParse",), ()),
    "libascend_protobuf.so": ("compiler", ("ascend_protobuf_stub",), ()),
    "libhccl.so": (
        "hccl",
        (
            "HcclGetRootInfo",
            "HcclCommInitRootInfo",
            "HcclCommInitClusterInfo",
            "HcclCommDestroy",
            "HcclAllReduce",
            "HcclBroadcast",
            "HcclAllGather",
            "HcclReduceScatter",
            "HcclSend",
            "HcclRecv",
        ),
        ("libruntime.so",),
    ),
    "libopapi.so": ("opp", ("aclnnMatmul", "aclnnAdd"), ()),
}

# What the published torch_npu wants to find in them, so that the real wheel can be imported against these stubs.
TORCH_NPU_SYMBOLS = [line for line in (Path(__file__).parent / "torch_npu_symbols.txt").read_text().splitlines() if not line.startswith("#")]
# ASSUMPTION: which of the libraries has which name; the wheel needs them all, and a loader asks no further. The first pattern counts.
DEFINED_BY = (
    ("libhccl.so", r"Hccl"),
    ("libatb.so", r"_ZN3atb"),
    ("libacl_tdt_channel.so", r"acltdt"),
    ("libacl_op_compiler.so", r"aclop|aclSetCompileopt"),
    ("libge_runner.so", r"_ZNK?2ge\d+(GE|Session)"),
    ("libgraph.so", r"_ZNK?2ge"),
    ("libascendcl.so", r""),
)


def exports_of(library: str) -> list[str]:
    """The names that a library of CANN or NNAL exports: its own few, and what torch_npu wants of it."""
    owner = {name: next(owner for owner, pattern in DEFINED_BY if re.match(pattern, name)) for name in TORCH_NPU_SYMBOLS}
    own = LIBRARIES[library][1] if library in LIBRARIES else ()
    return [*own, *(name for name in TORCH_NPU_SYMBOLS if owner[name] == library)]


PARTS = ("runtime", "compiler", "hccl", "opp", "toolkit", "aoe", "mindstudio-toolkit", "test-ops", "pyACL", "ncs")
FOLDERS = {"aoe": "tools/aoe", "ncs": "tools/ncs", "test-ops": "opp/test-ops"}
PYACL = PACKAGES / "cann" / "pyacl.py"


def version_info(part: str, cann: Cann) -> str:
    text = f"Version={cann.component}\nversion_dir={cann.version}\ntimestamp={cann.timestamp}\n"
    if part == "runtime":
        text += "runtime_acl_version=1.0\nruntime_dvpp_version=1.0\nrequired_driver_ascendhal_version=4.0.0\n"
        text += "required_driver_dvppkernels_version=1.1\nrequired_driver_tsfw_version=1.0\n"
    short = ".".join(cann.component.split(".")[:2])
    lower = f"{short.split('.')[0]}.{int(short.split('.')[1]) - 1}"
    for other in ("compiler", "hccl", "opp", "runtime", "toolkit"):
        if other != part:
            wanted = f">={lower}, <={short}" if part == "opp_kernel" else short
            text += f'required_package_{other}_version="{wanted}"\n'
    if part != "opp_kernel":
        text += f'required_package_opp_kernel_version=">={lower}, <={short}"\n'
    return text


def scripts(tree: Tree, folder: str, part: str, cann: Cann, world: World) -> None:
    """script/uninstall.sh of one inner package with the list of what it takes away."""
    up = "/".join([".."] * (folder.count("/") + 2))
    tree.file(
        f"{folder}/script/uninstall.sh",
        render("cann/part_uninstall.sh", {"PART": part, "VERSION": cann.version, "STATE": f"{world.root}/var/lib/npuops-simulator", "UP": up}),
        0o550,
    )
    names = [path for path, (kind, _, _) in tree.entries.items() if kind != "folder" and not path.startswith(f"{folder}/script/")]
    tree.file(f"{folder}/script/filelist.csv", "".join(f"{part},{path}\n" for path in sorted(names)), 0o440)


def part_tree(part: str, cann: Cann, arch: str, world: World) -> Tree:
    """The files of one inner package, relative to the version's folder."""
    tree, folder, form = Tree(), FOLDERS.get(part, part), f"{arch}-linux"
    if part == "mindstudio-toolkit":
        tree.file(f"{folder}/version.info", "Version=8.0.RC1.B110\n", 0o440)
        tree.file(f"{folder}/ascend_install.info", "UserName=%USER%\nUserGroup=%GROUP%\nInstall_Path_Param=%VERSION_DIR%\n")
    elif part == "pyACL":
        tree.file(f"{folder}/version.info", f"Version={cann.version}\n", 0o440)
        tree.file(f"{folder}/ascend-pyACL_install.info", f"path=%VERSION_DIR%\narch={arch}\npyacl_username=%USER%\npyacl_usergroup=%GROUP%\n")
        tree.file("python/site-packages/acl/__init__.py", PYACL.read_text(), 0o440)
        tree.link(f"{folder}/python", "../python")
    else:
        tree.file(f"{folder}/version.info", version_info(part, cann), 0o440)
        name = part.replace("-", "_").capitalize()
        tree.file(
            f"{folder}/ascend_install.info",
            "".join(
                f"{name}_{key}={value}\n"
                for key, value in (
                    ("Install_Type", "full"),
                    ("Chip_Type", "all"),
                    ("Feature_Type", "all"),
                    ("UserName", "%USER%"),
                    ("UserGroup", "%GROUP%"),
                    ("Install_Path_Param", "%TOP%"),
                    ("Arch_Linux_Path", form),
                    ("Hetero_Arch_Flag", "n"),
                )
            ),
        )
    tree.file(f"{folder}/scene.info", f"os=linux\nos_version=\narch={arch}\n", 0o440)
    for library, (owner, _exports, needed) in LIBRARIES.items():
        if owner == part:
            build = f"{cann.version} {cann.timestamp}".encode()
            tree.file(f"{form}/lib64/{library}", elf.shared_object(arch, library, exports_of(library), needed, build), 0o440)
            tree.link(f"{folder}/lib64/{library}", f"../../{form}/lib64/{library}")
    if part == "runtime":
        tree.file(f"{form}/include/acl/acl.h", "/* simulated by npuops */\n#define ACL_MAJOR_VERSION 1\n", 0o440)
        tree.file(f"{form}/conf/path.cfg", "# simulated by npuops\n", 0o440)
        # Compile-time stubs: a libascend_hal.so that no loader looks at, although a search by name finds it.
        tree.file(f"{form}/devlib/linux/{arch}/libascend_hal.so", elf.shared_object(arch, "libascend_hal.so", ["halGetChipInfo"]), 0o440)
    if part == "compiler":
        tree.file(f"{form}/bin/atc", '#!/bin/sh\necho "ATC start working now (simulated by npuops)"\n', 0o550)
        tree.file(f"{form}/ccec_compiler/bin/ccec", '#!/bin/sh\necho "simulated by npuops"\n', 0o550)
        tree.link("compiler/bin", f"../{form}/bin")
        tree.link("compiler/ccec_compiler", f"../{form}/ccec_compiler")
        for alias in ("atc", "fwkacllib"):
            for name in ("ascend_install.info", "scene.info", "version.info", "bin", "ccec_compiler", "script"):
                tree.link(f"{alias}/{name}", f"../compiler/{name}")
            for library in LIBRARIES:
                tree.link(f"{alias}/lib64/{library}", f"../../{form}/lib64/{library}")
        tree.file("python/site-packages/te/__init__.py", PACKAGE_SOURCE, 0o440)
    if part == "opp":
        kernel_api = "opp/built-in/op_impl/ai_core/tbe"
        tree.file(f"{kernel_api}/op_tiling/lib/linux/{arch}/liboptiling.so", elf.shared_object(arch, "liboptiling.so", ["OpTiling"]), 0o440)
        tree.file(f"{kernel_api}/impl/__init__.py", PACKAGE_SOURCE, 0o440)
        tree.file("opp/vendors/config.ini", "load_priority=\n")
    if part == "toolkit":
        tree.file("tools/aml/lib64/libascend_ml.so", elf.shared_object(arch, "libascend_ml.so", ["AmlInit"]), 0o440)
        tree.file("tools/profiler/bin/msprof", '#!/bin/sh\necho "simulated by npuops"\n', 0o550)
        tree.link("tools/ccec_compiler", f"../{form}/ccec_compiler")
        tree.file("toolkit/tools/README", "simulated by npuops\n")
    scripts(tree, folder, part, cann, world)
    return tree


def combo_tree(cann: Cann, arch: str, world: World) -> Tree:
    """What the outer package adds: the version's links, record, environment script and uninstallers."""
    tree, form = Tree(), f"{arch}-linux"
    tree.file(
        f"{form}/ascend_toolkit_install.info",
        "package_name=Ascend-cann-toolkit\n"
        + "".join(
            f"{key}={value}\n"
            for key, value in (
                ("version", cann.version),
                ("innerversion", cann.inner_version),
                ("compatible_version", ",".join(f"[{item}]" for item in cann.compatible)),
                ("arch", arch),
                ("os", "linux"),
                ("path", f"%VERSION_DIR%/{form}"),
            )
        ),
    )
    log_dir = (
        f"{world.root}/var/log/ascend_seclog"
        if world.privileged
        else "${HOME}/var/log/ascend_seclog"
        if not world.root
        else f"{world.home}/var/log/ascend_seclog"
    )
    tree.file(f"{form}/script/uninstall.sh", render("cann/uninstall.sh", {"LOG_DIR": log_dir}), 0o550)
    tree.file(f"{form}/script/set_env.sh", render("cann/set_env.sh", {}).replace("%WHICH%", cann.version), 0o444)
    tree.file("cann_uninstall.sh", render("cann/cann_uninstall.sh", {}), 0o550)
    tree.file(
        "combo_script/uninstall.sh",
        render(
            "cann/combo_uninstall.sh",
            {
                "VERSION": cann.version,
                "ARCH": arch,
                "ROOT": world.root,
                "PRIVILEGED": "y" if world.privileged else "n",
                "HOME": world.home if world.root else "${HOME}",
            },
        ),
        0o550,
    )
    tree.file("create_version_softlink.sh", "#!/bin/sh\necho 'simulated by npuops'\n", 0o550)
    tree.file("var/ascend_package_db.info", "NPURuntime|runtime\nruntime|runtime\ncompiler|compiler\nhccl|hccl\nopp|opp\ntoolkit|toolkit\n")
    for name in ("bin", "conf", "include", "lib64"):
        tree.link(name, f"{form}/{name}")
    if arch == "aarch64":
        tree.link("arm64-linux", form)
    tree.link("ops", "opp")
    tree.link("acllib", "runtime")
    return tree


def latest_tree(cann: Cann, arch: str) -> Tree:
    """`latest`: a real folder of links into the version, lib64 and tools being real folders of links themselves."""
    tree, form, version = Tree(), f"{arch}-linux", cann.version
    for name in ("runtime", "compiler", "hccl", "opp", "toolkit", "atc", "fwkacllib", "pyACL", "mindstudio-toolkit"):
        tree.link(name, f"../{version}/{name}")
    tree.link("ops", f"../{version}/opp")
    tree.link("acllib", f"../{version}/runtime")
    tree.link("test-ops", f"../{version}/opp/test-ops")
    for name in ("bin", "conf", "include", "lib64"):
        tree.link(name, f"{form}/{name}")
    if arch == "aarch64":
        tree.link("arm64-linux", form)
    for name in ("ascend_toolkit_install.info", "install.conf", "script"):
        tree.link(f"{form}/{name}", f"../../{version}/{form}/{name}")
    for library in LIBRARIES:
        tree.link(f"{form}/lib64/{library}", f"../../../{version}/{form}/lib64/{library}")
    for path in ("bin/atc", "ccec_compiler/bin/ccec", "conf/path.cfg", "include/acl"):
        tree.link(f"{form}/{path}", f"{'../' * (2 + path.count('/'))}{version}/{form}/{path}")
    for name in ("aml", "aoe", "ncs", "profiler", "ccec_compiler"):
        tree.link(f"tools/{name}", f"../../{version}/tools/{name}")
    for name in ("acl", "te"):
        tree.link(f"python/site-packages/{name}", f"../../../{version}/python/site-packages/{name}")
    tree.file("platform.ini", "product_type=dc\n")
    tree.file("remove_latest_softlink.sh", "#!/bin/sh\necho 'simulated by npuops'\n", 0o550)
    tree.file("var/manager.sh", "#!/bin/sh\necho 'simulated by npuops'\n", 0o550)
    tree.file("var/manager_refs", "8\n")
    tree.file("var/ascend_package_db.info", "NPURuntime|runtime\n")
    tree.folder("var/manager")
    return tree


def kernels_tree(cann: Cann, chip: str, world: World) -> Tree:
    """The kernels' marks on disk; they leave no record of their own."""
    tree = Tree()
    tree.file("opp_kernel/version.info", version_info("opp_kernel", cann), 0o440)
    tree.file(
        "opp_kernel/ascend_install.info",
        "USERNAME=%USER%\nUSERGROUP=%GROUP%\nOPP_KERNEL_INSTALL_TYPE=full\nOPP_KERNEL_FEATURE_TYPE=all\n"
        "OPP_KERNEL_CURRENT_FEATURE=all\nOPP_KERNEL_INSTALL_PATH_PARAM=%VERSION_DIR%\n",
    )
    kernel = "opp/built-in/op_impl/ai_core/tbe/kernel"
    tree.file(f"{kernel}/ascend{chip}/mat_mul/MatMul_simulated.o", b"\x7fELF simulated by npuops", 0o440)
    tree.file(f"{kernel}/config/ascend{chip}/binary_info_config.json", '{"MatMul": {"binaryList": []}}\n', 0o440)
    scripts(tree, "opp_kernel", "opp_kernel", cann, world)
    return tree


def placeholders(tree: Tree) -> str:
    """The files of one part whose %NAME% the installer fills in, one a line."""
    return "".join(
        f"{path}\n"
        for path, (kind, _, content) in sorted(tree.entries.items())
        if kind == "file" and not path.endswith(".so") and any(mark in content for mark in (b"%TOP%", b"%VERSION_DIR%", b"%USER%"))
    )


def cann_payload(cann: Cann, arch: str, world: World, installer: str, parts: dict[str, Tree], chip: str = "") -> Tree:
    payload = Tree()
    payload.file("install.sh", render(f"cann/{installer}.sh", {"COMPONENT_VERSION": cann.component}), 0o755)
    payload.file("common.sh", render("common.sh", {}))
    payload.file("cann_common.sh", render("cann/common.sh", {"COMPONENT_VERSION": cann.component}))
    payload.file("sim.conf", world.shell() + f"PKG_VERSION={cann.version}\nPKG_ARCH={arch}\nPKG_CHIP={chip}\n")
    for name, tree in parts.items():
        payload.folder(f"parts/{name}")
        payload.add(tree, f"parts/{name}")
        payload.file(f"placeholders/{name}", placeholders(tree))
    return payload


OPTIONS = """\
  --install --full --run --devel   Install the package
  --upgrade                        Upgrade an installed package
  --uninstall                      Uninstall the package
  --install-path=<path>            Install to this folder
  --install-for-all                Let all users use it
  --quiet                          Skip questions, accept the EULA
  --version --pre-check            Print the version; check what is needed
  (simulated by npuops)"""


def toolkit_package(cann: Cann, arch: str, world: World) -> tuple[str, bytes]:
    """(file name, bytes) of Ascend-cann-toolkit_<version>_linux-<arch>.run."""
    parts = {part: part_tree(part, cann, arch, world) for part in PARTS}
    parts["combo"] = combo_tree(cann, arch, world)
    payload = cann_payload(cann, arch, world, "toolkit", parts)
    payload.add(latest_tree(cann, arch), "latest")
    payload.file("set_env.sh", render("cann/set_env.sh", {}).replace("%WHICH%", "latest"))
    name = f"Ascend-cann-toolkit_{cann.version}_linux-{arch}.run"
    return name, run_package(name=name, label="ASCEND_RUN_PACKAGE", version=cann.version, payload=payload, world=world, help_text=OPTIONS)


def kernels_package(cann: Cann, arch: str, world: World, chip: str = "910b") -> tuple[str, bytes]:
    """(file name, bytes) of Ascend-cann-kernels-<chip>_<version>_linux-<arch>.run."""
    payload = cann_payload(cann, arch, world, "kernels", {"opp_kernel": kernels_tree(cann, chip, world)}, chip)
    name = f"Ascend-cann-kernels-{chip}_{cann.version}_linux-{arch}.run"
    return name, run_package(name=name, label="ASCEND_RUN_PACKAGE", version=cann.version, payload=payload, world=world, help_text=OPTIONS)


def nnal_package(cann: Cann, arch: str, world: World) -> tuple[str, bytes]:
    """(file name, bytes) of Ascend-cann-nnal_<version>_linux-<arch>.run."""
    payload = Tree()
    for abi in (0, 1):
        folder = f"tree/atb/cxx_abi_{abi}"
        payload.file(f"{folder}/configs/ops_configs/atb_ops_info.ini", "# simulated by npuops\n", 0o440)
        payload.file(f"{folder}/include/atb/atb_infer.h", "/* simulated by npuops */\n", 0o440)
        for library, needed in (
            ("libmki.so", ()),
            ("libasdops.so", ("libmki.so",)),
            ("liblcal.so", ()),
            ("libatb.so", ("libasdops.so",)),
            ("libatb_train.so", ()),
        ):
            mangled = "NSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE" if abi else "Ss"
            exports = [f"_ZN3atb9OperationC1{mangled}", "AtbCreateContext", *exports_of(library)] if library == "libatb.so" else [library[3:-3] + "_stub"]
            payload.file(f"{folder}/lib/{library}", elf.shared_object(arch, library, exports, needed), 0o440)
    payload.file(
        "tree/version.info",
        f"    Ascend-cann-atb : {cann.version}\n    Ascend-cann-atb Version : {cann.version}.{cann.nnal_build}\n"
        f"    Platform : {arch}\n    branch : npuops_simulator\n    commit id : {'0' * 40}\n",
        0o440,
    )
    for tag in ("cp310", "cp311"):
        payload.file(f"tree/whl/torch_atb-0.0.1-{tag}-none-any.whl", b"simulated by npuops", 0o440)
    payload.file(
        "tree/scripts/uninstall.sh",
        render(
            "cann/nnal_uninstall.sh",
            {
                "VERSION": cann.version,
                "LOG_DIR": "/var/log/cann_atb_log" if not world.root else f"{world.root if world.privileged else world.home}/var/log/cann_atb_log",
            },
        ),
        0o550,
    )
    listed = [path[5:] for path, (kind, _, _) in payload.entries.items() if path.startswith("tree/") and kind == "file"]
    payload.file("tree/scripts/filelist.csv", "path\n" + "".join(f"{path}\n" for path in sorted(listed)), 0o440)
    payload.file("set_env.sh", render("cann/nnal_set_env.sh", {}), 0o550)
    installer = render("cann/nnal.sh", {})
    payload.file("install.sh", installer, 0o755)
    payload.file("tree/install.sh", installer, 0o550)
    payload.file("common.sh", render("common.sh", {}))
    payload.file("sim.conf", world.shell() + f"PKG_VERSION={cann.version}\nPKG_ARCH={arch}\n")
    name = f"Ascend-cann-nnal_{cann.version}_linux-{arch}.run"
    return name, run_package(name=name, label="ASCEND_RUN_PACKAGE", version=cann.version, payload=payload, world=world, help_text=OPTIONS)
