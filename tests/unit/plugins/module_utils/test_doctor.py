"""The doctor's judgement: a well node, and what each change of it is told as."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
from ansible_collections.npuops.ktransformers.plugins.module_utils import doctor
from ansible_collections.npuops.ktransformers.plugins.module_utils.doctor_table import TABLE

CHECKOUT = Path(__file__).resolve().parents[4]
GB = 10**9

WELL = {
    "node": {
        "found": True, "reason": None, "chip_family": "910b", "reboot_required": False, "reboot_reason": None, "problems": [],
        "nodes": [{"path": "/dev/davinci0", "mode": "0660", "owner": "HwHiAiUser", "group": "HwHiAiUser"}],
        "driver": {"version": "25.0.rc1.1", "complete": True, "reason": None, "module_loaded": True},
        "cann": {"latest": "8.1.RC1", "reason": None, "trees": [{
            "version": "8.1.RC1", "toolkit": "8.1.RC1", "toolkit_state": "installed", "toolkit_reason": None,
            "kernels": {"version": "8.1.RC1", "chips": ["910b"]}, "kernels_state": "installed", "kernels_reason": None}]},
        "nnal": {"version": "8.1.RC1", "complete": True, "reason": None},
        "smi": {"available": True, "reason": None, "processes": []},
        "host": {"kernel": "5.15.0-25-generic", "memory_total_mb": 1048576, "numa_nodes": 8},
    },
    "environment": {"found": True, "problems": [], "env_file": 'A="1"\n'},
    "python": {"env": {"found": True, "broken": [], "libstdcxx": {"path": "/env/lib/libstdc++.so.6", "glibcxx": "3.4.32", "needed": "3.4.22",
                                                                    "needed_by": "/env/a.so"}}, "differences": []},
    "torch_npu": {"found": True, "problems": [], "seen": {"error": None}},
    "weights": {"path": "/w", "found": True, "kind": "merged", "reason": None, "problems": [], "engine_problems": [], "merged": {"complete": True},
                "bytes_by_class": {"experts": 396 * GB}},
    "sources": [],
    "runtime": {"found": True, "verdict": "ok", "state_before": "ours", "reason": None, "refusal": None, "words": "in CANN", "kept": "/k"},
    "engine": {"found": True, "reason": None, "problems": [], "plugin_path": "/p", "build": {"current": True}, "smoke": {"state": "done"},
               "unit": {"state": "active", "result": "success"}, "user": {"found": True, "groups": ["ktransformers", "HwHiAiUser"]}},
    "stages": {"cann": {"label": "CANN", "wanted": "8.1.RC1", "found": "8.1.RC1", "state": "ok", "note": ""}},
    "errors": {},
    "wanted": {"cann_version": "8.1.RC1", "cann_packages": ["toolkit", "kernels", "nnal"], "driver_version": "25.0.rc1.1", "tp": 1, "nproc": 1,
               "use_numa": False, "capture": True, "capture_path": "", "free_mb": 1024},
    "facts": {
        "env_file": {"path": "/etc/npuops/npu.env", "found": True, "text": 'A="1"\n', "libraries": {"libhccl.so": True, "libascend_hal.so": True}},
        "launch": {"/usr/local/bin/npu-chat": {"tp": "1", "nproc": "1", "rule": "/r.yaml", "rule_found": True}},
        "processes": {"7": {"command": "/env/bin/python", "ours": True}}, "module_kernels": ["5.15.0-25-generic"],
        "disks": [{"path": "/var", "free_mb": 90000, "free_inodes": 9}], "logs": {},
    },
}


def problem(name, severity="error", **more):
    return dict({"id": name, "severity": severity, "observed": f"seen: {name}", "expected": "something else", "repair": f"repair {name}"}, **more)


def process(pid):
    return {"npu_id": 0, "chip_id": 0, "pid": pid, "name": "python3", "memory_mb": 17320}


def changed(changes):
    """WELL with values at the ends of dotted paths; a part of a list is named by its number."""
    data = copy.deepcopy(WELL)
    for path, value in changes.items():
        *way, last = [int(name) if name.isdigit() else name for name in path.split("/")]
        place = data
        for name in way:
            place = place[name]
        place[last] = value
    return data


def judge(changes):
    return doctor.judge(changed(changes), TABLE)


def ids(changes):
    return [item["id"] for item in judge(changes)]


TREE = "node/cann/trees/0"
LOG = "facts/logs/the smoke test's log"
CASES = [
    ({"node/found": False, "node/reason": "no device of vendor 19e5"}, ["no-npu"]),
    ({"node/reboot_required": True, "node/reboot_reason": "driver was upgraded"}, ["reboot-owed"]),
    ({"node/driver/complete": False, "node/driver/version": None, "node/driver/reason": "no driver"}, ["driver-missing"]),
    ({"node/driver/module_loaded": False, "node/host/kernel": "5.15.0-130-generic"}, ["kernel-changed", "driver-not-loaded"]),
    ({"node/driver/module_loaded": False}, ["driver-not-loaded"]),
    ({"node/nodes": []}, ["driver-not-loaded"]),
    ({"node/driver/version": "24.1.0"}, ["driver-cann-pairing"]),
    ({"node/driver/version": "25.2.0"}, []),
    ({"node/problems": [problem("ascend_pair_cann", "warning")]}, ["driver-cann-pairing"]),
    ({"node/problems": [problem("ascend_pair_firmware", "warning")]}, ["driver-firmware-pairing"]),
    ({"facts/logs/plog x": "[ERROR] aclInit failed, error code is 507008"}, ["driver-cann-pairing"]),
    ({"node/smi/available": False, "node/smi/reason": "dcmi module initialize failed. ret is -8005 (npu-smi returned 255)"}, ["dcmi-8005"]),
    ({"node/smi/available": False, "node/smi/reason": "no answer within 20 s"}, ["npu-smi-silent"]),
    ({"node/problems": [problem("ascend_health")]}, ["npu-unhealthy"]),
    ({"engine/user/groups": ["ktransformers"]}, ["device-rights"]),
    ({"engine/user/groups": ["ktransformers"], "node/nodes/0/mode": "0666"}, []),
    ({LOG: "PermissionError: [Errno 13] Permission denied: '/dev/davinci0'"}, ["device-rights"]),
    ({"node/smi/processes": [process(4711)]}, ["npu-busy"]),
    ({"node/smi/processes": [process(7)]}, []),
    ({"facts/disks/0/free_mb": 3}, ["disk-full"]),
    ({"facts/disks/0/free_inodes": 0}, ["disk-full"]),
    ({"facts/disks/0/free_inodes": -1}, []),
    ({"node/cann/trees": [], "node/cann/latest": None}, ["cann-missing"]),
    ({f"{TREE}/toolkit_state": "incomplete", f"{TREE}/toolkit_reason": "no record"}, ["cann-incomplete"]),
    ({"node/cann/latest": "8.2.RC1"}, ["wrong-latest"]),
    ({f"{TREE}/kernels": None, f"{TREE}/kernels_state": "missing", f"{TREE}/kernels_reason": "no kernels"}, ["kernels-missing"]),
    ({f"{TREE}/kernels_state": "missing", "wanted/cann_packages": ["toolkit"]}, []),
    ({f"{TREE}/kernels/chips": ["310p"]}, ["kernels-other-chip"]),
    ({"facts/logs/plog x": "[ERROR] op Add does not has any binary, E30006"}, ["kernels-other-chip"]),
    ({"node/nnal/complete": False, "node/nnal/version": None, "node/nnal/reason": "no NNAL"}, ["nnal-missing"]),
    ({"environment/problems": [problem("ascend_env_libatb")]}, ["nnal-missing"]),
    ({"environment/problems": [problem("ascend_env_libatb")], "wanted/cann_packages": ["toolkit", "kernels"]}, []),
    ({"facts/env_file": {"path": "/e", "found": False, "text": None, "libraries": {}}}, ["npu-env-missing"]),
    ({"facts/env_file/text": 'A="2"\n'}, ["npu-env-stale"]),
    ({"facts/env_file/libraries": {"libhccl.so": False, "libascend_hal.so": True}}, ["libhccl"]),
    ({"facts/env_file/libraries": {"libhccl.so": True, "libascend_hal.so": False}}, ["libascend_hal"]),
    ({"environment/problems": [problem("ascend_env_libhccl")]}, ["libhccl"]),
    ({"environment/problems": [problem("ascend_env_libascend_hal")]}, ["libascend_hal"]),
    ({LOG: "ImportError: libhccl.so: cannot open shared object file: No such file or directory"}, ["libhccl"]),
    ({LOG: "ImportError: libascend_hal.so: cannot open shared object file: No such file or directory"}, ["libascend_hal"]),
    ({"environment/problems": [problem("ascend_env_import")]}, ["cann-import"]),
    ({"torch_npu/problems": [problem("torch_npu-abi")]}, ["cxx-abi"]),
    ({"python": {"env": {"found": False, "reason": "python does not exist"}}}, ["python-missing"]),
    ({"python/differences": [{"name": "transformers", "wanted": "==4.43.2", "found": "4.51.3"}]}, ["transformers-pin"]),
    ({"python/differences": [{"name": "setuptools", "wanted": "<82", "found": "82.0.1"}]}, ["setuptools-torchair"]),
    ({"torch_npu/problems": [problem("torch_npu-graph")]}, ["setuptools-torchair"]),
    ({"python/differences": [{"name": "numpy", "wanted": "==1.26.4", "found": "2.1.0"}]}, ["numpy-2"]),
    ({"facts/logs/plog x": "[ERROR] AclSetCompileopt failed, error code is 500001"}, ["numpy-2"]),
    ({"python/differences": [{"name": "torch", "wanted": "==2.3.1", "found": None}]}, ["python-pins"]),
    ({"python/env/broken": ["a 1 wants b, which is not installed"]}, ["python-pins"]),
    ({"python/env/libstdcxx/needed": "3.4.33"}, ["glibcxx"]),
    ({"python/env/libstdcxx/glibcxx": "3.4.9"}, ["glibcxx"]),
    ({LOG: "ImportError: /lib/libstdc++.so.6: version `GLIBCXX_3.4.32' not found (required by a.so)"}, ["glibcxx"]),
    ({"torch_npu/problems": [problem("torch_npu-missing")]}, ["torch_npu-missing"]),
    ({"torch_npu/problems": [problem("torch_npu-import")]}, ["torch_npu-import"]),
    ({"torch_npu/problems": [problem("torch_npu-devices")]}, ["torch_npu-devices"]),
    ({"torch_npu/problems": [problem("torch_npu-operators")]}, ["missing-operators"]),
    ({LOG: "AttributeError: module 'torch_npu' has no attribute '_npu_matmul_pp'"}, ["missing-operators"]),
    ({"weights/merged": {"complete": False, "reason": "a.safetensors is a Git LFS pointer"}}, ["weights-lfs-pointer", "weights-partly-merged"]),
    ({"weights": {"found": False, "kind": "empty", "reason": "/w does not exist"},
      "sources": [{"reason": "a.gguf: tensor x ends at byte 9, the file at 8; it was cut short"}]}, ["weights-damaged", "weights-unmerged"]),
    ({"weights": {"path": "/w", "found": True, "kind": "safetensors", "reason": None}}, ["weights-unmerged"]),
    ({"weights/merged": {"complete": False, "reason": "2 of 9 files are not there yet"},
      "weights/engine_problems": [problem("engine_tensor_missing")]}, ["weights-partly-merged"]),
    ({LOG: "FileNotFoundError: Weight file not found for key blk.1.attn_q_a"}, ["weights-partly-merged"]),
    ({"weights/engine_problems": [problem("engine_torch_dtype", repair="r"), problem("engine_quantize", repair="r"), problem("engine_tensor_missing")]},
     ["weights-engine", "weights-engine"]),
    ({"weights/engine_problems": [problem("engine_chat_template", "warning")]}, ["engine_chat_template"]),
    ({"runtime/verdict": "missing", "runtime/state_before": "pristine", "runtime/reason": "CANN 8.1.RC1 brought a new libruntime.so"},
     ["libruntime-upgraded"]),
    ({"runtime/verdict": "missing", "runtime/state_before": "pristine", "runtime/kept": None}, ["libruntime-wrong"]),
    ({"runtime/verdict": "different", "runtime/state_before": "unknown", "runtime/refusal": "nobody knows it"}, ["libruntime-wrong"]),
    ({"runtime": {}}, []),
    ({"engine/plugin_path": None}, ["capture-plugin"]),
    ({"engine/plugin_path": None, "wanted/capture": False}, []),
    ({LOG: "ModuleNotFoundError: No module named 'libgraph_capture'"}, ["capture-plugin"]),
    ({LOG: "RuntimeError: env CAPTURE_PLUGIN_PATH not exist"}, ["capture-plugin"]),
    ({"engine/problems": [problem("ktransformers-rule")]}, ["optimize-rule"]),
    ({"facts/launch": {"/bin/npu-chat": {"tp": "1", "nproc": "1", "rule": "/r.yaml", "rule_found": False}}}, ["optimize-rule"]),
    ({LOG: "FileNotFoundError: [Errno 2] No such file or directory: 'ktransformers/optimize/a.yaml'"}, ["optimize-rule"]),
    ({"wanted/tp": 2}, ["wrong-tp"]),
    ({"facts/launch": {"/bin/npu-chat": {"tp": "2", "nproc": "1", "rule": None, "rule_found": False}}}, ["wrong-tp"]),
    ({"node/host/memory_total_mb": 262144}, ["memory"]),
    ({"facts/logs/journal": "ktransformers.service: Main process exited, code=killed, status=9/KILL"}, ["memory"]),
    ({"wanted/use_numa": True}, ["memory-numa"]),
    ({"wanted/use_numa": True, "node/host/numa_nodes": 2}, []),
    ({LOG: "Memory allocation failed for gate_proj_numa_ on node 3"}, ["memory-numa"]),
    ({"engine/build": {"current": False, "reason": "nobody noted its build"}}, ["engine-not-built"]),
    ({LOG: "ModuleNotFoundError: No module named 'KTransformersOps'"}, ["ktransformersops"]),
    ({"engine/unit/state": "failed", "facts/logs/journal": "OSError: [Errno 98] Address already in use"}, ["engine-log", "service-down"]),
    ({"engine/smoke": {"state": "failed", "error": "the answer is empty"}}, ["smoke-failed"]),
    ({"engine/problems": [problem("ktransformers-known-bad")]}, ["ktransformers-known-bad"]),
    ({"errors": {"cann": "conversion of cann_cxx_abi failed"}, "stages/cann/state": "failed"}, ["not-looked-at"]),
    ({"stages/cann/state": "different", "stages/cann/note": "8.0 is there"}, ["stage-cann"]),
    ({"stages/cann/state": "different", "node/cann/latest": "8.2.RC1"}, ["wrong-latest"]),
    ({"errors": {"connection": "no route to host"}, "node/found": False}, ["unreachable"]),
]


def test_a_well_node_has_no_findings():
    assert judge({}) == []


@pytest.mark.parametrize(("changes", "wanted"), CASES, ids=lambda value: ", ".join(value)[:60])
def test_what_is_found(changes, wanted):
    assert ids(changes) == wanted


@pytest.mark.parametrize("known", TABLE, ids=lambda known: known.id)
def test_every_known_failure_has_a_case(known):
    assert any(known.id in wanted for _changes, wanted in CASES)


@pytest.mark.parametrize(
    ("changes", "name", "follows"),
    [
        ({"node/driver/module_loaded": False, "node/host/kernel": "6"}, "driver-not-loaded", "kernel-changed"),
        # As far back as is known: the library is missing because the file is stale, and the engine because of the library.
        ({"facts/env_file/text": "", "facts/env_file/libraries": {"libhccl.so": False}, "torch_npu/problems": [problem("torch_npu-import")],
          LOG: "No module named 'KTransformersOps'"}, "libhccl", None),
        ({"facts/env_file/text": 'A="2"\n', "facts/env_file/libraries": {"libhccl.so": False}, "torch_npu/problems": [problem("torch_npu-import")],
          LOG: "No module named 'KTransformersOps'"}, "ktransformersops", "npu-env-stale"),
        ({"engine/unit/state": "failed", "node/found": False}, "service-down", "no-npu"),
        ({"engine/unit/state": "failed"}, "service-down", None),
    ],
)
def test_what_comes_from_what(changes, name, follows):
    assert [item["follows"] for item in judge(changes) if item["id"] == name] == [follows]


def test_each_finding_says_all_that_people_need():
    for changes, _wanted in CASES:
        for item in judge(changes):
            assert set(item) == {"id", "stage", "severity", "observed", "cause", "remedy", "source", "follows"}
            assert all(item[name] and "\n" not in item[name] for name in ("id", "stage", "observed", "cause", "remedy", "source")), item
            assert item["severity"] in ("error", "warning")


@pytest.mark.parametrize("part", sorted(WELL))
def test_what_was_not_looked_at_is_no_failure(part):
    assert doctor.judge({name: value for name, value in WELL.items() if name != part}, TABLE) == []
    assert doctor.judge(dict(WELL, **{part: None}), TABLE) == []


def test_nothing_at_all_is_no_failure():
    assert doctor.judge({}, TABLE) == []


def test_warnings_leave_a_node_well():
    assert doctor.well(judge({"node/problems": [problem("ascend_pair_cann", "warning")]}))
    assert not doctor.well(judge({"node/found": False}))


def test_a_sign_that_cannot_be_looked_for_hides_no_other():
    found = judge({"facts/disks": [{}], "node/cann/latest": "8.2.RC1"})
    assert [item["id"] for item in found] == ["disk-full", "wrong-latest"]
    assert "could not be looked for: KeyError" in found[0]["observed"]


def test_ids_are_unique_and_follow_what_comes_before():
    names = [known.id for known in TABLE]
    assert len(set(names)) == len(names)
    for known in TABLE:
        assert set(known.after) - {"*"} <= set(names), known.id
        assert known.cause and known.remedy and known.source


def test_the_page_for_people_has_every_id():
    page = (CHECKOUT / "docs/troubleshooting.md").read_text()
    assert [known.id for known in TABLE if not re.search(rf"`{re.escape(known.id)}`", page)] == []
