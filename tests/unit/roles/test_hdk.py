"""What the role hdk finds missing, in which order it installs, and what stops it before it starts."""

from __future__ import annotations

import pytest

from tests.unit.roles.role_vars import NO_DRIVER, Role, npu

ROLE = Role("hdk")
OLD = {"driver": {"version": "24.1.0"}, "firmware": {"version": "7.5.0.1.129"}}
EULA = {"hdk_accept_eula": True}


@pytest.mark.parametrize("node, given, needed", [
    pytest.param({}, {}, [], id="as-wanted"),
    pytest.param(NO_DRIVER, {}, ["driver", "firmware"], id="first-installation"),
    pytest.param(OLD, {}, ["firmware", "driver"], id="upgrade"),
    pytest.param({"driver": {"version": "24.1.0"}}, {}, ["driver"], id="driver-only"),
    pytest.param({"firmware": {"version": None}}, {}, ["firmware"], id="firmware-only"),
    pytest.param({"driver": {"version": "25.0.rc1.1", "complete": False}}, {}, ["driver"], id="interrupted"),
    pytest.param({"driver": {"version": None, "complete": False}, "firmware": {"version": "7.5.0.1.129"}}, {}, ["driver", "firmware"], id="driver-gone"),
    pytest.param(NO_DRIVER, {"hdk_scope": "user"}, [], id="user-scope"),
])
def test_needed(node, given, needed):
    assert ROLE.value("__hdk_needed", npu_node=npu(**node), **given) == needed


@pytest.mark.parametrize("architecture, given, names", [
    pytest.param("aarch64", {}, {
        "driver": "ascend/Ascend-hdk-910b-npu-driver_25.0.rc1.1_linux-aarch64.run", "firmware": "ascend/Ascend-hdk-910b-npu-firmware_7.7.0.1.231.run",
    }, id="aarch64"),
    pytest.param("x86_64", {"npu_stack_pins": {"hdk_driver_version": "25.3.rc1", "hdk_firmware_version": "7.8.0.2.212"}}, {
        "driver": "ascend/Ascend-hdk-910b-npu-driver_25.3.rc1_linux-x86-64.run", "firmware": "ascend/Ascend-hdk-910b-npu-firmware_7.8.0.2.212.run",
    }, id="another-stack-on-x86_64"),
    pytest.param("aarch64", {"hdk_files": {"driver": "ascend/Ascend-hdk-910b-npu_25.0.rc1.1_linux-aarch64.zip"}}, {
        "driver": "ascend/Ascend-hdk-910b-npu_25.0.rc1.1_linux-aarch64.zip", "firmware": "ascend/Ascend-hdk-910b-npu-firmware_7.7.0.1.231.run",
    }, id="archive"),
])
def test_names_in_the_media(architecture, given, names):
    assert ROLE.value("__hdk_files", npu_node=npu(host={"architecture": architecture}), **given) == names


@pytest.mark.parametrize("node, given, failed", [
    pytest.param({}, {}, {}, id="finished-node-needs-no-licence"),
    pytest.param(NO_DRIVER, EULA, {}, id="bare-node"),
    pytest.param(NO_DRIVER, {}, {
        "hdk-eula": "driver and firmware must be installed, and Huawei's licence is not accepted",
    }, id="licence"),
    pytest.param(NO_DRIVER, {"hdk_accept_eula": "no"}, {
        "hdk-eula": "driver and firmware must be installed, and Huawei's licence is not accepted",
    }, id="licence-refused-in-words"),
    pytest.param(NO_DRIVER, {**EULA, "ansible_connection": "local"}, {
        "hdk-controller": "driver or firmware must be installed or reboot the node, and node-1 is the computer that Ansible runs on",
    }, id="local-connection"),
    pytest.param(NO_DRIVER, {**EULA, "ansible_connection": "local", "hdk_reboot": "false"}, {}, id="local-without-reboot"),
    pytest.param({}, {"ansible_connection": "local"}, {}, id="local-and-finished"),
    pytest.param(NO_DRIVER, {**EULA, "inventory_hostname": "localhost"}, {
        "hdk-controller": "driver or firmware must be installed or reboot the node, and localhost is the computer that Ansible runs on",
    }, id="by-name"),
    pytest.param({**NO_DRIVER, "host": {"boot_id": "this-boot"}}, {**EULA, "__hdk_controller_boot_id": "this-boot"}, {
        "hdk-controller": "driver or firmware must be installed or reboot the node, and node-1 is the computer that Ansible runs on",
    }, id="by-boot-id"),
    pytest.param({**NO_DRIVER, "host": {"boot_id": "this-boot"}}, {**EULA, "__hdk_controller_boot_id": "this-boot", "hdk_boot_time_command": "cat x"}, {},
                 id="container-with-its-own-boot-id"),
    pytest.param({"reboot_required": True, "reboot_reason": "firmware"}, {}, {}, id="owed-reboot-is-made-up-for"),
    pytest.param({"reboot_required": True, "reboot_reason": "firmware"}, {"hdk_reboot": False}, {
        "hdk-reboot": "the node owes a reboot: firmware",
    }, id="owed-reboot-not-allowed"),
    pytest.param({"reboot_required": True, "reboot_reason": "firmware"}, {"hdk_scope": "user"}, {
        "hdk-reboot": "the node owes a reboot: firmware",
    }, id="owed-reboot-in-user-scope"),
    pytest.param({}, {"hdk_scope": "user"}, {}, id="user-scope"),
    pytest.param({"driver": {"version": "25.2.0"}}, {"hdk_scope": "user"}, {}, id="user-scope-newer"),
    pytest.param(OLD, {"hdk_scope": "user"}, {"hdk-driver": "driver 24.1.0"}, id="user-scope-older"),
    pytest.param(NO_DRIVER, {"hdk_scope": "user"}, {"hdk-driver": "no driver is installed"}, id="user-scope-none"),
    pytest.param({"smi": {"available": False, "reason": "dcmi -8005"}}, {}, {"hdk-npu-smi": "npu-smi does not answer: dcmi -8005"}, id="npu-smi"),
    pytest.param({"nodes": [{"path": "/dev/davinci0", "mode": "0666"}]}, {}, {
        "hdk-open-nodes": "every user of the node may use the NPUs (/dev/davinci0 and others are open to all)",
    }, id="open-nodes"),
    pytest.param({"nodes": [{"path": "/dev/davinci0", "mode": "0666"}]}, {"hdk_install_for_all": "true"}, {}, id="open-nodes-wanted"),
])
def test_checks(node, given, failed):
    given = {"__hdk_controller_boot_id": "another-boot", **given}
    found = ROLE.failed("__hdk_checks", npu_node=npu(**node), **given)
    assert {name: check["observed"] for name, check in found.items()} == failed
    assert all(check["expected"] and check["repair"] for check in found.values())


def test_only_what_does_not_stop_a_later_stage_is_a_warning():
    checks = ROLE.value("__hdk_checks", npu_node=npu())
    assert {check["id"] for check in checks if check.get("severity") == "warning"} == {"hdk-npu-smi", "hdk-open-nodes"}


@pytest.mark.parametrize("node, given, row", [
    pytest.param({}, {}, ("driver 25.0.rc1.1, firmware 7.7.0.1.231", "ok", ""), id="right"),
    pytest.param(NO_DRIVER, {}, ("driver none, firmware none", "missing", "no driver is installed"), id="bare"),
    pytest.param(OLD, {}, ("driver 24.1.0, firmware 7.5.0.1.129", "different", ""), id="old"),
    pytest.param({"driver": {"complete": False, "reason": "an installation was interrupted"}}, {},
                 ("driver 25.0.rc1.1, firmware 7.7.0.1.231", "different", "an installation was interrupted"), id="interrupted"),
    pytest.param({"reboot_required": True, "reboot_reason": "firmware"}, {},
                 ("driver 25.0.rc1.1, firmware 7.7.0.1.231", "failed", "a reboot is owed: firmware"), id="owed-reboot"),
    pytest.param({"smi": {"available": False, "reason": "dcmi -8005"}}, {},
                 ("driver 25.0.rc1.1, firmware 7.7.0.1.231", "failed", "npu-smi does not answer: dcmi -8005"), id="npu-smi"),
    pytest.param({"smi": {"devices": [{"npu_id": 3, "health": "Alarm"}, {"npu_id": 4, "health": "Warning"}]}}, {},
                 ("driver 25.0.rc1.1, firmware 7.7.0.1.231", "failed", "NPU 3 not well"), id="sick"),
    pytest.param({"driver": {"version": "25.2.0"}, "firmware": {"version": "7.7.0.6.236"}}, {"hdk_scope": "user"},
                 ("driver 25.2.0, firmware 7.7.0.6.236", "ok", ""), id="user-scope-newer"),
    pytest.param(OLD, {"hdk_scope": "user"}, ("driver 24.1.0, firmware 7.5.0.1.129", "different", ""), id="user-scope-older"),
])
def test_row(node, given, row):
    stage = ROLE.value("__hdk_stage", npu_node=npu(**node), **given)
    assert stage["label"] == "HDK"
    assert (stage["found"], stage["state"], stage["note"]) == row


def test_busy_names_program_and_process():
    processes = [{"name": "python3", "pid": 4711}, {"name": "bench", "pid": 12}]
    assert ROLE.value("__hdk_busy", npu_node=npu(smi={"processes": processes})) == "python3 4711, bench 12"
