"""What the role host thinks of a node, and which of its files and packages it finds missing."""

from __future__ import annotations

import hashlib

import pytest

from tests.unit.roles.role_vars import NO_DRIVER, Role, npu

ROLE = Role("host")
SICK = {"smi": {"devices": [{"npu_id": 0, "health": "OK"}, {"npu_id": 3, "health": "Alarm"}, {"npu_id": 5, "health": "Warning"}]}}


@pytest.mark.parametrize("node, given, failed", [
    pytest.param({}, {}, {}, id="as-wanted"),
    pytest.param(NO_DRIVER, {}, {}, id="before-the-driver"),
    pytest.param({"found": False, "reason": "none of the 9 PCI devices", "product": None, "devices": []}, {}, {
        "host-npu": ("no NPU was found: none of the 9 PCI devices", "Atlas 800I A2 (PCI 19e5:d802, subsystem 19e5:3002, 3004 or 3005)"),
    }, id="no-npu"),
    pytest.param({"product": "Atlas 300I A2"}, {}, {
        "host-product": ("Atlas 300I A2 (PCI 0x19e5:0xd802, subsystem 0x19e5:0x3005)", "Atlas 800I A2"),
    }, id="other-product"),
    pytest.param({"product": None}, {}, {
        "host-product": ("an NPU of unknown product (PCI 0x19e5:0xd802, subsystem 0x19e5:0x3005)", "Atlas 800I A2"),
    }, id="unknown-product"),
    pytest.param({"product": "Atlas 300I A2"}, {"host_products": ["Atlas 800I A2", "Atlas 300I A2"]}, {}, id="product-allowed"),
    pytest.param(SICK, {}, {
        "host-health": ("npu-smi says Alarm for NPU 3", "OK"),
        "host-health-warning": ("npu-smi says Warning for NPU 5", "OK"),
    }, id="sick"),
    pytest.param({"host": {"architecture": "riscv64"}}, {}, {
        "host-architecture": ("riscv64", "aarch64 or x86_64, which the vendor packages are built for"),
    }, id="architecture"),
    pytest.param({"host": {"memory_total_mb": 257000}}, {}, {
        "host-memory": ("269 GB of memory", "400 GB of memory, where all routed experts stay"),
    }, id="memory"),
    pytest.param({"host": {"memory_total_mb": None}}, {"host_memory_min_gb": 0}, {}, id="memory-unchecked"),
    pytest.param({"host": {"os_name": "openEuler", "os_version": "22.03", "os_id": "openEuler", "kernel": "5.10.0"}}, {}, {
        "host-system": ("openEuler 22.03", "Ubuntu 22.04, which the stack was tried on"),
        "host-kernel": ("kernel 5.10.0", "kernel 5.15.0-25-generic, which the stack was tried on"),
    }, id="other-system"),
    pytest.param({"host": {"os_version": "22.04.4"}}, {}, {}, id="point-release"),
    pytest.param({"host": {"os_version": "22.041"}}, {"host_os": ""}, {}, id="any-system"),
    pytest.param({"host": {"os_id": "alpine"}}, {}, {
        "host-family": ("/etc/os-release says alpine", "a system of the families Debian or RedHat"),
    }, id="unknown-family"),
    pytest.param({"host": {"os_id": "alpine"}}, {"host_scope": "user"}, {}, id="unknown-family-in-user-scope"),
    pytest.param({}, {"host_become_error": "Missing sudo password"}, {
        "host-become": ("the user of this connection cannot become root: Missing sudo password", "root, which host_scope=system works with"),
    }, id="no-root"),
])
def test_judgement(node, given, failed):
    found = ROLE.failed("__host_checks", npu_node=npu(**node), **given)
    assert {name: (check["observed"], check["expected"]) for name, check in found.items()} == failed
    assert all(check["repair"] for check in found.values())


def test_only_health_system_and_kernel_are_warnings():
    checks = ROLE.value("__host_checks", npu_node=npu())
    assert {check["id"] for check in checks if check.get("severity") == "warning"} == {"host-health-warning", "host-system", "host-kernel"}


@pytest.mark.parametrize("os_id, family", [
    ("ubuntu", "Debian"), ("debian", "Debian"), ("openEuler", "RedHat"), ("rocky", "RedHat"), ("alpine", ""), (None, ""),
])
def test_family(os_id, family):
    assert ROLE.value("__host_family", npu_node=npu(host={"os_id": os_id})) == family


@pytest.mark.parametrize("os_id, given, packages", [
    pytest.param("ubuntu", {}, ["gcc", "linux-headers-5.15.0-25-generic"], id="ubuntu"),
    pytest.param("openEuler", {}, ["gcc", "kernel-headers-5.15.0-25-generic", "kernel-devel-5.15.0-25-generic"], id="openeuler"),
    pytest.param("ubuntu", {"host_kernel_headers": "false"}, ["gcc"], id="without-headers"),
    pytest.param("ubuntu", {"host_packages": {"RedHat": ["gcc"]}}, ["linux-headers-5.15.0-25-generic"], id="other-family"),
])
def test_packages(os_id, given, packages):
    given = {"host_packages": {"Debian": ["gcc"], "RedHat": ["gcc"]}, **given}
    assert ROLE.value("__host_packages", npu_node=npu(host={"os_id": os_id}), **given) == packages


@pytest.mark.parametrize("os_id, lines, missing", [
    pytest.param("ubuntu", ["installed gcc", "not-installed dkms", "config-files make"], ["dkms", "make"], id="dpkg"),
    pytest.param("ubuntu", ["installed dkms", "installed gcc", "installed make"], [], id="dpkg-all-there"),
    pytest.param("openEuler", ["gcc-10.3.1-10.oe2203.aarch64", "package dkms is not installed", "make-4.3-4.aarch64"], ["dkms"], id="rpm"),
    pytest.param("openEuler", ["package kernel-devel-5.10.0-60 is not installed"], ["kernel-devel-5.10.0-60"], id="rpm-with-version"),
    pytest.param("openEuler", ["gcc-10.3.1-10.oe2203.aarch64", "dkms-3.0-1.noarch", "make-4.3-4.aarch64"], [], id="rpm-all-there"),
])
def test_missing_packages(os_id, lines, missing):
    given = {"host_packages": {"Debian": ["gcc", "dkms", "make"], "RedHat": ["gcc", "dkms", "make"]}, "host_kernel_headers": False}
    assert ROLE.value("__host_missing_packages", npu_node=npu(host={"os_id": os_id}), __host_register_packages={"stdout_lines": lines}, **given) == missing


def test_our_files_are_known_by_place_and_content():
    files = ROLE.value("__host_hold_files", npu_node=npu())
    assert files["Debian"]["apt-hold-kernel.pref"] == "/etc/apt/preferences.d/npuops-hold-kernel"
    for folder in files.values():
        for name in folder:
            text = (ROLE.folder / "files" / name).read_text()
            assert "npuops.ktransformers.host" in text
            digest = ROLE.value(f"lookup('ansible.builtin.file', 'files/{name}', rstrip=false) | hash('sha1')", npu_node=npu())
            assert digest == hashlib.sha1(text.encode()).hexdigest()


@pytest.mark.parametrize("node, row", [
    pytest.param({}, ("Atlas 800I A2 × 8", "ok", ""), id="right"),
    pytest.param(NO_DRIVER, ("Atlas 800I A2 × 8", "ok", "health unknown: npu-smi was not found"), id="before-the-driver"),
    pytest.param(SICK, ("Atlas 800I A2 × 8", "failed", "Alarm, Warning"), id="sick"),
    pytest.param({"product": "Atlas 300I A2", "count": 1}, ("Atlas 300I A2 × 1", "different", ""), id="other-product"),
    pytest.param({"found": False, "reason": "none", "product": None, "count": 0}, ("none", "missing", "none"), id="no-npu"),
])
def test_row(node, row):
    stage = ROLE.value("__host_stage", npu_node=npu(**node))
    assert (stage["label"], stage["wanted"]) == ("NPU", "Atlas 800I A2")
    assert (stage["found"], stage["state"], stage["note"]) == row
