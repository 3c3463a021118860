"""Each known failure is made on a deployed node, and the doctor finds it; then the node is put back as it was.

A run of the doctor costs more than a failure does, so that failures which do not hide each other share a run (a "case").
"""

from __future__ import annotations

import json
import re
import shutil
import stat
import sysconfig
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import pytest

from tests.integration.nodes import Node, Run

DOCTOR = "playbooks/doctor.yml"
HOST = "simulated-800i-a2"
MERGED = "mnt/weights/DeepSeek-R1-q4km-w8a8"
TOOLKIT = "usr/local/Ascend/ascend-toolkit/8.1.RC1"
FAULTS = "var/lib/npuops-simulator/faults"
LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 4294967296\n"
SYSTEMCTL = """#!/bin/sh
printf '%s\\n' LoadState=loaded ActiveState=failed SubState=failed UnitFileState=enabled NeedDaemonReload=no \\
    ExecMainStartTimestampMonotonic=0 Result=signal
"""
JOURNALCTL = """#!/bin/sh
echo 'loading blk.3.ffn_gate_exps'
echo 'ktransformers.service: Main process exited, code=killed, status=9/KILL'
"""


class Surgery:
    """Breaks files of a node, and puts back what was there."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.kept = node.root / "kept-by-the-doctor-test"
        self.undo: list[Callable[[], None]] = []

    def path(self, name: str) -> Path:
        """The path of the node; a pattern stands for its first match."""
        if "*" not in name:
            return self.node.path / name
        return sorted(self.node.path.glob(name))[0]

    def remove(self, name: str) -> None:
        path, aside = self.path(name), self.kept / str(len(self.undo))
        aside.parent.mkdir(exist_ok=True)
        shutil.move(path, aside)
        self.undo.append(lambda: self._put_back(path, aside))

    def write(self, name: str, content: str | bytes, mode: int | None = None) -> None:
        path = self.path(name)
        if path.exists():
            mode = mode or stat.S_IMODE(path.stat().st_mode)
            self.remove(name)
        else:
            first = next(folder for folder in [path, *path.parents] if folder.parent.exists())
            self.undo.append(lambda: shutil.rmtree(first) if first.is_dir() else first.unlink())
            path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        path.chmod(mode or 0o644)

    def edit(self, name: str, pattern: str, to: str) -> None:
        text, count = re.subn(pattern, to, self.path(name).read_text(), flags=re.M)
        assert count, f"{name} has no {pattern}"
        self.write(name, text)

    def link(self, name: str, to: str) -> None:
        path = self.path(name)
        self.remove(name)
        path.symlink_to(to)

    def heal(self) -> None:
        for step in reversed(self.undo):
            step()
        self.undo.clear()

    @staticmethod
    def _put_back(path: Path, aside: Path) -> None:
        if path.is_symlink() or path.is_file():
            path.unlink()
        elif path.is_dir():
            shutil.rmtree(path)
        shutil.move(aside, path)


def environment_and_files(node: Surgery) -> None:
    node.edit("etc/npuops/npu.env", r":[^:\"]*/8\.1\.RC1/lib64(?=[:\"])", "")
    another_version(node, "transformers", "4.51.3")
    another_version(node, "setuptools", "82.0.1")
    another_version(node, "torchvision", "0.1.0")
    node.write(f"{site_packages(node)}/needs_more.so", library_that_needs_more())
    node.edit("usr/local/bin/npu-chat", r"--tp 1", "--tp 2")
    node.remove("opt/ktransformers/ktransformers/optimize/optimize_rules/DeepSeek-V3-Chat-800IA2-npu.yaml")
    node.write(f"{MERGED}/npuops-blk-00001.safetensors", LFS_POINTER)
    node.write("var/lib/npuops-simulator/npu-processes", "3 4711 17320 python3\n")
    library = node.path(f"{TOOLKIT}/*-linux/lib64/libruntime.so")
    node.write(str(library.relative_to(node.node.path)), library.read_bytes() + b"\0of another build")
    node.edit(f"{TOOLKIT}/runtime/version.info", r"^timestamp=.*$", "timestamp=20260101_000000000")


def driver_and_operators(node: Surgery) -> None:
    node.write("proc/modules", "nvme 49152 2 - Live 0x0000000000000000\n")
    node.write("proc/sys/kernel/osrelease", "5.15.0-130-generic\n")
    node.write("lib/modules/5.15.0-25-generic/updates/drv_pcie_host.ko", b"a module")
    node.write(f"{FAULTS}/npu-smi.no-driver", "")
    node.remove(f"{site_packages(node)}/torch_npu/_private_operators.py")
    node.remove(f"{MERGED}/npuops-blk-00002.safetensors")
    node.write(f"{TOOLKIT}/../8.2.RC1/{node.path(f'{TOOLKIT}/*-linux').name}/ascend_toolkit_install.info", "version=8.2.RC1\n")
    node.link(f"{TOOLKIT}/../latest", "8.2.RC1")
    kernels = f"{TOOLKIT}/opp/built-in/op_impl/ai_core/tbe/kernel/config"
    node.write(f"{kernels}/ascend310p/binary_info_config.json", "{}")
    node.remove(f"{kernels}/ascend910b")
    failed_smoke_test(node, "ModuleNotFoundError: No module named 'KTransformersOps'")


def hardly_anything_there(node: Surgery) -> None:
    for device in sorted(node.path("sys/bus/pci/devices").iterdir()):
        node.remove(str(device.relative_to(node.node.path)))
    node.remove("usr/local/Ascend/driver/version.info")
    node.remove("usr/local/Ascend/ascend-toolkit")
    node.remove("usr/local/Ascend/nnal/atb/latest")
    node.remove("etc/npuops/npu.env")
    node.remove("opt/miniconda3/envs/py311/bin/python")
    node.remove(MERGED)
    shard = node.path("mnt/weights/DeepSeek-R1-W8A8/quant_model_weight_w8a8_dynamic-00001-*")
    node.write(str(shard.relative_to(node.node.path)), shard.read_bytes()[:-1000])


def pairing_and_memory(node: Surgery) -> None:
    boot = node.path("proc/sys/kernel/random/boot_id").read_text().strip()
    node.write("var/lib/npuops/reboot-owed.json", json.dumps({"boot_id": boot, "reason": "the driver was upgraded"}))
    node.edit("usr/local/Ascend/driver/version.info", r"^Version=.*$", "Version=24.1.0")
    node.remove("usr/local/Ascend/driver/lib64/driver/libascend_hal.so")
    node.edit(f"{MERGED}/config.json", r'"torch_dtype": "float16"', '"torch_dtype": "bfloat16"')
    another_version(node, "numpy", "2.1.0")
    node.write("proc/meminfo", "MemTotal: 2048 kB\nMemAvailable: 1024 kB\n")
    library = node.path(f"{TOOLKIT}/*-linux/lib64/libruntime.so")
    node.write(str(library.relative_to(node.node.path)), library.read_bytes() + b"\0of nobody")


def service_and_halves(node: Surgery) -> None:
    node.write("fake/systemctl", SYSTEMCTL, 0o755)
    node.write("fake/journalctl", JOURNALCTL, 0o755)
    node.write(
        "var/lib/npuops/ktransformers/home/ascend/log/debug/plog/plog-1_2026.log",
        "[INFO] GE(1,python): ok\n[ERROR] TBE(1,python): AclSetCompileopt failed, EH9999: init env failed, error code is 500001\n",
    )
    node.remove(f"{TOOLKIT}/*-linux/ascend_toolkit_install.info")
    node.remove(f"{TOOLKIT}/opp_kernel/version.info")
    for plugin in sorted(node.node.path.glob("opt/ktransformers/ktransformers/util/npu_graph_so/*/libgraph_capture*")):
        node.remove(str(plugin.relative_to(node.node.path)))
    node.remove(f"{site_packages(node)}/torch_npu-*.dist-info")
    node.remove("usr/local/bin/npu-chat")


def site_packages(node: Surgery) -> str:
    return str(node.path("opt/miniconda3/envs/py311/lib/python3.*/site-packages").relative_to(node.node.path))


def another_version(node: Surgery, name: str, version: str) -> None:
    node.edit(f"{site_packages(node)}/{name}-*.dist-info/METADATA", r"^Version: .*$", f"Version: {version}")


def library_that_needs_more() -> bytes:
    """An extension of the tests' own environment, whose needs are raised beyond what any libstdc++ offers."""
    for path in sorted(Path(sysconfig.get_paths()["platlib"]).rglob("*.so")):
        raw = path.read_bytes()
        if re.search(rb"GLIBCXX_3\.4\.\d\d\0", raw):
            return re.sub(rb"GLIBCXX_3\.4\.\d\d\0", b"GLIBCXX_3.4.99\0", raw)
    raise AssertionError("no extension of this environment needs GLIBCXX")


def failed_smoke_test(node: Surgery, last_line: str) -> None:
    folder = "var/lib/npuops/jobs/ktransformers-smoke"
    result = json.loads(node.path(f"{folder}/result.json").read_text())
    node.write(f"{folder}/result.json", json.dumps(dict(result, state="failed", error="the engine ended without an answer", result={})))
    node.write(f"{folder}/log", f"Traceback (most recent call last):\n{last_line}\n")


@dataclass(frozen=True)
class Case:
    """Failures that are made together. finds: {id: the id that it follows from, or None}."""

    make: Callable[[Surgery], None]
    finds: dict[str, str | None]
    arguments: tuple[str, ...] = ()


CASES = {
    "environment and files": Case(
        environment_and_files,
        {
            "npu-busy": None,
            "disk-full": None,
            "npu-env-stale": None,
            "libhccl": "npu-env-stale",
            "transformers-pin": None,
            "setuptools-torchair": None,
            "python-pins": None,
            "glibcxx": None,
            "torch_npu-import": "npu-env-stale",
            "weights-lfs-pointer": None,
            "weights-partly-merged": "weights-lfs-pointer",
            "libruntime-upgraded": None,
            "optimize-rule": None,
            "wrong-tp": None,
            "engine-not-built": "libruntime-upgraded",
        },
        ("-e", "verify_disk_min_mb=999999999"),
    ),
    "driver and operators": Case(
        driver_and_operators,
        {
            "kernel-changed": None,
            "driver-not-loaded": "kernel-changed",
            "dcmi-8005": "kernel-changed",
            "wrong-latest": None,
            "kernels-other-chip": None,
            "missing-operators": None,
            "weights-partly-merged": None,
            "libruntime-wrong": "wrong-latest",
            "engine-not-built": "wrong-latest",
            "ktransformersops": "kernel-changed",
            "smoke-failed": "kernel-changed",
        },
    ),
    "hardly anything there": Case(
        hardly_anything_there,
        {
            "no-npu": None,
            "driver-missing": "no-npu",
            "cann-missing": None,
            "nnal-missing": "cann-missing",
            "npu-env-missing": "cann-missing",
            "python-missing": None,
            "torch_npu-missing": "python-missing",
            "weights-damaged": None,
            "weights-unmerged": "weights-damaged",
            "libruntime-wrong": "cann-missing",
            "engine-not-built": "python-missing",
        },
    ),
    "pairing and memory": Case(
        pairing_and_memory,
        {
            "reboot-owed": None,
            "driver-cann-pairing": None,
            "libascend_hal": None,
            "cann-import": "libascend_hal",
            "numpy-2": None,
            "torch_npu-import": "libascend_hal",
            "weights-partly-merged": None,
            "weights-engine": "weights-partly-merged",
            "libruntime-wrong": None,
            "memory-numa": None,
        },
        ("-e", '{"ktransformers_build_environment": {"USE_NUMA": "0"}}'),
    ),
    "service and halves": Case(
        service_and_halves,
        {
            "device-rights": None,
            "cann-incomplete": None,
            "kernels-missing": None,
            "numpy-2": None,
            "torch_npu-missing": None,
            "capture-plugin": None,
            "memory": None,
            "engine-not-built": "torch_npu-missing",
            "service-down": "device-rights",
        },
        ("-e", '{"ktransformers_scope": "system", "ktransformers_become": false, "ktransformers_service_user": "nobody"}'),
    ),
}


@dataclass(frozen=True)
class Diagnosis:
    run: Run
    verdict: dict

    def finding(self, name: str) -> dict:
        found = [item for item in self.verdict["hosts"][HOST]["findings"] if item["id"] == name]
        assert found, f"{name} is not among {[item['id'] for item in self.verdict['hosts'][HOST]['findings']]}\n{self.run.output[-6000:]}"
        return found[0]


def examine(node: Node, *arguments: str, playbook: str = DOCTOR, name: str = "doctor_json", **options) -> Diagnosis:
    path = node.root / "verdict.json"
    path.unlink(missing_ok=True)
    run = node.play("-e", f"{name}={path}", *arguments, playbook=playbook, **options)
    assert path.is_file(), run.output[-6000:]
    return Diagnosis(run, json.loads(path.read_text()))


@contextmanager
def broken(node: Node, make: Callable[[Surgery], None]):
    surgery = Surgery(node)
    try:
        make(surgery)
        yield
    finally:
        surgery.heal()


@pytest.fixture(scope="module")
def diagnoses(deployed_node: Node) -> Callable[[str], Diagnosis]:
    """What the doctor says of each case, asked once."""
    known: dict[str, Diagnosis] = {}

    def ask(name: str) -> Diagnosis:
        if name not in known:
            with broken(deployed_node, CASES[name].make), pytest.MonkeyPatch.context() as patch:
                patch.setenv("PATH", str(deployed_node.path / "fake"), prepend=":")
                known[name] = examine(deployed_node, *CASES[name].arguments)
        return known[name]

    return ask


@pytest.mark.parametrize(("case", "name"), [(case, name) for case in CASES for name in CASES[case].finds])
def test_the_failure_is_found(diagnoses, case: str, name: str):
    finding = diagnoses(case).finding(name)
    assert finding["observed"] and finding["cause"] and finding["remedy"]
    assert finding["follows"] == CASES[case].finds[name]
    assert name in {failure["id"] for failure in diagnoses(case).verdict["failures"]}


@pytest.mark.parametrize("case", CASES)
def test_they_are_told_in_the_order_of_repair_and_the_exit_status_says_it(diagnoses, case: str):
    diagnosis = diagnoses(case)
    assert diagnosis.run.rc == 2 and diagnosis.verdict["ok"] is False
    told = [item["id"] for item in diagnosis.verdict["hosts"][HOST]["findings"]]
    places = [told.index(name) for name in CASES[case].finds]
    assert places == sorted(places), told
    for item in diagnosis.verdict["hosts"][HOST]["findings"]:
        assert f"{item['id']}" in diagnosis.run.output and item["remedy"] in diagnosis.run.output
    assert diagnosis.run.recap("changed") == 0


@pytest.mark.parametrize("mode", [[], ["--check"]], ids=["for-real", "check-mode"])
def test_a_node_as_wanted_is_well_and_stays_as_it_is(deployed_node: Node, mode: list[str]):
    before = deployed_node.snapshot()
    diagnosis = examine(deployed_node, *mode)
    assert diagnosis.verdict == {"ok": True, "failures": [], "hosts": {HOST: {"ok": True, "findings": []}}}
    assert diagnosis.run.rc == 0 and "no known failure was found" in diagnosis.run.output
    assert deployed_node.snapshot() == before


@pytest.mark.parametrize(("playbook", "name"), [(DOCTOR, "doctor_json"), ("playbooks/verify.yml", "verify_json")])
def test_all_hosts_out_of_reach_are_told_and_written(deployed_node: Node, tmp_path: Path, playbook: str, name: str):
    inventory = tmp_path / "hosts.yml"
    hosts = {host: {"ansible_host": "127.0.0.1", "ansible_port": 1, "ansible_connection": "ssh"} for host in ("one", "two")}
    inventory.write_text(json.dumps({"npu": {"hosts": hosts}}))
    diagnosis = examine(deployed_node, playbook=playbook, name=name, inventory=inventory)
    assert diagnosis.run.rc == 2
    assert diagnosis.verdict["ok"] is False and {failure["host"] for failure in diagnosis.verdict["failures"]} == {"one", "two"}
    assert "does not answer" in diagnosis.run.output


@pytest.mark.parametrize(("playbook", "name"), [(DOCTOR, "doctor_json"), ("playbooks/verify.yml", "verify_json")])
def test_a_stack_that_does_not_exist_is_told_and_written(deployed_node: Node, playbook: str, name: str):
    diagnosis = examine(deployed_node, "-e", "npu_stack=gude", playbook=playbook, name=name)
    assert diagnosis.run.rc == 2 and diagnosis.verdict["ok"] is False
    assert "npu_stack is 'gude'" in json.dumps(diagnosis.verdict)
