# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import hashlib

import pytest
from ansible_collections.npuops.ktransformers.plugins.module_utils import python_env
from ansible_collections.npuops.ktransformers.plugins.module_utils.python_env import PythonEnvError
from ansible_collections.npuops.ktransformers.plugins.modules import python_wheel

OURS = {"version": "2.3.1.post6", "sha256": "aa", "url": "file:///var/lib/npuops/torch_npu/torch_npu-2.3.1.post6-cp311-cp311-linux_aarch64.whl"}
PUBLIC = {"version": "2.3.1.post6", "sha256": None, "url": None}
FOLDER = "/var/lib/npuops/torch_npu"


def env(there):
    return {"found": True, "reason": None, "packages": {"torch-npu": there} if there else {}}


@pytest.mark.parametrize(
    "there, reason",
    [
        pytest.param(OURS, None, id="the-same-wheel"),
        pytest.param(None, "torch-npu is not installed", id="none"),
        pytest.param(PUBLIC, "torch-npu 2.3.1.post6 is installed, but from another wheel", id="same-version-from-an-index"),
        pytest.param({**OURS, "sha256": "bb"}, "torch-npu 2.3.1.post6 is installed, but from another wheel", id="another-build"),
    ],
)
def test_reason_to_install(there, reason):
    assert python_wheel.reason_to_install(env(there), "torch-npu", "aa") == reason


@pytest.mark.parametrize(
    "there, reason",
    [
        pytest.param(OURS, f"torch-npu 2.3.1.post6 was installed from {FOLDER}", id="ours"),
        pytest.param(PUBLIC, None, id="somebody-elses"),
        pytest.param({**OURS, "url": "file:///home/me/torch_npu.whl"}, None, id="by-hand"),
        pytest.param(None, None, id="none"),
    ],
)
def test_reason_to_remove(there, reason):
    assert python_wheel.reason_to_remove(env(there), "torch-npu", FOLDER) == reason


@pytest.fixture
def node(tmp_path, monkeypatch):
    """An environment that pip changes as `outcome` says; the commands that were run."""
    wheel = tmp_path / "torch_npu-2.3.1.post6-cp311-cp311-linux_aarch64.whl"
    wheel.write_bytes(b"wheel")

    class Node:
        there, outcome, code = None, OURS, 0
        commands = []
        params = {"python": "/env/bin/python", "name": "torch_npu", "state": "present", "src": str(wheel), "sha256": "aa", "home": str(tmp_path / "home")}

        def run(self, command, environ_update=None):
            self.commands = [*self.commands, command]
            if not self.code:
                self.there = self.outcome
            return self.code, "", "hint\nERROR: torch_npu is not a supported wheel on this platform.\n"

        def bring(self, check=False, **options):
            return python_wheel.bring({**self.params, **options}, check, self.run, lambda path: "aa")

    it = Node()
    monkeypatch.setattr(python_env, "probe", lambda run, python: env(it.there))
    return it


def test_the_wheel_is_installed_once(node):
    first = node.bring()
    assert (first["changed"], first["reason"]) == (True, "torch-npu is not installed")
    assert node.commands == [
        ["/env/bin/python", "-I", "-m", "pip", "install", "--no-index", "--no-deps", "--force-reinstall", f"file://{node.params['src']}#sha256=aa"]
    ]
    assert first["diff"] == {"before": "", "after": "torch-npu==2.3.1.post6 sha256:aa\n"}
    again = node.bring()
    assert (again["changed"], len(node.commands), again["version_before"]) == (False, 1, "2.3.1.post6")


def test_check_mode_needs_no_wheel(node):
    planned = node.bring(check=True, src="/nowhere/torch_npu-2.3.1.whl")
    assert planned["changed"] and node.commands == []
    assert planned["diff"] == {"before": "", "after": "torch-npu torch_npu-2.3.1.whl sha256:aa\n"}


@pytest.mark.parametrize(
    "change, message",
    [
        pytest.param({"src": "/nowhere/a.whl"}, "/nowhere/a.whl is missing or not the wheel with sha256 aa; bring it to the node first.", id="missing"),
        pytest.param({"sha256": hashlib.sha256(b"").hexdigest()}, "is missing or not the wheel with sha256 e3b0", id="another-wheel"),
    ],
)
def test_a_wrong_file_is_refused(node, change, message):
    with pytest.raises(PythonEnvError) as error:
        node.bring(**change)
    assert message in str(error.value) and node.commands == []


def test_pips_first_error_is_told(node):
    node.code = 1
    with pytest.raises(PythonEnvError, match="ended with 1: ERROR: torch_npu is not a supported wheel on this platform"):
        node.bring()


def test_a_pip_that_notes_nothing(node):
    node.outcome = PUBLIC
    with pytest.raises(PythonEnvError, match="its version is too old to note where a wheel came from"):
        node.bring()


def test_only_our_wheel_is_removed(node):
    node.there, node.outcome = PUBLIC, None
    assert node.bring(state="absent", src=f"{FOLDER}/any.whl", sha256=None)["changed"] is False
    node.there = OURS
    assert node.bring(state="absent", src=f"{FOLDER}/any.whl", sha256=None)["changed"]
    assert node.commands == [["/env/bin/python", "-I", "-m", "pip", "uninstall", "--yes", "torch-npu"]]
