# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The known failures, from the card up to the served model: the order in which to repair them.

docs/troubleshooting.md is the version for people; its ids are these.
"""
from __future__ import annotations

import re
from typing import Any, Dict, List, Optional, Tuple

from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend.version import compare
from ansible_collections.npuops.ktransformers.plugins.module_utils.doctor import ANY, Known, Seen, Sign, Signs, expected

# What makes the NPU unreachable for every program; most of what programs say then is a consequence.
NPU = ("no-npu", "reboot-owed", "driver-missing", "kernel-changed", "driver-not-loaded", "dcmi-8005", "npu-smi-silent", "device-rights")
CANN = ("cann-missing", "cann-incomplete", "wrong-latest", "npu-env-missing", "npu-env-stale")
IMPORT = ("libascend_hal", "libhccl", "nnal-missing", "cxx-abi", "glibcxx", "numpy-2", "python-pins", "torch_npu-missing") + CANN

VENDOR = "https://gitcode.com/cann/driver and reports of users"
GUIDE = "the deployment guide"


def _version_key(text: Optional[str]) -> Tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text or ""))


def _no_npu(seen: Seen) -> Signs:
    return seen("node.reason") or "no NPU on the PCI bus" if seen("node.found") is False else None


def _driver_missing(seen: Seen) -> Signs:
    if not seen.looked("node.driver") or seen("node.driver.complete"):
        return None
    return seen("node.driver.reason") or "no driver is installed"


def _not_loaded(seen: Seen) -> bool:
    """The driver is installed and the kernel does not have it."""
    return bool(seen("node.driver.complete")) and (seen("node.driver.module_loaded") is False or not seen("node.nodes"))


def _kernel_changed(seen: Seen) -> Signs:
    kernels, running = seen("facts.module_kernels", []), seen("node.host.kernel")
    if not _not_loaded(seen) or not kernels or running in kernels:
        return None
    return f"kernel {running} runs, the driver's modules were built for {', '.join(kernels)}"


def _driver_not_loaded(seen: Seen) -> Signs:
    if not _not_loaded(seen):
        return None
    return "drv_pcie_host is not among the loaded modules" if seen("node.driver.module_loaded") is False else "there is no /dev/davinci*"


def _driver_old(seen: Seen) -> Signs:
    found, wanted = seen("node.driver.version"), seen("wanted.driver_version")
    signs: List[Any] = seen.problems("node.problems", "ascend_pair_cann", "ascend_pair_hdk")
    if found and wanted and compare(found, wanted) < 0:
        signs.insert(0, f"driver {found} is installed, the stack wants {wanted}")
    return signs or seen.said(r"\b5070(08|33)\b")


def _silent(seen: Seen) -> Signs:
    reason = seen("node.smi.reason", "")
    asked = seen("node.smi.available") is False and seen("node.driver.complete")
    return reason if asked and "8005" not in reason else None


def _device_rights(seen: Seen) -> Signs:
    groups = {item.get("group") for item in seen("node.nodes", []) if not re.search(r"[2367]$", item.get("mode") or "0660")}
    if seen("engine.user.found") and groups and not groups & set(seen("engine.user.groups", [])):
        return f"the service's user is in {', '.join(seen('engine.user.groups', []))}, /dev/davinci* is open to {', '.join(sorted(map(str, groups)))}"
    return seen.said(r"Permission denied: '?/dev/|dcmi.*-8020")


def _busy(seen: Seen) -> Signs:
    known = seen("facts.processes", {})
    others = []
    for item in seen("node.smi.processes", []):
        if not known.get(str(item.get("pid")), {}).get("ours"):
            others.append(f"{item.get('name')} (pid {item.get('pid')}) uses NPU {item.get('npu_id')} with {item.get('memory_mb')} MB")
    return "; ".join(others) or None


def _disk_full(seen: Seen) -> Signs:
    limit = seen("wanted.free_mb", 1024)
    full = [f"{disk['path']} has {disk['free_mb']} MB and {disk['free_inodes']} files left" for disk in seen("facts.disks", [])
            if disk["free_mb"] < limit or disk["free_inodes"] == 0]
    return f"{'; '.join(full)}; {limit} MB are wanted" if full else None


def _tree(seen: Seen) -> Dict[str, Any]:
    """The CANN tree that is wanted, {} when it is not there."""
    return next((tree for tree in seen("node.cann.trees", []) if tree.get("version") == seen("wanted.cann_version")), {})


def _cann_missing(seen: Seen) -> Signs:
    if not seen.looked("node.cann") or _tree(seen) or not seen("wanted.cann_version"):
        return None
    there = ", ".join(tree.get("version") for tree in seen("node.cann.trees", []))
    return f"CANN {seen('wanted.cann_version')} is not installed (installed: {there or 'none'})"


def _cann_incomplete(seen: Seen) -> Signs:
    tree = _tree(seen)
    return tree.get("toolkit_reason") or "the toolkit is not whole" if tree and tree.get("toolkit_state") != "installed" else None


def _wrong_latest(seen: Seen) -> Signs:
    tree, latest = _tree(seen), seen("node.cann.latest")
    if not tree or latest == tree["version"]:
        return None
    return f"latest is {latest or 'of no version: ' + str(seen('node.cann.reason'))}, the stack wants {tree['version']}, which is installed too"


def _kernels_missing(seen: Seen) -> Signs:
    tree = _tree(seen)
    if not tree or "kernels" not in seen("wanted.cann_packages", ["kernels"]):
        return None
    return tree.get("kernels_reason") or "kernels are not whole" if tree.get("kernels_state") != "installed" else None


def _kernels_chip(seen: Seen) -> Signs:
    chips, chip = (_tree(seen).get("kernels") or {}).get("chips") or [], seen("node.chip_family")
    if chips and chip and chip not in chips:
        return f"the kernels are for {', '.join(chips)}, this node has {chip}"
    return seen.said(r"E30006|does not has any binary")


def _nnal(seen: Seen) -> Signs:
    if "nnal" not in seen("wanted.cann_packages", ["nnal"]):
        return None
    if seen.looked("node.nnal") and not seen("node.nnal.complete"):
        return seen("node.nnal.reason") or "NNAL is not whole"
    return seen.said(r"libatb\.so: cannot open") or seen.problems("environment.problems", "ascend_env_libatb")


def _env_missing(seen: Seen) -> Signs:
    return f"{seen('facts.env_file.path')} is not there" if seen("facts.env_file.found") is False else None


def _env_stale(seen: Seen) -> Signs:
    written, now = seen("facts.env_file.text"), seen("environment.env_file")
    if not written or not now or written == now:
        return None
    old, new = set(written.splitlines()), set(now.splitlines())
    names = sorted({line.partition("=")[0] for line in old ^ new if "=" in line})
    return f"{seen('facts.env_file.path')} is not what CANN's scripts set now: {', '.join(names[:5]) or 'its comment'} differ"


def _library(name: str, problem: str):
    def signs(seen: Seen) -> Signs:
        found: List[Any] = seen.problems("environment.problems", problem)
        said = seen.said(re.escape(name) + ": cannot open")
        if said:
            return said
        if not found and seen("facts.env_file.libraries", {}).get(name) is False:
            return f"{name} is in none of the folders that LD_LIBRARY_PATH of {seen('facts.env_file.path')} names"
        return found
    return signs


def _difference(*names: str):
    def signs(seen: Seen) -> Signs:
        return [f"{item['name']} {item['found'] or 'is missing'}, wanted {item['wanted']}" for item in seen("python.differences", [])
                if item["name"] in names]
    return signs


def _setuptools(seen: Seen) -> Signs:
    return _difference("setuptools")(seen) or seen.problems("torch_npu.problems", "torch_npu-graph") or seen.said(r"_TorchairImportError|ERR00005")


def _numpy(seen: Seen) -> Signs:
    return _difference("numpy")(seen) or seen.said(r"AclSetCompileopt|\bE40001\b|\bEH9999\b|_ARRAY_API")


def _pins(seen: Seen) -> Signs:
    special = ("numpy", "setuptools", "transformers", "tokenizers")
    differ = [words for item in seen("python.differences", []) if item["name"] not in special for words in _difference(item["name"])(seen)]
    return "; ".join(differ + [str(words) for words in seen("python.env.broken", [])]) or None


def _glibcxx(seen: Seen) -> Signs:
    offered, needed = seen("python.env.libstdcxx.glibcxx"), seen("python.env.libstdcxx.needed")
    if offered and needed and _version_key(needed) > _version_key(offered):
        path = seen("python.env.libstdcxx.path")
        return f"{seen('python.env.libstdcxx.needed_by')} needs GLIBCXX_{needed.replace('GLIBCXX_', '')}, {path} offers {offered}"
    return seen.said(r"GLIBCXX_[0-9.]+' not found")


def _weights_text(pattern: str):
    """A damaged file, in the merged folder or in the two that it is made of."""
    def signs(seen: Seen) -> Signs:
        found = []
        for folder in [seen("weights", {})] + seen("sources", []):
            texts = [str(folder.get("reason") or "")]
            texts += [expected(item) for item in (folder.get("problems") or []) + (folder.get("engine_problems") or [])]
            texts.append(str((folder.get("merged") or {}).get("reason") or ""))
            found += [text for text in texts if re.search(pattern, text)][:1]
        return list(dict.fromkeys(found))
    return signs


def _unmerged(seen: Seen) -> Signs:
    if not seen.looked("weights") or seen("weights.kind") == "merged":
        return None
    return seen("weights.reason") or f"{seen('weights.path')} holds {seen('weights.kind', 'nothing')} weights as they were published"


def _partly(seen: Seen) -> Signs:
    if seen("weights.kind") == "merged" and not seen("weights.merged.complete"):
        return seen("weights.merged.reason") or seen("weights.reason") or "the merge has not ended"
    return seen.said(r"Weight file not found for key|not found in Safetensor files|can't find \S+ in GGUF file")


def _weights_engine(seen: Seen) -> Signs:
    """One sign for each remedy. What an incomplete folder lacks, and its damaged files, are told by other entries."""
    by_remedy: Dict[str, List[str]] = {}
    for item in seen("weights.engine_problems", []):
        told = item.get("id") == "engine_file_unreadable" or item.get("id") == "engine_tensor_missing" and not seen("weights.merged.complete")
        if item.get("severity") == "error" and not told:
            by_remedy.setdefault(item.get("repair") or "", []).append(expected(item))
    return [Sign(words[0] + (f" (and {len(words) - 1} more)" if len(words) > 1 else ""), remedy or None) for remedy, words in by_remedy.items()]


def _runtime(upgraded: bool):
    def signs(seen: Seen) -> Signs:
        if not seen.looked("runtime") or seen("runtime.verdict", "ok") == "ok":
            return None
        is_new = seen("runtime.state_before") == "pristine" and bool(seen("runtime.kept"))
        words = seen("runtime.refusal") or seen("runtime.reason") or seen("runtime.words")
        remedy = seen("runtime.found") and seen("runtime.refusal") and (
            "find out who put it there; then --tags cann with cann_force: true, which brings CANN's own back, and --tags npu_graph_sink")
        return Sign(words, remedy or None) if is_new is upgraded else None
    return signs


def _capture(seen: Seen) -> Signs:
    if seen("wanted.capture") and seen("engine.found") and not seen("engine.plugin_path") and not seen("wanted.capture_path"):
        return "the engine's tree has no libgraph_capture for this architecture"
    return seen.said(r"libgraph_capture|CAPTURE_PLUGIN_PATH not exist")


def _rule(seen: Seen) -> Signs:
    missing = [f"{path} names the rule {launch['rule']}, which does not exist" for path, launch in sorted(seen("facts.launch", {}).items())
               if launch.get("rule") and not launch["rule_found"]]
    return seen.problems("engine.problems", "ktransformers-rule") or missing or seen.said(r"No such file or directory: '[^']*\.yaml'")


def _tp(seen: Seen) -> Signs:
    wanted = [("the inventory", seen("wanted.tp"), seen("wanted.nproc"))]
    wanted += [(path, launch.get("tp"), launch.get("nproc")) for path, launch in sorted(seen("facts.launch", {}).items())]
    return [f"{where} has tp {tp} and {nproc} processes" for where, tp, nproc in wanted if tp and nproc and int(tp) != int(nproc)]


def _memory(seen: Seen) -> Signs:
    experts, total = seen("weights.bytes_by_class.experts", 0), seen("node.host.memory_total_mb", 0) * 1048576
    if experts and total and experts > total:
        return f"the experts have {experts / 1e9:.3g} GB, the node has {total / 1e9:.3g} GB of memory"
    return seen.said(r"[Oo]ut of memory|MemoryError|\bKilled\b|SIGKILL|exitcode: -9|Signal 9|status=9/KILL|oom-kill")


def _numa(seen: Seen) -> Signs:
    experts, total, nodes = seen("weights.bytes_by_class.experts", 0), seen("node.host.memory_total_mb", 0) * 1048576, seen("node.host.numa_nodes", 1)
    if seen("wanted.use_numa") and total and experts <= total < experts * nodes:
        return (f"USE_NUMA keeps the experts ({experts / 1e9:.3g} GB) on each of the {nodes} NUMA nodes: {experts * nodes / 1e9:.3g} GB, "
                f"the node has {total / 1e9:.3g} GB of memory")
    return seen.said(r"Memory allocation failed for \w+ on node")


def _not_built(seen: Seen) -> Signs:
    if not seen.looked("engine") or seen("engine.build.current"):
        return None
    return seen("engine.reason") or seen("engine.build.error") or seen("engine.build.reason") or "KTransformers is not built"


def _service(seen: Seen) -> Signs:
    unit = seen("engine.unit", {})
    if not unit or unit.get("state") in ("active", "activating"):
        return None
    last = " | ".join([line for line in seen("facts.logs.journal", "").splitlines() if line.strip()][-3:])
    return f"the unit is {unit.get('state')} ({unit.get('result') or unit.get('load_state')})" + (f"; its journal ends with: {last}" if last else "")


def _smoke(seen: Seen) -> Signs:
    return seen("engine.smoke.error") or "it was interrupted" if seen("engine.smoke.state") in ("failed", "interrupted") else None


TABLE: Tuple[Known, ...] = (
    Known("no-npu", "host", "no Ascend card is on the PCI bus", "look at `lspci -nn -d 19e5:`, the card's seat and power; or take the host out of the group",
          _no_npu, "PCI ids of ascend-deployer"),
    Known("reboot-owed", "hdk", "driver or firmware was changed and the node was not rebooted since", "run --tags hdk, which reboots; or reboot by hand",
          lambda seen: seen("node.reboot_reason", "a reboot is owed") if seen("node.reboot_required") else None, VENDOR),
    Known("driver-missing", "hdk", "there is no driver, or its installation was interrupted", "run --tags hdk (in user scope: ask the administrator)",
          _driver_missing, VENDOR, ("no-npu",)),
    Known("kernel-changed", "hdk", "another kernel was booted than the driver was built for, mostly by an automatic update",
          "boot the old kernel, or run --tags hdk, which builds the driver anew; host_hold_updates keeps it from happening again", _kernel_changed, VENDOR,
          ("reboot-owed",)),
    Known("driver-not-loaded", "hdk", "the driver is installed, and the kernel has not loaded it", "reboot, then look at `dmesg | grep -i drv_`",
          _driver_not_loaded, VENDOR, ("no-npu", "reboot-owed", "kernel-changed")),
    Known("driver-firmware-pairing", "hdk", "driver and firmware are not of one HDK", "run --tags hdk with both from one stack",
          lambda seen: seen.problems("node.problems", "ascend_pair_firmware", "ascend_pair_driver"), "compatible_version lines of both version.info",
          explains=("ascend_pair_firmware", "ascend_pair_driver"), severity="warning"),
    Known("driver-cann-pairing", "hdk", "the driver is older than CANN or the stack wants", "take both from one stack: --tags hdk,cann", _driver_old,
          "https://github.com/vllm-project/vllm-ascend/issues/3190", ("driver-missing",), explains=("ascend_pair_cann", "ascend_pair_hdk")),
    Known("dcmi-8005", "hdk", "the driver does not answer: not loaded, a reboot is owed, or the device nodes are closed to this user",
          "reboot; then look at the group of /dev/davinci*", lambda seen: seen.said(r"ret is -8005"),
          "https://github.com/vllm-project/vllm-ascend/issues/2698", ("no-npu", "reboot-owed", "driver-missing", "kernel-changed", "driver-not-loaded")),
    Known("npu-smi-silent", "hdk", "npu-smi does not answer as it should", "look at `dmesg`; a hanging npu-smi mostly means a dead NPU: cold start", _silent,
          VENDOR, ("no-npu", "reboot-owed", "driver-missing", "kernel-changed", "driver-not-loaded")),
    Known("npu-unhealthy", "hdk", "npu-smi calls an NPU unwell", "look at `npu-smi info -t health`, then a cold start, then the vendor's service",
          lambda seen: seen.problems("node.problems", "ascend_health"), VENDOR, explains=("ascend_health",)),
    Known("device-rights", "ktransformers", "who runs the engine may not open the NPU", "run --tags ktransformers, which puts its user into the group",
          _device_rights, "https://github.com/vllm-project/vllm-ascend/issues/9490"),
    Known("npu-busy", "hdk", "somebody else uses the NPUs", "end those processes or containers (`npu-smi info`, `fuser -v /dev/davinci*`)", _busy, VENDOR),
    Known("disk-full", "host", "a disk that the stages write to is full", "make room: old media, logs below the state folder, pip and conda caches", _disk_full,
          "statvfs"),
    Known("cann-missing", "cann", "the CANN version of the stack is not installed", "run --tags cann", _cann_missing, GUIDE),
    Known("cann-incomplete", "cann", "the toolkit's installation was interrupted", "run --tags cann, which repairs it", _cann_incomplete,
          "the vendor's records"),
    Known("wrong-latest", "cann", "another CANN was installed later and took over `latest`",
          "run --tags cann with cann_force: true, which installs this version again; or remove the other one", _wrong_latest,
          "https://github.com/leideng/CANN-8.1.RC1"),
    Known("kernels-missing", "cann", "the operators' kernels are missing or not whole", "run --tags cann", _kernels_missing, "the vendor's records",
          ("cann-missing",)),
    Known("kernels-other-chip", "cann", "the kernels are for another chip", "run --tags cann with cann_chip: '' (the chip is then asked of the node)",
          _kernels_chip, "https://github.com/vllm-project/vllm-ascend/issues/4284", ("kernels-missing", "cann-missing")),
    Known("nnal-missing", "cann", "NNAL (ATB) is missing, not whole, or not in the environment", "run --tags cann with nnal among cann_packages", _nnal,
          "https://github.com/vllm-project/vllm-ascend/issues/1440", ("cann-missing", "npu-env-missing"), explains=("ascend_env_libatb",)),
    Known("npu-env-missing", "cann", "npu.env was not written, so npu-exec and the service cannot start anything", "run --tags cann", _env_missing,
          "role cann", ("cann-missing",)),
    Known("npu-env-stale", "cann", "CANN, driver or Python changed since npu.env was written, or somebody edited it", "run --tags cann, which writes it anew",
          _env_stale, "role cann", ("cann-missing", "cann-incomplete", "wrong-latest", "nnal-missing")),
    Known("libhccl", "cann", "CANN's libraries are not in the search path", "start the program with npu-exec; when that is how it ran, run --tags cann",
          _library("libhccl.so", "ascend_env_libhccl"), GUIDE, CANN, explains=("ascend_env_libhccl",)),
    Known("libascend_hal", "hdk", "CANN was found, the driver's libraries were not",
          "start the program with npu-exec; is the driver below ascend_root? --tags hdk, then --tags cann",
          _library("libascend_hal.so", "ascend_env_libascend_hal"), GUIDE, ("driver-missing", "npu-env-missing", "npu-env-stale"),
          explains=("ascend_env_libascend_hal",)),
    Known("cann-import", "cann", "the environment's Python cannot import CANN's own packages", "run --tags cann",
          lambda seen: seen.problems("environment.problems", "ascend_env_import"), "import acl",
          ("libascend_hal", "libhccl", "nnal-missing", "python-missing") + CANN, explains=("ascend_env_import",)),
    Known("cxx-abi", "cann", "NNAL's library is for the other C++ ABI than torch", "set cann_cxx_abi to that of torch (0 for torch 2.3.1), then --tags cann",
          lambda seen: seen.problems("environment.problems", "ascend_env_cxx_abi") + seen.problems("torch_npu.problems", "torch_npu-abi")
          or seen.said(r"undefined symbol: \w*cxx11"),
          "https://github.com/leideng/CANN-8.1.RC1, nnal set_env.sh", explains=("ascend_env_cxx_abi", "torch_npu-abi")),
    Known("python-missing", "conda_py311", "the environment is not there, or its Python does not run", "run --tags conda_py311",
          lambda seen: seen("python.env.reason", "it does not run") if seen("python.env.found") is False else None, GUIDE),
    Known("transformers-pin", "conda_py311", "another transformers than the engine was written for, mostly brought by its own requirements file",
          "run --tags conda_py311, which brings the pins back", _difference("transformers", "tokenizers"), "tried with each version"),
    Known("setuptools-torchair", "conda_py311", "setuptools 82 and later have no pkg_resources, which graph mode's torchair imports",
          "run --tags conda_py311 (setuptools < 82)", _setuptools, "tried with each version", explains=("torch_npu-graph",)),
    Known("numpy-2", "conda_py311", "CANN's compiler misses its Python packages, or numpy is not the pinned one", "run --tags conda_py311", _numpy,
          "https://github.com/Ascend/pytorch/issues/7"),
    Known("python-pins", "conda_py311", "the environment is not as the stack pins it", "run --tags conda_py311", _pins, "pip's own records"),
    Known("glibcxx", "conda_py311", "python loads an older libstdc++ than a compiled extension was built with",
          "run --tags conda_py311 (libstdcxx-ng), or build the extension on this node", _glibcxx,
          "https://github.com/kvcache-ai/ktransformers/issues/439"),
    Known("torch_npu-missing", "torch_npu_opplugin", "torch_npu is not installed", "run --tags torch_npu_opplugin",
          lambda seen: seen.problems("torch_npu.problems", "torch_npu-missing"), GUIDE, ("python-missing",), explains=("torch_npu-missing",)),
    Known("torch_npu-import", "torch_npu_opplugin", "torch_npu cannot be imported", "see what was found",
          lambda seen: seen.problems("torch_npu.problems", "torch_npu-import"), "module_utils/torch_npu.py", IMPORT, explains=("torch_npu-import",)),
    Known("torch_npu-devices", "torch_npu_opplugin", "torch_npu can be imported and sees no NPU",
          "look at `npu-smi info`, and at the groups of the user", lambda seen: seen.problems("torch_npu.problems", "torch_npu-devices"),
          "torch_npu.npu.is_available()", NPU, explains=("torch_npu-devices",)),
    Known("missing-operators", "torch_npu_opplugin", "a public torch_npu of the same version, not the adapted op-plugin",
          "get the adapted op-plugin from its supplier, then --tags torch_npu_opplugin",
          lambda seen: seen.problems("torch_npu.problems", "torch_npu-operators") or seen.said(r"has no attribute '_npu_\w+'"),
          "the engine's source", explains=("torch_npu-operators",)),
    Known("weights-lfs-pointer", "weights_merge", "a Git LFS pointer of some hundred bytes lies in place of a weight file",
          "`git lfs pull` in the folder it came from, or download the file; then --tags weights_merge", _weights_text("LFS"),
          "https://github.com/deepseek-ai/DeepSeek-V3/issues/557"),
    Known("weights-damaged", "weights_merge", "a weight file was cut short or changed", "bring the file again, then --tags weights_merge",
          _weights_text(r"cut short|ends at byte|[Bb]ring the file again"), "the headers of the files",
          ("weights-lfs-pointer",)),
    Known("weights-unmerged", "weights_merge", "the engine's folder does not hold merged weights", "run --tags weights_merge", _unmerged, GUIDE,
          ("weights-lfs-pointer", "weights-damaged")),
    Known("weights-partly-merged", "weights_merge", "the merge was interrupted, or files of it were removed or changed",
          "run --tags weights_merge, which goes on where it was", _partly, "the merge's manifest", ("weights-lfs-pointer", "weights-damaged")),
    Known("weights-engine", "weights_merge", "the engine would load these weights wrongly or not at all", "see what was found", _weights_engine,
          "module_utils/weights/engine.py", ("weights-lfs-pointer", "weights-damaged", "weights-unmerged", "weights-partly-merged")),
    Known("libruntime-upgraded", "npu_graph_sink", "an upgrade or repair of CANN put its own libruntime.so back", "run --tags npu_graph_sink",
          _runtime(True), GUIDE),
    Known("libruntime-wrong", "npu_graph_sink", "libruntime.so is not the one that graph sinking needs", "run --tags npu_graph_sink",
          _runtime(False), GUIDE, ("cann-missing", "cann-incomplete", "wrong-latest")),
    Known("capture-plugin", "npu_graph_sink", "graph mode is on, and its plugin libgraph_capture cannot be imported",
          "get it with the engine's source tree (npu_graph_so_path), or set ktransformers_use_cuda_graph: false", _capture, "util/npu_graph.py of the engine"),
    Known("optimize-rule", "ktransformers", "the rule file that says which module runs where is not there",
          "set ktransformers_optimize_config_path to a rule of the tree, then --tags ktransformers", _rule, "optimize.py of the engine",
          explains=("ktransformers-rule",)),
    Known("wrong-tp", "ktransformers", "local_chat knows tensor parallelism over all of its processes only",
          "set ktransformers_tp and ktransformers_nproc_per_node to the same number, then --tags ktransformers", _tp, "ascend_utils.py of the engine"),
    Known("memory", "ktransformers", "the routed experts do not fit into memory", "a smaller model, or more memory (DeepSeek-R1: 400 GB)", _memory,
          "https://github.com/kvcache-ai/ktransformers/issues/375"),
    Known("memory-numa", "ktransformers", "built with USE_NUMA the engine copies the experts to every NUMA node",
          "take USE_NUMA out of ktransformers_build_environment (0 counts as on), then --tags ktransformers", _numa, "moe.cpp of the engine", ("memory",)),
    Known("engine-not-built", "ktransformers", "KTransformers is not in the environment as it should be", "run --tags ktransformers", _not_built,
          "the build's own record", ("python-missing", "torch_npu-missing", "cann-missing", "cann-incomplete", "wrong-latest", "libruntime-upgraded")),
    Known("ktransformersops", "ktransformers", "torch_npu could not be imported or saw no NPU, and the engine fell back to CUDA",
          "`npu-exec python -c 'import torch_npu; print(torch_npu.npu.is_available())'` tells which; then --tags ktransformers tries again",
          lambda seen: seen.said(r"No module named '?KTransformersOps"), "custom_loader.py of the engine",
          NPU + IMPORT + ("torch_npu-import", "torch_npu-devices")),
    Known("service-down", "ktransformers", "the service does not run", "mend what is named above, then --tags ktransformers (or systemctl start ktransformers)",
          _service, "systemd", ANY),
    Known("smoke-failed", "ktransformers", "the model did not answer when it was asked last", "mend what is named above, then --tags ktransformers asks again",
          _smoke, "the smoke test", ANY),
)
