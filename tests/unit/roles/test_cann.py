"""What the role cann finds missing, what it says of it, and the scripts that it lays."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess

import pytest

from tests.unit.roles.role_vars import NO_CANN, Role, npu, tree

ROLE = Role("cann")
LIBHCCL = {
    "id": "ascend_env_libhccl", "severity": "error", "observed": "libhccl.so is in none of the 9 folders of LD_LIBRARY_PATH",
    "expected": "libhccl.so in /usr/local/Ascend/ascend-toolkit/latest/lib64 (the toolkit brings it)", "repair": "install the CANN toolkit 8.1.RC1 again",
}
LIBATB = {**LIBHCCL, "id": "ascend_env_libatb", "observed": "libatb.so is in none of the 9 folders of LD_LIBRARY_PATH"}


def cann(*trees, **nnal) -> dict:
    return {"cann": {"trees": list(trees)}, "nnal": nnal}


@pytest.mark.parametrize("node, given, needed", [
    pytest.param({}, {}, [], id="as-wanted"),
    pytest.param(NO_CANN, {}, ["toolkit", "kernels", "nnal"], id="bare"),
    pytest.param(NO_CANN, {"cann_packages": ["nnal", "toolkit"]}, ["toolkit", "nnal"], id="vendors-order"),
    pytest.param(cann(tree("8.0.0")), {}, ["toolkit", "kernels"], id="another-version"),
    pytest.param(cann(tree("8.3.RC1"), tree()), {}, [], id="another-version-beside"),
    pytest.param(cann(tree(kernels=None, kernels_state="absent")), {}, ["kernels"], id="kernels"),
    pytest.param(cann(tree(kernels={"version": "8.1.RC1", "chips": ["310p"]})), {}, ["kernels"], id="kernels-of-another-chip"),
    pytest.param(cann(tree(toolkit_state="partial", toolkit_reason="hccl is missing")), {}, ["toolkit"], id="interrupted"),
    pytest.param(cann(tree(), version="8.0.0"), {}, ["nnal"], id="older-nnal"),
    pytest.param(cann(tree(), complete=False), {}, ["nnal"], id="half-nnal"),
    pytest.param({}, {"cann_force": "true"}, ["toolkit", "kernels", "nnal"], id="force"),
])
def test_needed(node, given, needed):
    assert ROLE.value("__cann_needed", npu_node=npu(**node), **given) == needed


@pytest.mark.parametrize("given, kernels", [
    pytest.param({}, "ascend/Ascend-cann-kernels-910b_8.1.RC1_linux-aarch64.run", id="detected-chip"),
    pytest.param({"cann_chip": "310p"}, "ascend/Ascend-cann-kernels-310p_8.1.RC1_linux-aarch64.run", id="chosen-chip"),
    pytest.param({"cann_version": "8.3.RC1"}, "ascend/Ascend-cann-kernels-910b_8.3.RC1_linux-aarch64.run", id="last-with-kernels"),
    pytest.param({"cann_version": "8.5.0"}, "ascend/Ascend-cann-910b-ops_8.5.0_linux-aarch64.run", id="first-with-ops"),
    pytest.param({"cann_files": {"kernels": "ascend/mine.run"}}, "ascend/mine.run", id="chosen-file"),
])
def test_names_in_the_media(given, kernels):
    names = ROLE.value("__cann_files", npu_node=npu(), **given)
    version = given.get("cann_version", "8.1.RC1")
    assert names == {
        "toolkit": f"ascend/Ascend-cann-toolkit_{version}_linux-aarch64.run",
        "kernels": kernels,
        "nnal": f"ascend/Ascend-cann-nnal_{version}_linux-aarch64.run",
    }


@pytest.mark.parametrize("node, given, failed", [
    pytest.param({}, {}, {}, id="finished-node-needs-no-licence"),
    pytest.param(NO_CANN, {"cann_accept_eula": True}, {}, id="bare"),
    pytest.param(NO_CANN, {"npu_accept_eula": "false"}, {
        "cann-eula": "toolkit, kernels, nnal of CANN 8.1.RC1 must be installed, and Huawei's licence is not accepted",
    }, id="licence"),
    pytest.param({"chip_family": None, "reason": "no NPU"}, {}, {
        "cann-eula": "kernels of CANN 8.1.RC1 must be installed, and Huawei's licence is not accepted",
        "cann-chip": "the chip of this node is not known: no NPU",
    }, id="unknown-chip"),
    pytest.param({"chip_family": None}, {"cann_packages": ["toolkit"]}, {}, id="no-kernels-wanted"),
    pytest.param({"cann": {"latest": "8.2.RC1", "trees": [tree("8.2.RC1"), tree()]}}, {}, {
        "cann-latest": "CANN 8.1.RC1 is installed, but /usr/local/Ascend/ascend-toolkit/latest stands for 8.2.RC1",
    }, id="latest-is-another"),
    pytest.param({"cann": {"latest": "8.2.RC1", "trees": [tree("8.2.RC1")]}}, {"cann_accept_eula": True}, {}, id="latest-will-be-ours"),
])
def test_checks(node, given, failed):
    found = ROLE.failed("__cann_checks", npu_node=npu(**node), **given)
    assert {name: check["observed"] for name, check in found.items()} == failed
    assert all(check["expected"] and check["repair"] for check in found.values())


@pytest.mark.parametrize("node, environment, given, row", [
    pytest.param({}, {}, {}, ("toolkit 8.1.RC1, kernels 8.1.RC1, nnal 8.1.RC1", "ok", ""), id="right"),
    pytest.param(NO_CANN, {"found": False, "reason": "none"}, {},
                 ("toolkit none, kernels none, nnal none", "missing", "no CANN is installed below /usr/local/Ascend; no NNAL is installed"), id="bare"),
    pytest.param(cann(tree(kernels=None, kernels_state="absent", kernels_reason="no kernels are installed")), {}, {},
                 ("toolkit 8.1.RC1, kernels none, nnal 8.1.RC1", "different", "no kernels are installed"), id="kernels"),
    pytest.param({}, {"found": False, "reason": "set_env.sh is missing"}, {},
                 ("toolkit 8.1.RC1, kernels 8.1.RC1, nnal 8.1.RC1", "failed", "set_env.sh is missing"), id="no-environment"),
    pytest.param({}, {"problems": [LIBHCCL]}, {}, (
        "toolkit 8.1.RC1, kernels 8.1.RC1, nnal 8.1.RC1", "failed",
        "libhccl.so is in none of the 9 folders of LD_LIBRARY_PATH; "
        "expected libhccl.so in /usr/local/Ascend/ascend-toolkit/latest/lib64 (the toolkit brings it); "
        "install the CANN toolkit 8.1.RC1 again",
    ), id="libhccl"),
    pytest.param({}, {"problems": [LIBATB]}, {"cann_packages": ["toolkit"]}, ("toolkit 8.1.RC1", "ok", ""), id="libatb-not-wanted"),
    pytest.param({}, {"problems": [{**LIBHCCL, "severity": "warning"}]}, {}, ("toolkit 8.1.RC1, kernels 8.1.RC1, nnal 8.1.RC1", "ok", ""), id="warning"),
    pytest.param({}, {}, {"cann_looked": False, "cann_profile": ""}, (
        "toolkit 8.1.RC1, kernels 8.1.RC1, nnal 8.1.RC1", "failed",
        "/etc/npuops/npu.env, /usr/local/bin/npu-exec is not as this role writes it; run --tags cann",
    ), id="files-gone"),
])
def test_row(node, environment, given, row):
    environment = {"found": True, "reason": None, "problems": [], "env_file": "A=\"1\"\n", **environment}
    stage = ROLE.value("__cann_stage", npu_node=npu(**node), __cann_register_environment=environment, **{"cann_looked": True, **given})
    assert stage["label"] == "CANN"
    assert (stage["found"], stage["state"], stage["note"]) == row


PAIR = {"id": "ascend_pair_hdk", "severity": "warning", "observed": "driver 24.1.0 is older than 25.0.rc1.1, and CANN 8.1.RC1 was published with HDK 25.0.RC1"}


@pytest.mark.parametrize("problems, trees, told", [
    ([PAIR], [tree()], [PAIR]), ([{**PAIR, "observed": "CANN 8.1.RC12 and others"}], [tree()], []), ([PAIR], [tree(toolkit_state="partial")], []),
    ([{**PAIR, "id": "ascend_health", "observed": "CANN 8.1.RC1"}], [tree()], []),
])
def test_pairs_are_told_for_the_wanted_version_once(problems, trees, told):
    assert ROLE.value("__cann_pairs", npu_node=npu(problems=problems, cann={"trees": trees})) == told


@pytest.mark.parametrize("role", ["cann", "hdk"])
@pytest.mark.parametrize("given, later", [
    ({"ansible_run_tags": ["all"]}, False), ({"ansible_run_tags": ["all"], "npu_preflight_done": True}, True),
    ({"ansible_run_tags": ["cann"], "npu_preflight_done": True}, False), ({"ansible_run_tags": ["cann", "ktransformers"], "npu_preflight_done": True}, True),
    ({"ansible_run_tags": ["all"], "ansible_skip_tags": ["ktransformers"], "npu_preflight_done": True}, False),
])
def test_units_are_left_to_the_stage_that_starts_them(role, given, later):
    assert Role(role).value(f"__{role}_served_later", **given) is later


def test_files_are_seen_by_place_content_and_mode():
    environment = {"found": True, "reason": None, "problems": [], "env_file": "A=\"1\"\n"}
    sha256 = hashlib.sha256(b"A=\"1\"\n").hexdigest()
    given = {"npu_node": npu(), "cann_exec": "", "cann_profile": ""}
    for seen, stale in ((f"{sha256} 0644", []), (f"{sha256} 0600", ["/etc/npuops/npu.env"]), ("", ["/etc/npuops/npu.env"])):
        environment["files"] = {"/etc/npuops/npu.env": seen}
        assert ROLE.value("__cann_stale", __cann_register_environment=environment, **given) == stale


@pytest.mark.parametrize("scope, root, profile", [
    ("system", None, "/etc/profile.d/npuops.sh"), ("system", "/x/etc", "/x/etc/profile.d/npuops.sh"), ("user", None, ""),
])
def test_the_profile_is_for_system_scope(scope, root, profile):
    given = {"npu_scope": scope, **({"npu_etc_root": root} if root else {})}
    assert ROLE.value("cann_profile", **given) == profile


class Laid:
    """The scripts as the role writes them, for an environment file in a folder of the test."""

    def __init__(self, folder):
        self.env_file = folder / "a folder" / "npu.env"
        self.exec = folder / "npu-exec"
        self.profile = folder / "npuops.sh"
        environment = {"found": True, "reason": None, "problems": [], "env_file": ""}
        given = {"npu_node": npu(), "__cann_register_environment": environment, "cann_env_file": str(self.env_file), "cann_exec": str(self.exec)}
        self.env_file.parent.mkdir()
        for item in ROLE.value("__cann_our_files", cann_profile=str(self.profile), **given):
            path = folder / item["path"]
            path.write_text(item["text"])
            path.chmod(int(ROLE.value("__cann_modes", cann_profile=str(self.profile), **given)[item["path"]], 8))
        self.env_file.write_text('# comment\nPATH="/ascend/bin:/usr/bin:/bin"\nLD_LIBRARY_PATH="/ascend/lib"\nODD="two words, a \\$ and a \\""\n')

    def run(self, *command, **environment):
        environment = {"PATH": "/mine:/usr/bin:/bin", **environment}
        return subprocess.run([str(part) for part in command], capture_output=True, text=True, env=environment, check=False)


@pytest.fixture
def laid(tmp_path):
    return Laid(tmp_path)


def test_npu_exec_runs_in_the_environment_of_the_file(laid):
    done = laid.run(laid.exec, "bash", "-c", 'echo "$PATH|$LD_LIBRARY_PATH|$ODD|$1|$2"', "name", "a b", "*", LD_LIBRARY_PATH="/stale")
    assert (done.stdout, done.stderr, done.returncode) == ('/ascend/bin:/usr/bin:/bin|/ascend/lib|two words, a $ and a "|a b|*\n', "", 0)


@pytest.mark.parametrize("code", [0, 1, 42, 143])
def test_npu_exec_ends_with_the_exit_code_of_the_command(laid, code):
    assert laid.run(laid.exec, "bash", "-c", f"exit {code}").returncode == code


def test_npu_exec_becomes_the_command(laid):
    done = laid.run("bash", "-c", f'echo $$; exec "{laid.exec}" bash -c "echo \\$\\$"')
    before, after = done.stdout.split()
    assert before == after


def test_npu_exec_without_a_command_says_how(laid):
    done = laid.run(laid.exec)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"usage: npu-exec COMMAND [ARGUMENT...]\nRuns COMMAND in the Ascend environment of {laid.env_file}, and ends with its exit code.\n"


def test_npu_exec_without_the_environment_names_it(laid):
    laid.env_file.unlink()
    done = laid.run(laid.exec, "true")
    assert done.returncode == 78
    assert done.stderr == f"npu-exec: {laid.env_file} cannot be read; write it with: ansible-playbook site.yml -i inventory --tags cann\n"


def test_npu_exec_with_an_unknown_command(laid):
    assert laid.run(laid.exec, "no-such-program").returncode == 127


def test_only_the_wrapper_is_executable(laid):
    assert stat.S_IMODE(os.stat(laid.exec).st_mode) == 0o755
    assert stat.S_IMODE(os.stat(laid.profile).st_mode) == 0o644


@pytest.mark.parametrize("shell", [name for name in ("bash", "dash", "busybox") if shutil.which(name)])
def test_the_profile_keeps_the_systems_programs_first_and_is_read_once(laid, shell):
    command = [shell] + (["sh"] if shell == "busybox" else [])
    show = 'echo "$PATH|$LD_LIBRARY_PATH|${PYTHONPATH-}|$ODD|${npuops_path-gone}"'
    done = laid.run(*command, "-euc", f'. "{laid.profile}"; . "{laid.profile}"; {show}', LD_LIBRARY_PATH="/mine/lib")
    assert (done.stdout, done.stderr) == ('/mine:/usr/bin:/bin:/ascend/bin:/usr/bin:/bin|/ascend/lib:/mine/lib||two words, a $ and a "|gone\n', "")


def test_the_profile_without_the_environment_is_silent(laid):
    laid.env_file.unlink()
    done = laid.run("bash", "-euc", f'. "{laid.profile}"; echo "$PATH"')
    assert (done.stdout, done.stderr) == ("/mine:/usr/bin:/bin\n", "")
