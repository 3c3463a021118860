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
    pytest.param({"host": {"memory_total_mb": 500000}}, {"host_numa_copies": 2}, {
        "host-memory": ("524 GB of memory", "800 GB of memory, where all routed experts stay (400 GB on each of 2 NUMA nodes)"),
    }, id="memory-for-each-copy"),
    pytest.param({"host": {"memory_total_mb": 1000000}}, {"host_numa_copies": "2"}, {}, id="memory-enough-for-two-copies"),
    pytest.param({"host": {"glibc": "2.12", "glibcxx": "3.4.13"}}, {}, {
        "host-glibc": ("glibc 2.12", "glibc 2.17 or newer, which the stack's wheels are built for"),
        "host-glibcxx": ("the system's libstdc++ ends with GLIBCXX_3.4.13", "GLIBCXX_3.4.19 or newer"),
    }, id="old-libraries"),
    pytest.param({"host": {"glibc": "2.35", "glibcxx": "3.4.30"}}, {}, {}, id="new-libraries"),
    pytest.param({"host": {"glibc": None, "glibcxx": None, "clock": {"synchronized": None, "reason": "unknown"}}}, {}, {}, id="nothing-known"),
    pytest.param({"host": {"clock": {"synchronized": False, "reason": "the kernel says so, and no time service runs"}}}, {}, {
        "host-clock": (
            "the kernel says so, and no time service runs", "a clock that a time service keeps, so that certificates hold and logs of several nodes agree",
        ),
    }, id="clock"),
    pytest.param({"host": {"automatic_updates": {"enabled": True, "by": "/etc/x"}}}, {}, {}, id="updates-will-be-switched-off"),
    pytest.param({"host": {"automatic_updates": {"enabled": True, "by": "/etc/x"}}}, {"host_hold_updates": "false"}, {
        "host-updates": ("the system updates itself (/etc/x)", "no automatic updates, for a new kernel takes the NPU driver's modules away"),
    }, id="updates-stay-on"),
    pytest.param({"host": {"automatic_updates": {"enabled": True, "by": "/etc/x"}}}, {"host_scope": "user"}, {
        "host-updates": ("the system updates itself (/etc/x)", "no automatic updates, for a new kernel takes the NPU driver's modules away"),
    }, id="updates-in-user-scope"),
    pytest.param({"disks": [
        {"path": "/usr/local/Ascend", "read_only": "/usr"}, {"path": "/var/lib/npuops", "read_only": None},
        {"path": "/opt/ktransformers", "read_only": "/opt"}, {"path": "/mnt/weights", "read_only": "/mnt"},
    ]}, {}, {
        "host-read-only": (
            "/usr/local/Ascend is on /usr, /opt/ktransformers is on /opt, which is mounted read-only", "writable file systems, where the stages install",
        ),
    }, id="read-only"),
    pytest.param({"ports": [
        {"port": 10002, "listening": True, "pid": 4711, "name": "web server", "unit": "nginx.service"},
        {"port": 25565, "listening": True, "pid": 12, "name": None, "unit": None},
    ]}, {}, {
        "host-ports": (
            "web server (process 4711) listens on port 10002, a process (process 12) listens on port 25565",
            "ports 10002 and 25565 free, or held by ktransformers.service",
        ),
    }, id="ports"),
    pytest.param({"ports": [
        {"port": 10002, "listening": True, "pid": 4711, "name": "python3", "unit": "ktransformers.service"}, {"port": 25565, "listening": False, "pid": None},
    ]}, {}, {}, id="our-own-ports"),
    pytest.param({"ports": [{"port": 10002, "listening": True, "pid": None, "name": None, "unit": None}]}, {}, {
        "host-ports-unknown": (
            "somebody listens on port 10002, a process of another user or container", "ports 10002 and 25565 free, or held by ktransformers.service",
        ),
    }, id="ports-of-others"),
    pytest.param({}, {"host_become_error": "Missing sudo password"}, {
        "host-become": ("the user of this connection cannot become root: Missing sudo password", "root, which host_scope=system works with"),
    }, id="no-root"),
])
def test_judgement(node, given, failed):
    found = ROLE.failed("__host_checks", npu_node=npu(**node), **given)
    assert {name: (check["observed"], check["expected"]) for name, check in found.items()} == failed
    assert all(check["repair"] for check in found.values())


def test_only_what_does_not_stop_a_later_stage_is_a_warning():
    checks = ROLE.value("__host_checks", npu_node=npu())
    assert {check["id"] for check in checks if check.get("severity") == "warning"} == {
        "host-health-warning", "host-system", "host-kernel", "host-glibcxx", "host-clock", "host-updates", "host-ports-unknown",
    }


DEB = ["os/ubuntu-22.04-aarch64/gcc_4%3a11.2.0_arm64.deb", "os/ubuntu-22.04-aarch64/linux-headers-5.15.0-25-generic_5.15.0-25.25_arm64.deb"]
RPM = ["os/openeuler-22.03-aarch64/gcc-10.3.1-10.oe2203.aarch64.rpm", "os/openeuler-22.03-aarch64/kernel-devel-5.10.0-60.18.oe2203.aarch64.rpm"]


@pytest.mark.parametrize("os_id, version, kernel, lines, files, unsupplied", [
    pytest.param("ubuntu", "22.04", "5.15.0-25-generic", [], DEB, ["dkms"], id="ubuntu"),
    pytest.param("ubuntu", "22.04", "5.15.0-25-generic", ["installed dkms"], DEB, [], id="ubuntu-all-there"),
    pytest.param("ubuntu", "22.04", "5.15.0-25-generic", ["installed dkms"], [], ["gcc", "linux-headers-5.15.0-25-generic"], id="no-media"),
    pytest.param("openEuler", "22.03", "5.10.0-60.18.oe2203.aarch64", [
        "package gcc is not installed", "package dkms is not installed", "package kernel-devel-5.10.0-60.18.oe2203.aarch64 is not installed",
    ], RPM, ["dkms"], id="openeuler"),
])
def test_packages_that_are_neither_installed_nor_in_the_media(os_id, version, kernel, lines, files, unsupplied):
    given = {
        "npu_node": npu(host={"os_id": os_id, "os_version": version, "kernel": kernel}),
        "host_packages": {"Debian": ["gcc", "dkms"], "RedHat": ["gcc", "dkms"]},
        "__host_register_packages": {"stdout_lines": lines}, "__host_register_described": {"files": [{"name": name} for name in files]},
    }
    assert ROLE.value("__host_media_folder", **given) == f"os/{os_id.lower()}-{version}-aarch64/"
    assert ROLE.value("__host_unsupplied", host_packages_source="media", **given) == unsupplied
    assert ROLE.value("__host_unsupplied", host_packages_source="media", host_scope="user", **given) == []
    assert ROLE.value("__host_unsupplied", **given) == []
    found = ROLE.failed("__host_package_checks", host_packages_source="media", **given)
    assert list(found) == (["host-packages"] if unsupplied else [])


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
