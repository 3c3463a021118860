# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the vendor's installers left on a node: driver, firmware, CANN trees of both layouts, NNAL.

The exit codes of the installers say little, and a record alone proves nothing: the driver's record is written before the first
file is copied, its version.info near the end. So each answer has a version that the files prove, or None with the reason.

Formats: driver and firmware as written by https://gitcode.com/cann/driver (scripts/package/custom/driver/common/scripts),
CANN and NNAL as in the installed tree https://github.com/leideng/CANN-8.1.RC1.
"""
from __future__ import annotations

import glob
import os
import re

from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend import pairings
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend.package import family
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend.problem import problem
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend.version import in_range, version_key

_LIMIT = 1024 * 1024
_RANGE = re.compile(r"\[([^\[\],]+),([^\[\],]+)\]")
_STEM = re.compile(r"\[([^\[\],]+)\]")
# What only an installation leaves; the vendor's uninstaller may forget an empty folder.
_DRIVER_TRACES = ("lib64", "tools", "script", "kernel", "version.info")
_FIRMWARE_TRACES = ("script", "tools", "version.info")
_PARTS = ("runtime", "compiler", "hccl", "opp", "opp_kernel", "toolkit", "aoe", "ncs")
_KERNELS = os.path.join("opp", "built-in", "op_impl", "ai_core", "tbe", "kernel", "config")


def read_text(path: str, limit: int | None = _LIMIT) -> tuple[str | None, str | None]:
    """A small file's text, or None and why it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(limit), None
    except OSError as exc:
        return None, f"{path}: {exc.strerror}"


def read_pairs(path: str, separator: str = "=") -> tuple[dict[str, str] | None, str | None]:
    """A record's key=value lines (the last of a repeated key counts), or None and why it cannot be read."""
    text, reason = read_text(path)
    if text is None:
        return None, reason
    pairs = {}
    for line in text.splitlines():
        key, found, value = line.partition(separator)
        if found and key.strip():
            pairs[key.strip()] = value.strip()
    return pairs, None


def ranges(text: str | None) -> list[list[str]]:
    """The pairs in a line such as [23.0.0,23.0.0.],[24.0,24.0.]."""
    return [[low.strip(), high.strip()] for low, high in _RANGE.findall(text or "")]


def stems(text: str | None) -> list[str]:
    """The names in a line such as [V100R001C20],[V100R001C21]."""
    return [stem.strip() for stem in _STEM.findall(text or "")]


def _state(version: str | None, reason: str | None, traces: bool) -> str:
    """installed; partial, when an interrupted installation or removal left something; or absent."""
    if version is not None and reason is None:
        return "installed"
    return "partial" if version is not None or traces else "absent"


def _has(folder: str, *names: str) -> bool:
    return any(os.path.lexists(os.path.join(folder, name)) for name in names)


def read_driver(ascend_root: str, etc_root: str = "/etc") -> dict:
    """The driver: version (None with a reason), complete, path, user and group of its device nodes, and what it fits to."""
    record_path = os.path.join(etc_root, "ascend_install.info")
    record, record_reason = read_pairs(record_path)
    pairs = record or {}
    path = os.path.join(ascend_root, "driver")
    recorded = pairs.get("Driver_Install_Path_Param")
    # An administrator may have chosen another place: the record knows it.
    if recorded and not os.path.isdir(path) and os.path.isdir(os.path.join(recorded, "driver")):
        path = os.path.join(recorded, "driver")
    info, reason = read_pairs(os.path.join(path, "version.info"))
    version = (info or {}).get("Version") or None
    if version is None:
        if info is not None:
            reason = f"{path}/version.info has no line Version="
        elif recorded:
            reason = f"{record_path} records a driver in {recorded}, but {path}/version.info is missing: an installation or removal was interrupted"
        elif _has(path, *_DRIVER_TRACES):
            reason = f"{path} is there without version.info: an installation or removal was interrupted"
        else:
            reason = f"no driver is installed ({path}/version.info is missing)"
    elif record is not None and not recorded:
        reason = f"{record_path} has no driver (Driver_Install_Path_Param is missing), though {path}/version.info is there: a removal was interrupted"
    else:
        # Without leave to read the record, version.info is the proof: it is written near the end.
        reason = None
    fits = ranges((info or {}).get("compatible_version_fw"))
    return {
        "version": version,
        "reason": reason,
        "state": _state(version, reason, bool(recorded) or _has(path, *_DRIVER_TRACES)),
        "inner_version": (info or {}).get("Innerversion"),
        "path": path if version or _has(path, *_DRIVER_TRACES) else None,
        "complete": version is not None and reason is None,
        "user": pairs.get("UserName"),
        "group": pairs.get("UserGroup"),
        "install_for_all": {"yes": True, "no": False}.get(pairs.get("Driver_Install_For_All", "").lower()),
        "install_path": recorded,
        "record_reason": record_reason,
        "compatible_firmware": fits[0] if fits else None,
        "compatible_version": stems((info or {}).get("compatible_version")),
        # ascendhal_version=7.35.23 and the like: what CANN's parts ask for by name.
        "interfaces": [
            {"name": key[: -len("_version")], "version": value} for key, value in sorted((info or {}).items())
            if re.fullmatch(r"[a-z]+_version", key) and key not in ("compatible_version", "package_version")
        ],
    }


def read_firmware(ascend_root: str) -> dict:
    """The firmware package: version (None with a reason), the HDK's version that it came with, and the drivers that it fits to."""
    path = os.path.join(ascend_root, "firmware", "version.info")
    info, reason = read_pairs(path)
    version = (info or {}).get("Version") or None
    if version is None:
        if info is not None:
            reason = f"{path} has no line Version="
        elif _has(os.path.dirname(path), *_FIRMWARE_TRACES):
            reason = f"{os.path.dirname(path)} is there without version.info: an installation or removal was interrupted"
        else:
            reason = f"no firmware is installed ({path} is missing)"
    return {
        "version": version,
        "reason": reason,
        "state": _state(version, reason, _has(os.path.dirname(path), *_FIRMWARE_TRACES)),
        "package_version": (info or {}).get("package_version"),
        "compatible_drivers": ranges((info or {}).get("compatible_version_drv")),
    }


def _folders(parent: str, pattern: str) -> list[str]:
    """Real folders (no links) whose name matches, newest version first."""
    try:
        names = [entry.name for entry in os.scandir(parent) if re.fullmatch(pattern, entry.name) and entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []
    return sorted(names, key=version_key, reverse=True)


def _record(tree: str, name: str) -> str | None:
    """The path of a record below <tree>/<arch>-linux, this machine's architecture first."""
    found = sorted(glob.glob(os.path.join(glob.escape(tree), "*-linux", name)))
    native = [path for path in found if os.path.basename(os.path.dirname(path)) == f"{os.uname().machine}-linux"]
    return next(iter(native or found), None)


def _component(tree: str, name: str) -> str | None:
    """The folder of a part of CANN in a tree of either layout."""
    for folder in (name, os.path.join("tools", name), os.path.join("share", "info", name)):
        path = os.path.join(tree, folder)
        if os.path.isdir(path):
            return path
    return None


def _missing_components(tree: str, version: str, cfg: dict[str, str]) -> list[str]:
    """Parts that version.cfg lists for this version, and that are gone."""
    return [
        key[: -len("_installed_version")]
        for key, value in cfg.items()
        if key.endswith("_installed_version") and f":{version}]" in value and not key.startswith("opp_kernel_")
        and not _component(tree, key[: -len("_installed_version")])
    ]


def _toolkit(tree: str, cfg: dict[str, str]) -> dict:
    path = _record(tree, "ascend_toolkit_install.info")
    record = read_pairs(path)[0] if path else None
    version = (record or {}).get("version") or None
    if version is None:
        left = sorted(name for name in ("runtime", "compiler", "opp", "toolkit", "hccl") if _component(tree, name))
        return {
            "toolkit": None,
            "toolkit_state": _state(None, None, bool(left)),
            "toolkit_reason": f"{tree} has no ascend_toolkit_install.info" + (f", though {', '.join(left)} are there" if left else ""),
            "inner_version": None, "compatible_version": [], "arch": None,
        }
    missing = _missing_components(tree, version, cfg)
    reason = f"these parts are missing below {tree}: {', '.join(missing)}" if missing else None
    return {
        "toolkit": version,
        "toolkit_state": _state(version, reason, True),
        "toolkit_reason": reason,
        "inner_version": (record or {}).get("innerversion"),
        "compatible_version": stems((record or {}).get("compatible_version")),
        "arch": (record or {}).get("arch"),
    }


def _registered(cfg: dict[str, str], part: str, version: str) -> bool:
    """Whether version.cfg, which an installer writes at its end, lists a part of a version; True where it knows nothing of the version."""
    known = any(key.endswith("_installed_version") and f":{version}]" in value for key, value in cfg.items())
    return not known or f":{version}]" in cfg.get(f"{part}_installed_version", "")


def _asks(tree: str) -> tuple[list[dict], list[dict]]:
    """What the parts of a tree ask of the driver, and what they ask of each other and don't get: lines required_* of their version.info files."""
    infos = {part: read_pairs(os.path.join(folder, "version.info"))[0] or {} for part in _PARTS for folder in [_component(tree, part)] if folder}
    driver, unmet = [], []
    for part, info in infos.items():
        for what, name, wanted in pairings.required(info):
            found = infos.get(name, {}).get("Version")
            if what == "driver":
                driver.append({"part": part, "name": name, "wanted": wanted})
            elif found and not pairings.satisfies(found, wanted):
                unmet.append({"part": part, "name": name, "wanted": wanted, "found": found})
    return driver, unmet


def _kernels(tree: str, cfg: dict[str, str]) -> dict:
    """Kernels leave no record of their own kind before 8.5; what proves them is opp_kernel and the operators' index of each chip."""
    version = None
    ops = _record(tree, "ascend_ops_install.info")
    if ops:
        version = (read_pairs(ops)[0] or {}).get("version")
    folder = _component(tree, "opp_kernel")
    if not version and folder:
        info = read_pairs(os.path.join(folder, "version.info"))[0] or {}
        version = info.get("version_dir") or info.get("Version")
    pattern = os.path.join(glob.escape(os.path.join(tree, _KERNELS)), "*", "binary_info_config.json")
    chips = sorted({family(os.path.basename(os.path.dirname(path))) for path in glob.glob(pattern)})
    if version:
        reason = None if chips else f"no operator index (binary_info_config.json) is below {os.path.join(tree, _KERNELS)}"
        if chips and not ops and not _registered(cfg, "opp_kernel", version):
            reason = f"version.cfg of {os.path.dirname(tree)} does not list opp_kernel of {version}: an installation was interrupted"
    elif folder or chips:
        reason = f"parts of a kernels package are below {tree}, but opp_kernel/version.info is missing"
    else:
        reason = f"no kernels are installed below {tree}"
    return {
        "kernels": {"version": version, "chips": chips} if version else None,
        "kernels_state": _state(version, reason, bool(folder or chips)),
        "kernels_reason": reason,
    }


def read_tree(tree: str) -> dict:
    """One installed CANN version: version, path, toolkit and kernels, each None with a reason where it isn't there or not whole."""
    name = os.path.basename(tree)
    version = name[len("cann-"):] if name.startswith("cann-") else name
    cfg: dict[str, str] = {}
    for folder in (tree, os.path.join(os.path.dirname(tree), "latest")):
        cfg = read_pairs(os.path.join(folder, "version.cfg"))[0] or {}
        if cfg:
            break
    result: dict = {"version": version, "path": tree}
    result.update(_toolkit(tree, cfg))
    result.update(_kernels(tree, cfg))
    result["asks_of_driver"], result["unmet"] = _asks(tree)
    return result


def _latest(ascend_root: str, trees: list[dict]) -> tuple[str | None, str | None]:
    """What `latest` stands for. Before 8.5 it is a real folder of links, since then a link to a tree."""
    for link in (os.path.join(ascend_root, "ascend-toolkit", "latest"), os.path.join(ascend_root, "cann")):
        if not os.path.isdir(link):
            if os.path.islink(link):
                return None, f"{link} points to {os.readlink(link)}, which does not exist"
            continue
        real = os.path.realpath(link)
        for tree in trees:
            if os.path.realpath(tree["path"]) == real:
                return tree["version"], None
        record = _record(link, "ascend_toolkit_install.info")
        version = (read_pairs(record)[0] or {}).get("version") if record else None
        if version:
            return version, None
        for part in ("runtime", "compiler", "opp"):
            target = os.path.realpath(os.path.join(link, part))
            if os.path.isdir(target) and os.path.dirname(target) != real:
                return os.path.basename(os.path.dirname(target)), None
        return None, f"{link} belongs to no installed toolkit"
    return None, f"there is no {os.path.join(ascend_root, 'ascend-toolkit', 'latest')}"


def read_cann(ascend_root: str) -> dict:
    """All CANN trees, newest first, and which of them `latest` stands for."""
    toolkits = os.path.join(ascend_root, "ascend-toolkit")
    trees = [read_tree(os.path.join(toolkits, name)) for name in _folders(toolkits, r"\d[\w.]*")]
    trees += [read_tree(os.path.join(ascend_root, name)) for name in _folders(ascend_root, r"cann-\d[\w.]*")]
    trees.sort(key=lambda tree: version_key(tree["version"]), reverse=True)
    if not trees:
        return {"latest": None, "reason": f"no CANN is installed below {ascend_root}", "layout": None, "trees": []}
    latest, reason = _latest(ascend_root, trees)
    layout = None
    for tree in trees:
        if tree["version"] == latest:
            layout = "cann" if os.path.basename(tree["path"]).startswith("cann-") else "ascend-toolkit"
    return {"latest": latest, "reason": reason, "layout": layout, "trees": trees}


def find_tree(cann: dict, version: str) -> dict | None:
    """The tree of a version, or of `latest`; None when there is none."""
    wanted = cann["latest"] if version == "latest" else version
    for tree in cann["trees"]:
        if wanted and version_key(tree["version"]) == version_key(wanted):
            return tree
    return None


def _atb_version(folder: str) -> tuple[str | None, str | None]:
    info, reason = read_pairs(os.path.join(folder, "version.info"), ":")
    version = (info or {}).get("Ascend-cann-atb") or None
    return version, None if version else reason or f"{folder}/version.info has no line Ascend-cann-atb"


def read_nnal(ascend_root: str) -> dict:
    """NNAL (ATB): what nnal/atb/latest stands for, the C++ ABIs that it has libraries for, and all installed versions."""
    parent = os.path.join(ascend_root, "nnal", "atb")
    versions = _folders(parent, r"\d[\w.]*")
    latest = os.path.join(parent, "latest")
    abis: list[int] = []
    if not os.path.isdir(latest):
        version = None
        if versions:
            reason: str | None = f"{parent} holds {', '.join(versions)}, but {latest} is missing: an installation or removal was interrupted"
        else:
            reason = f"no NNAL is installed ({latest} is missing)"
    else:
        version, reason = _atb_version(latest)
        abis = [abi for abi in (0, 1) if os.path.isfile(os.path.join(latest, "atb", f"cxx_abi_{abi}", "lib", "libatb.so"))]
        if version and not os.path.isfile(os.path.join(parent, "set_env.sh")):
            reason = f"{parent}/set_env.sh is missing: an installation or removal was interrupted"
        elif version and not abis:
            reason = f"there is no libatb.so below {latest}/atb"
    return {
        "version": version, "path": os.path.realpath(latest) if version else None, "reason": reason,
        "state": _state(version, reason, bool(versions)), "complete": version is not None and reason is None, "cxx_abis": abis, "versions": versions,
    }


def pairing_problems(driver: dict, firmware: dict, cann: dict) -> list[dict]:
    """Installed versions that do not work together, after what they say themselves.

    Driver and firmware name ranges of each other; of CANN and driver, the inner version's stem of one must stand in the other's list.
    """
    problems = []
    fits = driver["compatible_firmware"]
    drivers = firmware["compatible_drivers"]
    if driver["version"] and firmware["version"]:
        if fits and not in_range(firmware["version"], *fits):
            problems.append(problem(
                "pair_firmware", f"driver {driver['version']} works with firmware {fits[0]} to {fits[1]}, firmware {firmware['version']} is installed",
                "driver and firmware of one HDK", "install the firmware that came with the driver", "warning",
            ))
        elif drivers and not any(in_range(driver["version"], low, high) for low, high in drivers):
            known = ", ".join(low for low, unused_high in drivers)
            problems.append(problem(
                "pair_driver", f"firmware {firmware['version']} works with drivers {known}, {driver['version']} is installed",
                "driver and firmware of one HDK", "install the driver that came with the firmware", "warning",
            ))
    for tree in cann["trees"]:
        problems.extend(_tree_problems(driver, tree))
    return problems


def _tree_problems(driver: dict, tree: dict) -> list[dict]:
    """What is wrong between one CANN tree and the driver, or within the tree. One line for each kind of trouble."""
    problems = []
    name, there = f"CANN {tree['version']}", driver["version"]
    stem, other = _stem(driver["inner_version"]), _stem(tree["inner_version"])
    told = bool(driver["compatible_version"] or tree["compatible_version"])
    pair = pairings.older_than_the_pair(tree["version"], there) if there else None
    if stem and other and told and stem not in tree["compatible_version"] and other not in driver["compatible_version"]:
        problems.append(problem(
            "pair_cann", f"{name} ({other}) and driver {there} ({stem}) name each other in neither's compatible_version",
            "a driver that this CANN works with", "upgrade the driver to the HDK that goes with this CANN", "warning",
        ))
    elif pair:
        problems.append(problem(
            "pair_hdk", f"driver {there} is older than {pair[1]}, and {name} was published with HDK {pair[0]}", f"driver {pair[1]} or newer",
            f"upgrade driver and firmware to HDK {pair[0]}", "warning",
        ))
    interfaces = {interface["name"]: interface["version"] for interface in driver["interfaces"]}
    for ask in tree["asks_of_driver"]:
        found = interfaces.get(ask["name"])
        if found and not pairings.driver_satisfies(found, ask["wanted"]):
            problems.append(problem(
                "required_driver", f"{ask['part']} of {name} asks for {ask['name']} {ask['wanted']} of the driver, which has {found}",
                "a driver with this interface", "upgrade the driver to the HDK that goes with this CANN",
            ))
    for ask in tree["unmet"][:3]:
        problems.append(problem(
            "required_package", f"{ask['part']} of {name} asks for {ask['name']} {ask['wanted']}, which is {ask['found']}",
            "parts of one release", f"install toolkit and kernels {tree['version']} again", "warning",
        ))
    return problems


def _stem(inner_version: str | None) -> str | None:
    """V100R001C21 of V100R001C21SPC002B220."""
    match = re.match(r"V\d+R\d+C\d+", inner_version or "")
    return match.group(0) if match else None
