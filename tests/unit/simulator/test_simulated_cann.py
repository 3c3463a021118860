"""The simulated CANN packages run as processes: order, refusals, records, links, reinstall and uninstall."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.unit.simulator.simulated import ARCH, OTHER_ARCH, Node

# isort: split
from cann import CANN_8_1, CANN_8_2

FORM = f"{ARCH}-linux"


def assert_line(done, words):
    """The words stand in the output, which ends as a simulated one."""
    assert words in done.stdout + done.stderr, done.stdout + done.stderr


def with_cann(node):
    for kind in ("toolkit", "kernels"):
        done = node.install(kind)
        assert done.returncode == 0, done.stdout
    return node


@pytest.fixture
def cann_node(user_node):
    return with_cann(user_node)


@pytest.fixture(scope="module")
def shared_node(tmp_path_factory):
    """Toolkit and kernels on a node that several tests look at and none changes."""
    return with_cann(Node(tmp_path_factory.mktemp("cann"), privileged=False))


def test_toolkit_leaves_the_records_of_an_installed_cann(user_node):
    done = user_node.install("toolkit")
    assert done.returncode == 0
    version = user_node.toolkit / "8.1.RC1"
    assert (version / FORM / "ascend_toolkit_install.info").read_text() == (
        "package_name=Ascend-cann-toolkit\nversion=8.1.RC1\ninnerversion=V100R001C21SPC001B238\n"
        "compatible_version=[V100R001C15],[V100R001C18],[V100R001C19],[V100R001C20],[V100R001C21]\n"
        f"arch={ARCH}\nos=linux\npath={version}/{FORM}\n"
    )
    assert "Install_Mode=install\nQuiet_Mode=yes\nInstall_For_All=no\n" in (version / FORM / "install.conf").read_text()
    assert f"Runtime_Install_Path_Param={user_node.toolkit}\n" in (version / "runtime/ascend_install.info").read_text()
    assert user_node.text("home/Ascend/ascend_cann_install.info") == f"Install_Path={user_node.ascend}\n"
    assert os.readlink(user_node.toolkit / "8.1") == "./8.1.RC1"
    assert not (user_node.toolkit / "latest").is_symlink()
    cfg = (user_node.toolkit / "latest/version.cfg").read_text().splitlines()
    assert cfg[:2] == ["# version: 1.0", "runtime_running_version=[7.7.0.1.238:8.1.RC1]"]
    assert not [line for line in cfg if line.startswith("opp_kernel")]
    log = user_node.text("home/var/log/ascend_seclog/ascend_toolkit_install.log")
    assert "CANN-runtime-7.7.0.1.238-linux" in log
    for text in (log, done.stdout):
        assert "simulated" in text
    assert f"Driver:   Installed in {user_node.ascend}/driver." in done.stdout
    assert f"Toolkit:  Ascend-cann-toolkit_8.1.RC1_linux-{ARCH} install success, installed in {user_node.ascend}." in done.stdout


def test_nothing_is_written_outside_the_node(user_node, tmp_path):
    before = sorted(path for path in tmp_path.iterdir())
    home = tmp_path / "a-home"
    home.mkdir()
    assert user_node.install("toolkit", env={"HOME": str(home)}).returncode == 0
    assert list(home.iterdir()) == []
    assert sorted(path for path in tmp_path.iterdir() if path != home) == before
    refused = user_node.install("kernels", "--quiet", "--install", "--install-path=/opt/elsewhere")
    # The record of the toolkit wins over the option.
    assert refused.returncode == 0
    assert_line(refused, "--install-path=/opt/elsewhere is ignored")


def test_an_install_path_outside_the_node_is_refused(user_node):
    before = user_node.snapshot()
    done = user_node.install("toolkit", "--quiet", "--install", "--install-path=/opt/elsewhere")
    assert done.returncode == 1
    assert_line(done, "lies outside the simulated node")
    assert [path for path in user_node.snapshot().keys() - before.keys() if not path.startswith("home/var")] == []


def test_default_path_of_an_ordinary_user_is_below_home(user_node):
    assert user_node.install("toolkit", "--quiet", "--install").returncode == 0
    assert (user_node.root / "home/Ascend/ascend-toolkit/latest/version.cfg").is_file()


def test_root_installs_for_all_and_writes_the_system_record(bare_node):
    done = bare_node.install("toolkit")
    assert done.returncode == 0
    assert bare_node.text("etc/Ascend/ascend_cann_install.info") == f"Install_Path={bare_node.ascend}\n"
    assert "Install_For_All=yes" in (bare_node.toolkit / "8.1.RC1" / FORM / "install.conf").read_text()
    assert (bare_node.root / "var/log/ascend_seclog/ascend_toolkit_install.log").is_file()
    assert_line(done, "WARNING] driver and firmware is not exists, please install first.")
    assert "Driver:   Not installed." in done.stdout
    library = bare_node.toolkit / "latest/lib64/libhccl.so"
    assert library.stat().st_mode & 0o004


def test_libruntime_is_reached_as_on_a_real_node(cann_node):
    latest = cann_node.toolkit / "latest"
    assert os.readlink(latest / "lib64") == f"{FORM}/lib64"
    assert os.readlink(latest / "lib64/libruntime.so") == f"../../../8.1.RC1/{FORM}/lib64/libruntime.so"
    real = cann_node.toolkit / "8.1.RC1" / FORM / "lib64/libruntime.so"
    assert real.is_file() and not real.is_symlink()
    for path in ("runtime", "atc", "fwkacllib"):
        assert (latest / path / "lib64/libruntime.so").resolve() == real
    # The guide's mv and cp change `latest` alone.
    (latest / "lib64/libruntime.so").rename(latest / "lib64/libruntime.so.bak")
    (latest / "lib64/libruntime.so").write_bytes(b"replaced")
    assert (latest / "runtime/lib64/libruntime.so").read_bytes() == real.read_bytes() != b"replaced"
    assert cann_node.install("toolkit", "--quiet", "--upgrade").returncode == 0
    assert (latest / "lib64/libruntime.so").is_symlink()


def test_no_link_hangs(shared_node):
    found = subprocess.run(["find", str(shared_node.toolkit), "-xtype", "l"], capture_output=True, text=True, check=True).stdout
    assert found == ""


def test_kernels_leave_their_marks(shared_node):
    version = shared_node.toolkit / "8.1.RC1"
    assert f"OPP_KERNEL_INSTALL_PATH_PARAM={version}\n" in (version / "opp_kernel/ascend_install.info").read_text()
    assert (version / "opp/built-in/op_impl/ai_core/tbe/kernel/config/ascend910b/binary_info_config.json").is_file()
    assert not list(version.rglob("ascend_kernels_install.info"))
    assert "opp_kernel_installed_version=[7.7.0.1.238:8.1.RC1]" in (shared_node.toolkit / "latest/version.cfg").read_text()
    assert os.readlink(shared_node.toolkit / "latest/opp_kernel") == "../8.1.RC1/opp_kernel"


REFUSALS = [
    pytest.param("kernels", ["--quiet", "--install"], "Please install toolkit, nnae or nnrt version 8.1.RC1", id="kernels-without-toolkit"),
    pytest.param("toolkit", [], "ERR_NO:0x0004;ERR_DES: Unrecognized parameters.", id="no-option"),
    pytest.param("toolkit", ["--quiet"], "'--quiet' is not supported to used by this way", id="quiet-alone"),
    pytest.param("toolkit", ["--quiet", "--nonsense"], "Unrecognized parameters: --nonsense", id="unknown-option"),
    pytest.param("toolkit", ["--install"], "Do you accept the EULA to install CANN?[Y/N]", id="eula-without-answer"),
    pytest.param("toolkit", ["--quiet", "--upgrade"], "ERR_NO:0x0080;ERR_DES:Runfile is not installed", id="upgrade-of-nothing"),
    pytest.param("toolkit", ["--quiet", "--uninstall"], "ERR_NO:0x0080;ERR_DES:Runfile is not installed", id="uninstall-of-nothing"),
    pytest.param(
        "nnal",
        ["--quiet", "--install"],
        "Check owner failed, please check env ASCEND_TOOLKIT_HOME or ASCEND_NNAE_HOME is set.",
        id="nnal-without-environment",
    ),
]


@pytest.mark.parametrize("kind, arguments, words", REFUSALS)
def test_refusals_change_nothing(user_node, kind, arguments, words):
    before = user_node.snapshot()
    if arguments and "--install" in arguments:
        arguments = [*arguments, f"--install-path={user_node.ascend}"]
    done = user_node.run(user_node.package(kind), *arguments)
    assert done.returncode == 1
    assert_line(done, words)
    changed = {path for path, state in user_node.snapshot().items() if before.get(path) != state}
    assert {path for path in changed if not path.startswith("home/var") and path != "tmp"} == set()


@pytest.mark.parametrize(
    "kind, words",
    [
        pytest.param("toolkit", "the architecture of the run package is inconsistent", id="toolkit"),
        pytest.param("nnal", f"pkg arch {OTHER_ARCH} is not consistent", id="nnal"),
    ],
)
def test_packages_of_another_architecture_refuse(shared_node, kind, words):
    package = shared_node.package(kind, arch=OTHER_ARCH)
    done = shared_node.run(package, "--quiet", "--upgrade" if kind == "toolkit" else "--install", env=shared_node.toolkit_environment())
    assert done.returncode == 1
    assert_line(done, words)


def test_the_eula_is_accepted_on_stdin(user_node):
    assert user_node.install("toolkit", "--install", f"--install-path={user_node.ascend}", stdin="y\n").returncode == 0


def test_the_same_version_again_refuses_and_names_it(shared_node):
    for kind in ("toolkit", "kernels"):
        done = shared_node.install(kind)
        assert done.returncode == 1
        assert_line(done, "already installed")


def test_a_damaged_package_fails_its_check_and_its_installation(user_node):
    package = user_node.package("toolkit")
    data = bytearray(package.read_bytes())
    data[-2000] ^= 0xFF
    package.write_bytes(data)
    for arguments in (["--check"], ["--quiet", "--install", f"--install-path={user_node.ascend}"]):
        done = user_node.run(package, *arguments)
        assert done.returncode == 2
        assert "Error in SHA256 checksums" in done.stderr
    assert not user_node.toolkit.exists()


def test_header_options(user_node, tmp_path):
    package = user_node.package("toolkit")
    assert "All good." in user_node.run(package, "--check").stdout
    assert "Identification: ASCEND_RUN_PACKAGE" in user_node.run(package, "--info").stdout
    assert " install.sh\n" in user_node.run(package, "--list").stdout
    assert "--install-for-all" in user_node.run(package, "--help").stdout
    assert "8.1.RC1" in user_node.run(package, "--version").stdout
    assert user_node.run(package, "--noexec").returncode == 1
    assert user_node.run(package, "--noexec", f"--extract={tmp_path}/unpacked").returncode == 0
    assert (tmp_path / "unpacked/install.sh").is_file()
    assert not user_node.toolkit.exists()


def test_an_interrupted_toolkit_has_no_record_and_can_be_installed_again(user_node):
    fault = user_node.fault("toolkit.kill", "hccl")
    done = user_node.install("toolkit")
    assert done.returncode not in (0, 1, 2)
    assert (user_node.toolkit / "8.1.RC1/hccl/version.info").is_file()
    assert not (user_node.toolkit / "8.1.RC1" / FORM / "ascend_toolkit_install.info").exists()
    fault.unlink()
    assert user_node.install("toolkit").returncode == 0


@pytest.mark.parametrize("fault, code", [("toolkit.fail", 1), ("toolkit.lie", 0)])
def test_exit_codes_may_lie_but_the_disk_does_not(user_node, fault, code):
    user_node.fault(fault)
    done = user_node.install("toolkit")
    assert done.returncode == code
    assert not (user_node.toolkit / "8.1.RC1" / FORM / "ascend_toolkit_install.info").exists()


def test_too_little_space_is_refused(user_node):
    user_node.fault("toolkit.free-mb", "3")
    done = user_node.install("toolkit")
    assert done.returncode == 1
    assert_line(done, "is 3M, at least")


@pytest.mark.parametrize("upgraded", [False, True])
def test_removing_the_toolkit_takes_the_kernels_along(cann_node, upgraded):
    if upgraded:
        assert cann_node.install("toolkit", "--quiet", "--upgrade").returncode == 0
    script = cann_node.toolkit / "8.1.RC1" / FORM / "script/uninstall.sh"
    assert script.parent == (cann_node.toolkit / "latest" / FORM / "script").resolve()
    done = cann_node.run(script)
    assert done.returncode == 0
    assert_line(done, "toolkit uninstall success")
    assert "opp_kernel package uninstalled" in done.stdout
    assert not cann_node.toolkit.exists()
    assert not (cann_node.root / "home/Ascend/ascend_cann_install.info").exists()


def test_the_uninstaller_says_success_though_a_part_stayed(cann_node):
    cann_node.fault("hccl.uninstall-fail")
    done = cann_node.run(cann_node.toolkit / "8.1.RC1" / FORM / "script/uninstall.sh")
    assert done.returncode == 0
    assert_line(done, "toolkit uninstall success")
    assert (cann_node.toolkit / "8.1.RC1" / FORM / "lib64/libhccl.so").is_file()


def test_cann_uninstall_takes_no_argument(shared_node):
    done = shared_node.run(shared_node.toolkit / "8.1.RC1/cann_uninstall.sh", "--quiet")
    assert done.returncode == 1
    assert_line(done, "--quiet, parameter is not supported.")


def test_kernels_alone_can_go(cann_node):
    done = cann_node.run(cann_node.package("kernels"), "--uninstall", "--quiet")
    assert done.returncode == 0
    assert not (cann_node.toolkit / "8.1.RC1/opp_kernel").exists()
    assert "opp_kernel" not in (cann_node.toolkit / "latest/version.cfg").read_text()
    assert "opp_kernel" not in (cann_node.toolkit / "8.1.RC1/cann_uninstall.sh").read_text()
    assert (cann_node.toolkit / "8.1.RC1/opp/version.info").is_file()


def test_two_versions_stand_side_by_side_and_latest_is_the_last(cann_node):
    assert cann_node.run(cann_node.package("toolkit", CANN_8_2), "--quiet", "--install").returncode == 0
    latest = cann_node.toolkit / "latest"
    assert os.readlink(latest / "runtime") == "../8.2.RC1/runtime"
    assert (cann_node.toolkit / "8.1.RC1/runtime/version.info").is_file()
    cfg = (latest / "version.cfg").read_text()
    assert "runtime_running_version=[7.8.0.1.231:8.2.RC1]\n" in cfg
    assert "runtime_installed_version=[7.7.0.1.238:8.1.RC1],[7.8.0.1.231:8.2.RC1]\n" in cfg
    assert cann_node.run(cann_node.toolkit / "8.1.RC1" / FORM / "script/uninstall.sh").returncode == 0
    assert not (cann_node.toolkit / "8.1.RC1").exists()
    assert os.readlink(latest / "runtime") == "../8.2.RC1/runtime"
    assert "8.1.RC1" not in (latest / "version.cfg").read_text()


def sourced(*lines, env=None):
    """The environment of a clean bash after these lines."""
    script = "\n".join(lines) + "\nenv -0"
    done = subprocess.run(
        ["bash", "-c", script], env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", **(env or {})}, capture_output=True, text=True, check=True
    )
    return dict(item.split("=", 1) for item in done.stdout.split("\0") if "=" in item)


def test_set_env_does_what_the_vendors_does(shared_node):
    script = f"source {shared_node.toolkit}/set_env.sh"
    once = sourced(script)
    home = str(shared_node.toolkit / "latest")
    assert {name: once[name] for name in ("ASCEND_TOOLKIT_HOME", "ASCEND_HOME_PATH", "ASCEND_AICPU_PATH", "ASCEND_OPP_PATH", "TOOLCHAIN_HOME")} == {
        "ASCEND_TOOLKIT_HOME": home,
        "ASCEND_HOME_PATH": home,
        "ASCEND_AICPU_PATH": home,
        "ASCEND_OPP_PATH": f"{home}/opp",
        "TOOLCHAIN_HOME": f"{home}/toolkit",
    }
    assert (
        once["LD_LIBRARY_PATH"]
        == ":".join(
            f"{home}/{path}"
            for path in (
                "tools/aml/lib64",
                "tools/aml/lib64/plugin",
                "lib64",
                "lib64/plugin/opskernel",
                "lib64/plugin/nnengine",
                f"opp/built-in/op_impl/ai_core/tbe/op_tiling/lib/linux/{ARCH}",
            )
        )
        + ":"
    )
    assert "/driver/" not in once["LD_LIBRARY_PATH"]
    twice = sourced(script, script)
    assert twice["LD_LIBRARY_PATH"].split(":").count(f"{home}/lib64") == 2
    version = sourced(f"source {shared_node.toolkit}/8.1.RC1/{FORM}/script/set_env.sh")
    assert version["ASCEND_TOOLKIT_HOME"] == str(shared_node.toolkit / "8.1.RC1")


def test_nnal_installs_replaces_and_guesses_the_abi(cann_node, tmp_path):
    atb = cann_node.ascend / "nnal/atb"
    done = cann_node.install("nnal")
    assert done.returncode == 0
    assert_line(done, "Ascend-cann-atb install success!")
    assert os.readlink(atb / "latest") == "8.1.RC1"
    assert (atb / "8.1.RC1/version.info").read_text().splitlines()[1] == "    Ascend-cann-atb Version : 8.1.RC1.B150"
    assert (atb / "8.1.RC1/atb/cxx_abi_0/lib/libatb.so").is_file() and (atb / "8.1.RC1/atb/cxx_abi_1/lib/libatb.so").is_file()
    again = cann_node.install("nnal")
    assert again.returncode == 0
    assert_line(again, "The installation directory exists, uninstall first..")

    script = f"source {atb}/set_env.sh"
    assert sourced(script + " --cxx_abi=0")["ATB_HOME_PATH"] == f"{atb}/latest/atb/cxx_abi_0"
    # python3 without torch means 1; a torch of the old ABI means 0.
    assert sourced(script)["ATB_HOME_PATH"] == f"{atb}/latest/atb/cxx_abi_1"
    (tmp_path / "torch.py").write_text("def compiled_with_cxx11_abi():\n    return False\n")
    environment = sourced(script, env={"PYTHONPATH": str(tmp_path)})
    assert environment["ATB_HOME_PATH"] == f"{atb}/latest/atb/cxx_abi_0"
    assert environment["ATB_OPSRUNNER_KERNEL_CACHE_GLOABL_COUNT"] == "5" and environment["LCCL_PARALLEL"] == "0"
    assert environment["LD_LIBRARY_PATH"].endswith(":")

    done = cann_node.run(atb / "8.1.RC1/scripts/uninstall.sh")
    assert done.returncode == 0
    assert not (cann_node.ascend / "nnal").exists()


def test_every_cann_package_says_in_its_log_that_it_is_simulated(cann_node):
    assert cann_node.install("nnal").returncode == 0
    logs = list((cann_node.root / "home/var/log").rglob("*_install.log"))
    assert len(logs) == 3
    for log in logs:
        assert "[npuops simulator]" in log.read_text()


def test_packages_are_the_same_bytes_every_time(user_node):
    first = user_node.package("toolkit", CANN_8_1).read_bytes()
    assert user_node.package("toolkit", CANN_8_1).read_bytes() == first
