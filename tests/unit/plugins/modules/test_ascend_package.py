# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
from ansible_collections.npuops.ktransformers.plugins.modules import ascend_package

from tests.unit.plugins.module_utils.ascend.node_tree import ARCH, DRIVER_PACKAGE, TOOLKIT_PACKAGE, NodeTree
from tests.unit.plugins.module_utils.ascend.run_module import call


@pytest.fixture
def tree(tmp_path):
    return NodeTree(tmp_path / "node")


def run(tree, name, check=False, kind="toolkit", there=True, **options):
    src = tree.package(name, options.pop("brings", None), **options.pop("package", {})) if there else f"{tree.root}/media/{name}"
    options = {"kind": kind, "src": src, "install_path": str(tree.ascend), "accept_eula": True, **tree.options, **options}
    return call("ascend_package", options, check)


def payload(tree, version="8.1.RC1"):
    brings = tree.payload()
    brings.toolkit(version)
    return brings


def test_an_installation_and_the_run_after_it(tree):
    answer = run(tree, TOOLKIT_PACKAGE, brings=payload(tree))
    assert {
        key: answer[key]
        for key in ("changed", "kind", "reason", "version_before", "version_after", "problems", "installer_rc", "reboot_required", "reboot_reason")
    } == {
        "changed": True,
        "kind": "toolkit",
        "reason": "toolkit is not installed",
        "version_before": None,
        "version_after": "8.1.RC1",
        "problems": [],
        "installer_rc": 0,
        "reboot_required": False,
        "reboot_reason": None,
    }
    assert answer["command"] == ["bash", f"{tree.root}/media/{TOOLKIT_PACKAGE}", "--nox11", "--install", "--quiet", f"--install-path={tree.ascend}"]
    assert answer["diff"] == {"before_header": "toolkit", "after_header": "toolkit", "before": "absent\n", "after": "8.1.RC1\n"}
    assert os.path.dirname(answer["log"]) == f"{tree.roots.state}/logs"
    # The second run needs the file no more.
    os.unlink(f"{tree.root}/media/{TOOLKIT_PACKAGE}")
    answer = run(tree, TOOLKIT_PACKAGE, there=False)
    assert (answer["changed"], answer["reason"], answer["command"], answer["version_after"], answer["log"]) == (False, None, [], "8.1.RC1", None)
    assert answer["diff"]["before"] == answer["diff"]["after"] == ""


def test_check_mode_on_a_bare_node_needs_nothing(tree):
    before = sorted(tree.root.rglob("*"))
    for kind, name in (("driver", DRIVER_PACKAGE), ("toolkit", TOOLKIT_PACKAGE), ("nnal", f"Ascend-cann-nnal_8.1.RC1_linux-{ARCH}.run")):
        if kind == "driver" and os.geteuid() != 0:
            continue  # root alone may change the driver, in check mode too
        answer = run(tree, name, check=True, kind=kind, there=False)
        assert (answer["changed"], answer["reason"], answer["version_after"]) == (True, f"{kind} is not installed", name.split("_")[1])
        assert answer["diff"]["before"] == "absent\n"
    assert sorted(tree.root.rglob("*")) == before


def test_all_problems_fail_it_at_once_and_nothing_runs(tree):
    other = {"x86_64": "aarch64"}.get(ARCH, "x86_64")
    name = f"Ascend-cann-toolkit_8.1.RC1_linux-{other}.run"
    answer = run(tree, name, accept_eula=False)
    assert (answer["failed"], answer["changed"]) == (True, False)
    assert [problem["id"] for problem in answer["problems"]] == ["ascend_eula", "ascend_arch"]
    assert answer["msg"] == (
        f"toolkit is not installed, but it must not be changed yet: the licence of {name} is not accepted, expected accept_eula is true: read the licence on "
        f"https://www.hiascend.com/ and set npu_accept_eula: true; {name} is for {other}, this node is {ARCH}, expected a package for {ARCH}: "
        f"put the {ARCH} package into the media"
    )
    assert tree.calls == []


def test_problems_can_be_asked_for_in_check_mode(tree):
    answer = run(tree, TOOLKIT_PACKAGE, check=True, accept_eula=False, fail_on_problems=False)
    assert (answer.get("failed"), [problem["id"] for problem in answer["problems"]]) == (None, ["ascend_eula"])
    answer = run(tree, TOOLKIT_PACKAGE, accept_eula=False, fail_on_problems=False)
    assert answer["failed"] is True


def test_a_failing_installer(tree):
    answer = run(tree, TOOLKIT_PACKAGE, package={"prints": ("[Toolkit] [ERROR] No space left on device",), "rc": 1})
    assert answer["failed"] is True
    assert answer["msg"] == (
        "the toolkit installer returned 1, and no toolkit is there; it printed: [Toolkit] [ERROR] No space left on device; make room on the disk; "
        f"the whole log is {answer['log']}."
    )
    assert (answer["installer_rc"], answer["log_tail"], answer["version_after"]) == (1, ["[Toolkit] [ERROR] No space left on device"], None)


@pytest.mark.parametrize(
    "options, message",
    [
        pytest.param(
            {"src": "/media/driver.run"},
            "'driver.run' is not the name of an Ascend driver, firmware, toolkit, kernels or NNAL package; keep the vendor's file "
            "name, such as Ascend-cann-toolkit_8.1.RC1_linux-aarch64.run.",
            id="name",
        ),
        pytest.param(
            {"src": None}, "kind=toolkit has no src; give the path of the package (its name is enough where nothing has to be installed).", id="no-src"
        ),
    ],
)
def test_bad_options(tree, options, message):
    answer = run(tree, TOOLKIT_PACKAGE, there=False, **options)
    assert (answer["failed"], answer["msg"]) == (True, message)


def test_present_without_a_package(tree):
    answer = call("ascend_package", {"kind": "toolkit", **tree.options})
    assert (answer["failed"], answer["msg"]) == (True, "state is present but all of the following are missing: src")


def test_a_state_folder_that_cannot_be_made(tree):
    tree.write("var", "a file")
    answer = run(tree, TOOLKIT_PACKAGE, brings=payload(tree))
    # Only the log is lost: the toolkit has no reboot to remember.
    assert (answer["changed"], answer["log"]) == (True, None)


def test_removal(tree):
    tree.toolkit()
    home = tree.ascend / "ascend-toolkit/8.1.RC1"
    tree.install(f"ascend-toolkit/8.1.RC1/{ARCH}-linux/script/uninstall.sh", f"rm -rf {home}\n")
    options = {"kind": "toolkit", "state": "absent", "install_path": str(tree.ascend), **tree.options}
    answer = call("ascend_package", options, check=True)
    assert (answer["changed"], answer["version_after"], home.exists()) == (True, None, True)
    answer = call("ascend_package", options)
    assert (answer["changed"], answer["version_before"], answer["version_after"], home.exists()) == (True, "8.1.RC1", None, False)
    assert answer["diff"]["after"] == "absent\n"
    assert call("ascend_package", options)["changed"] is False


def test_a_driver_that_asks_for_a_reboot(tree, monkeypatch):
    """In this process, since only root may change a driver."""
    tree.npus()
    tree.write(
        "var/lib/dpkg/status",
        "".join(
            f"Package: {name}\nStatus: install ok installed\n\n"
            for name in (
                "dkms",
                "gcc",
                "make",
                "linux-headers-5.15.0-25-generic",
                "pciutils",
                "net-tools",
            )
        ),
    )
    brings = tree.payload()
    brings.driver()
    src = tree.package(DRIVER_PACKAGE, brings, rc=2)
    spec = ascend_package.argument_spec()
    given = {name: option.get("default") for name, option in spec.items()}
    given.update(tree.options, kind="driver", src=src, install_path=str(tree.ascend), accept_eula=True, npu_smi=f"{tree.root}/none")
    answers = {}

    class Ended(Exception):
        pass

    def module(**unused_options):
        def end(**answer):
            answers.update(answer)
            raise Ended

        return SimpleNamespace(params=given, check_mode=False, exit_json=end, fail_json=end)

    monkeypatch.setattr(ascend_package, "AnsibleModule", module)
    monkeypatch.setattr(ascend_package.os, "geteuid", lambda: 0)
    with pytest.raises(Ended):
        ascend_package.main()
    assert (answers.get("msg"), answers["changed"], answers["installer_rc"], answers["reboot_required"]) == (None, True, 2, True)
    assert call("npu_info", {**tree.options, "ascend_root": str(tree.ascend), "query_smi": False})["npu"]["reboot_reason"] == answers["reboot_reason"]
