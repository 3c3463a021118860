"""The simulated driver and firmware run as processes on a bare node: order, options, refusals, records, exit codes, reboot."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.unit.simulator.simulated import OTHER_ARCH, Node

# isort: split
from hdk import HDK_25_3, driver_version_info

NPU_SMI = "usr/local/bin/npu-smi"
RECORD = "etc/ascend_install.info"


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def messages(done) -> list[str]:
    """The installer's lines without tag, time and colour."""
    return [line.split("] ", 2)[2].strip() for line in plain(done.stdout).splitlines() if line.startswith(("[Driver]", "[Firmware]"))]


def record(node) -> dict[str, str]:
    return dict(line.split("=", 1) for line in node.text(RECORD).splitlines())


@pytest.fixture
def driver_node(bare_node):
    """The driver installed, and live."""
    assert bare_node.install("driver").returncode == 0
    return bare_node


@pytest.fixture
def live_node(bare_node):
    """Driver and firmware installed, rebooted."""
    for kind in ("driver", "firmware"):
        done = bare_node.install(kind)
        assert done.returncode == 0, done.stdout
    bare_node.run(bare_node.root / "simulated-reboot")
    return bare_node


def test_driver_then_firmware_on_a_fresh_node(bare_node):
    done = bare_node.install("driver")
    assert done.returncode == 0
    seen = messages(done)
    assert [line for line in seen if "Percentage" in line] == [f"[INFO]upgradePercentage:{number}%" for number in (10, 30, 40, 90, 100)]
    assert seen[-2] == "[INFO]Driver package installed successfully! The new version takes effect immediately."
    assert "[INFO]driver install type: DKMS" in seen
    assert record(bare_node) == {
        "UserName": "HwHiAiUser",
        "UserGroup": "HwHiAiUser",
        "Driver_Install_Type": "full",
        "Driver_Install_Path_Param": str(bare_node.ascend),
        "Driver_Install_For_All": "no",
        "Driver_Install_Mode": "normal",
    }
    assert (bare_node.ascend / "driver/version.info").read_text().startswith("Version=25.0.rc1.1\nascendhal_version=7.35.23\n")
    assert (bare_node.ascend / "driver/version.info").stat().st_mode & 0o777 == 0o444
    assert bare_node.text("etc/ld.so.conf.d/ascend_driver_so.conf").splitlines()[1] == f"{bare_node.ascend}/driver/lib64/driver"
    assert (bare_node.root / "dev/davinci7").stat().st_mode & 0o777 == 0o660
    assert "drv_pcie_host" in bare_node.text("proc/modules")
    assert bare_node.text("var/log/ascend_seclog/operation.log").rstrip().endswith("success install_type=full; cmdlist=--full --quiet.")
    done = bare_node.install("firmware")
    assert done.returncode == 0
    seen = messages(done)
    assert "[INFO]The firmware of [8] chips are successfully upgraded." in seen
    assert seen[-2].endswith("Reboot now or after driver installation for the installation/upgrade to take effect.")
    assert record(bare_node)["Firmware_Install_Path_Param"] == str(bare_node.ascend)
    assert "[npuops simulator]" in bare_node.text("var/log/ascend_seclog/ascend_install.log")


def test_firmware_before_driver_is_refused(bare_node):
    done = bare_node.install("firmware")
    assert done.returncode == 1
    assert "driver not installed, please install driver first" in done.stdout


def without_user(node):
    (node.root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/bash\n")


def without_group(node):
    (node.root / "etc/group").write_text("root:x:0:\n")


def out_of_the_group(node):
    (node.root / "etc/group").write_text("root:x:0:\nHwHiAiUser:x:2000:\n")


def another_chip(node):
    for path in (node.root / "sys/bus/pci/devices").glob("*/device"):
        path.write_text("0xd803\n" if path.read_text() == "0xd802\n" else path.read_text())


def another_kernel(node):
    (node.root / "proc/sys/kernel/osrelease").write_text("5.15.0-153-generic\n")


def fault(name, content=""):
    return lambda node: node.fault(name, content)


FULL = ["--full", "--quiet"]
REFUSALS = [
    pytest.param(None, ["--upgrade", "--quiet", "--install-for-all"], "install-for-all param need used with full/debug/run/devel.", id="upgrade-for-all"),
    pytest.param(
        None, ["--upgrade", "--quiet", "--install-path=/x"], "install-path param need used with full/debug/run/docker/devel.", id="upgrade-with-path"
    ),
    pytest.param(None, [*FULL, "--install-username=HwHiAiUser"], "Username and usergroup are not specified at the same time.", id="user-without-group"),
    pytest.param(None, ["--full", "--run"], "only support one type", id="two-types"),
    pytest.param(None, ["--quiet"], "The parameter needs to be used with full/debug/run/docker/upgrade/devel.", id="no-action"),
    pytest.param(None, ["--nonsense"], "ERR_NO:0x0004;ERR_DES: Unrecognized parameters: --nonsense.", id="unknown-option"),
    pytest.param(None, ["--version", "--quiet"], "version/check can't use with other parameters.", id="version-not-alone"),
    pytest.param(None, ["--uninstall", "--quiet"], "uninstall can't use with other parameters except force.", id="uninstall-with-quiet"),
    pytest.param(None, ["--uninstall"], "ERR_NO:0x0080;ERR_DES:Driver package is not installed on this device, uninstall failed", id="uninstall-of-nothing"),
    pytest.param(
        None, [*FULL, "--install-username=root", "--install-usergroup=root"], "ERR_NO:0x0091;ERR_DES:username not permission for root", id="root-user"
    ),
    pytest.param(without_user, FULL, "ERR_NO:0x0091;ERR_DES:HwHiAiUser not exists! Please add HwHiAiUser", id="no-user"),
    pytest.param(without_group, FULL, "ERR_NO:0x0091;ERR_DES:HwHiAiUser group not exists!", id="no-group"),
    pytest.param(out_of_the_group, FULL, "ERR_NO:0x0096;ERR_DES:HwHiAiUser not right!", id="user-not-in-group"),
    pytest.param(another_chip, FULL, "The current installation package and environment is not match, please check.", id="another-chip"),
    pytest.param(fault("driver.missing-tools", "lspci ifconfig"), FULL, "The list of missing tools: lspci,ifconfig,", id="missing-tools"),
    pytest.param(fault("driver.free-mb", "120"), FULL, "free space only 120M, cannot install driver package (greater than 300M)", id="full-disk"),
]


@pytest.mark.parametrize("prepare, arguments, words", REFUSALS)
def test_refusals_leave_no_record(bare_node, prepare, arguments, words):
    if prepare:
        prepare(bare_node)
    done = bare_node.install("driver", *arguments)
    assert done.returncode == 1
    assert words in done.stdout
    assert not (bare_node.root / RECORD).exists()
    assert not (bare_node.ascend / "driver").exists()


def test_any_option_needs_root(user_node):
    for kind in ("driver", "firmware"):
        done = user_node.install(kind)
        assert done.returncode == 1
        assert "ERR_NO:0x0093;ERR_DES:do not have root permission" in done.stdout


def test_a_package_of_another_architecture_refuses(bare_node):
    done = bare_node.run(bare_node.package("driver", arch=OTHER_ARCH), *FULL)
    assert done.returncode == 1
    assert f"Arch mismatch, src package is {OTHER_ARCH.replace('_', '-')}, cur os is" in done.stdout


def test_a_damaged_driver_package(bare_node):
    package = bare_node.package("driver")
    data = bytearray(package.read_bytes())
    data[-100] ^= 1
    package.write_bytes(data)
    assert bare_node.run(package, "--check").returncode == 2
    assert bare_node.run(package, *FULL).returncode == 2


def test_check_verifies_twice_and_asks_the_vendors_script(bare_node):
    done = bare_node.install("driver", "--check")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0].startswith("Makeself logfile: ")
    assert done.stdout.count("SHA256 checksums are OK. All good.") == 2
    assert "[INFO]driver version :25.0.rc1.1" in messages(bare_node.install("driver", "--version"))


@pytest.mark.parametrize(
    "missing, prebuilt, code, words",
    [
        pytest.param("dkms", True, 0, "driver install type: Direct", id="prebuilt-module-fits"),
        pytest.param("dkms", False, 1, "Drv_dkms_env_check failed", id="no-module-fits"),
    ],
)
def test_kernel_modules_without_dkms(bare_node, missing, prebuilt, code, words):
    status = bare_node.root / "var/lib/dpkg/status"
    status.write_text(status.read_text().replace(f"Package: {missing}\n", "Package: something\n"))
    if not prebuilt:
        another_kernel(bare_node)
    done = bare_node.install("driver")
    assert done.returncode == code
    assert words in done.stdout
    assert f"The program '{missing}' is currently not installed." in bare_node.text("var/log/ascend_seclog/ascend_install.log")
    # The record is written before any file: it proves nothing without version.info.
    assert record(bare_node)["Driver_Install_Type"] == "full"
    assert (bare_node.ascend / "driver/version.info").exists() is (code == 0)


@pytest.mark.parametrize("percent", ["10", "40", "90"])
def test_a_killed_installer_leaves_a_record_without_version_info(bare_node, percent):
    at = bare_node.fault("driver.kill", percent)
    assert bare_node.install("driver").returncode not in (0, 1, 2)
    assert record(bare_node)["Driver_Install_Path_Param"] == str(bare_node.ascend)
    assert not (bare_node.ascend / "driver/version.info").exists()
    at.unlink()
    assert bare_node.install("driver").returncode == 0
    assert (bare_node.ascend / "driver/version.info").exists()


@pytest.mark.parametrize(
    "fault_name, arguments, words",
    [
        pytest.param(None, [*FULL, "--force"], "Driver package installed successfully! Reboot needed for installation/upgrade to take effect!", id="force"),
        pytest.param(
            "driver.hot-reset-fails", FULL, "Driver package installed successfully! Reboot needed for installation/upgrade to take effect!", id="hot-reset"
        ),
        pytest.param("driver.modules-stuck", FULL, "Kernel modules can not be removed, reboot needed for installation/upgrade to take effect!", id="modules"),
        pytest.param("driver.chips-not-ready", FULL, "There are some chips not ready, please check after reboot", id="chips"),
        pytest.param("driver.hot-reset-fails", ["--upgrade", "--quiet"], "Driver package upgraded successfully! Reboot needed", id="upgrade"),
    ],
)
def test_code_2_owes_a_reboot_and_npu_smi_refuses_until_it(driver_node, fault_name, arguments, words):
    at = driver_node.fault(fault_name) if fault_name else None
    done = driver_node.install("driver", *arguments)
    assert done.returncode == 2
    assert words in plain(done.stdout)
    refused = driver_node.run(driver_node.root / NPU_SMI, "info")
    assert (refused.returncode, refused.stdout.splitlines()[-1]) == (255, "dcmi module initialize failed. ret is -8005")
    if at:
        at.unlink()
    boot_id = driver_node.text("proc/sys/kernel/random/boot_id")
    driver_node.run(driver_node.root / "simulated-reboot")
    assert driver_node.text("proc/sys/kernel/random/boot_id") != boot_id
    assert driver_node.run(driver_node.root / NPU_SMI, "info").returncode == 0


def test_an_upgrade_keeps_for_all_from_the_record(bare_node):
    assert bare_node.install("driver", *FULL, "--install-for-all").returncode == 0
    assert (bare_node.root / "dev/davinci0").stat().st_mode & 0o777 == 0o666
    done = bare_node.run(bare_node.package("driver", HDK_25_3), "--upgrade", "--quiet")
    assert done.returncode == 0
    assert messages(done)[-2] == "[INFO]Driver package upgraded successfully! The new version takes effect immediately."
    assert record(bare_node)["Driver_Install_For_All"] == "yes"
    assert (bare_node.ascend / "driver/version.info").read_text() == driver_version_info(HDK_25_3)
    assert bare_node.text("var/log/ascend_seclog/operation.log").splitlines()[-1].startswith("Upgrade MINOR root ")


def test_another_user_than_last_time_is_refused(driver_node):
    for name in ("passwd", "group"):
        path = driver_node.root / "etc" / name
        path.write_text(path.read_text() + ("npu:x:1001:1001::/home/npu:/bin/bash\n" if name == "passwd" else "npu:x:1001:\n"))
    done = driver_node.install("driver", *FULL, "--install-username=npu", "--install-usergroup=npu")
    assert done.returncode == 1
    assert "ERR_NO:0x0095;ERR_DES:The user and group are not same with last installation" in done.stdout


def test_a_busy_npu_refuses_unless_forced(driver_node):
    with open(driver_node.root / "dev/davinci3"):
        done = driver_node.install("driver")
        assert done.returncode == 1
        assert "The davinci nodes are occupied by some processes" in done.stdout
        assert "davinci_manager has used by python" in driver_node.text("var/log/ascend_seclog/ascend_install.log")
        assert (driver_node.ascend / "driver/version.info").exists()
        uninstall = driver_node.run(driver_node.ascend / "driver/script/uninstall.sh", "--quiet")
        assert uninstall.returncode == 1
        assert driver_node.install("driver", *FULL, "--force").returncode == 2


def test_the_question_without_quiet(driver_node):
    stopped = driver_node.install("driver", "--full", stdin="n\n")
    assert stopped.returncode == 0
    assert "[INFO]installation Stoped!" in messages(stopped)
    assert (driver_node.ascend / "driver/version.info").exists()
    endless = driver_node.install("driver", "--full", stdin="")
    assert endless.returncode == 1
    assert endless.stdout.count("input error, please input again!") > 500


def test_uninstalling_the_driver_keeps_the_firmwares_record(live_node):
    done = live_node.run(live_node.ascend / "driver/script/uninstall.sh", "--quiet")
    assert done.returncode == 0
    assert "Driver package uninstalled successfully! Uninstallation takes effect immediately." in plain(done.stdout)
    assert sorted(record(live_node)) == ["Firmware_Install_Path_Param", "Firmware_Install_Type", "UserGroup", "UserName"]
    assert not (live_node.ascend / "driver").exists() and not (live_node.root / NPU_SMI).exists()
    assert not list((live_node.root / "dev").iterdir())
    done = live_node.run(live_node.ascend / "firmware/script/uninstall.sh")
    assert "[INFO]base version is 7.7.0.1.231." in messages(done)
    assert not (live_node.root / RECORD).exists()


def test_uninstall_script_knows_two_options(driver_node):
    done = driver_node.run(driver_node.ascend / "driver/script/uninstall.sh", "--all")
    assert done.returncode == 1
    assert "Only support '--quiet' and '--force'." in done.stdout


def test_upgrade_tool_reports_boot_status_and_firmware(live_node):
    tool = live_node.ascend / "driver/tools/upgrade-tool"
    done = live_node.run(tool, "--device_index", "-1", "--boot_status")
    assert done.stdout.count("boot status:16") == 8
    done = live_node.run(tool, "--device_index", "-1", "--component", "-1", "--version")
    assert "Get component version(7.7.0.1.231) succeed for deviceId(0), componentType(0)." in done.stdout


# --- npu-smi and the node -----------------------------------------------------------------------------------------------
def test_npu_smi_prints_the_table_of_the_recordings(user_node):
    lines = user_node.run(user_node.root / NPU_SMI, "info").stdout.splitlines()
    assert {len(line) for line in lines} == {98}
    assert lines[1].split() == ["|", "npu-smi", "25.0.rc1.1", "Version:", "25.0.rc1.1", "|"]
    # NPU ids are not in bus order.
    assert [line.split()[3] for line in lines if "0000:" in line] == [f"0000:{bus}:00.0" for bus in ("C1", "C2", "81", "82", "01", "02", "41", "42")]


def test_npu_smi_shows_processes_and_faults(user_node):
    state = user_node.root / "var/lib/npuops-simulator"
    (state / "npu-processes").write_text("6 3495003 43087 /usr/local/python3.11\n")
    out = user_node.run(user_node.root / NPU_SMI, "info").stdout
    assert "| 6       0                 | 3495003       | /usr/local/pyth          | 43087                   |" in out
    assert "46468/ 32768" in out
    user_node.fault("npu-smi.unhealthy", "2")
    out = user_node.run(user_node.root / NPU_SMI, "info").stdout
    assert out.count("| Alarm ") == 1
    user_node.fault("npu-smi.garbage")
    out = subprocess.run(["bash", str(user_node.root / NPU_SMI), "info"], capture_output=True, check=True).stdout
    assert b"+---" not in out and b"\xff" in out


@pytest.mark.parametrize(
    "kind, words",
    [
        (
            "board",
            ["Software Version               : 25.0.rc1.1", "Firmware Version               : 7.7.0.1.231", "PCIe Bus Info                  : 0000:82:00.0"],
        ),
        ("usages", ["NPU ID                         : 3", "HBM Capacity(MB)               : 32768"]),
        ("memory", ["HBM Clock Speed(MHz)           : 1600"]),
    ],
)
def test_npu_smi_details(user_node, kind, words):
    out = user_node.run(user_node.root / NPU_SMI, "info", "-t", kind, "-i", "3").stdout
    for line in words:
        assert f"        {line}\n" in out


def test_npu_smi_without_its_libraries(user_node):
    (user_node.root / "etc/ld.so.conf.d/ascend_driver_so.conf").unlink()
    done = user_node.run(user_node.root / NPU_SMI, "info")
    assert (done.returncode, done.stderr.strip()) == (
        127,
        "npu-smi: error while loading shared libraries: libc_sec.so: cannot open shared object file: No such file or directory",
    )
    assert user_node.run(user_node.root / NPU_SMI, "info", env={"LD_LIBRARY_PATH": f"{user_node.ascend}/driver/lib64/common"}).returncode == 0


def test_the_node_is_an_atlas_800i_a2(tmp_path):
    node = Node(tmp_path, privileged=False)
    devices = [path.parent for path in (node.root / "sys/bus/pci/devices").glob("*/device") if path.read_text() == "0xd802\n"]
    assert len(devices) == 8
    for device in devices:
        assert [(device / name).read_text().strip() for name in ("vendor", "subsystem_vendor", "subsystem_device", "class")] == [
            "0x19e5",
            "0x19e5",
            "0x3004",
            "0x120000",
        ]
    assert node.text("proc/meminfo").splitlines()[0].split() == ["MemTotal:", str(1 << 30), "kB"]
    assert node.text("proc/cpuinfo").count("processor") == 192
    assert node.text("proc/sys/kernel/osrelease") == "5.15.0-25-generic\n"
    assert record(node)["UserName"] == "HwHiAiUser"
    assert (node.root / "dev/davinci_manager").stat().st_mode & 0o777 == 0o660
