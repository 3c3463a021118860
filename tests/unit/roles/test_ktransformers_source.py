"""Whether a source tree is one that can be built and started, and what its environment has."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from ansible_collections.npuops.ktransformers.plugins.module_utils import engine_source

from tests.unit.roles.role_vars import Role

RULE = "ktransformers/optimize/optimize_rules/DeepSeek-V3-Chat-800IA2-npu.yaml"
FILES = ["ktransformers/local_chat.py", "ktransformers/server/main.py", RULE, "install.sh",
         "third_party/llama.cpp/CMakeLists.txt", "third_party/pybind11/setup.py"]


@pytest.fixture
def tree(tmp_path):
    for name in FILES:
        touch(tmp_path, name)
    return tmp_path


def touch(tree: Path, name: str, text: str = "") -> None:
    (tree / name).parent.mkdir(parents=True, exist_ok=True)
    (tree / name).write_text(text)


def look(tree, chat="ktransformers.local_chat", server="ktransformers.server.main", rule=RULE, build=("bash", "install.sh")):
    return engine_source.look(str(tree), chat, server, rule, build)


def test_the_guides_tree_is_fine(tree):
    assert look(tree) == []


@pytest.mark.parametrize("options, without, ident, observed, repair", [
    pytest.param({"chat": "ktransformers.chat"}, None, "chat-module", "has no ktransformers.chat; its chat modules are ktransformers.local_chat",
                 "set ktransformers_module", id="chat-module"),
    pytest.param({}, "ktransformers/local_chat.py", "chat-module", "its chat modules are none", "set ktransformers_module", id="no-chat"),
    pytest.param({"server": "ktransformers.serve"}, None, "server-module", "the tree has no ktransformers.serve",
                 "ktransformers_service to false", id="server"),
    pytest.param({"rule": "rules/x.yaml"}, None, "rule", f"rules/x.yaml; the tree's rules for NPUs are {RULE}", "set ktransformers_optimize_config_path",
                 id="rule"),
    pytest.param({}, "third_party/pybind11/setup.py", "submodules", "third_party/pybind11 of the tree have no files", "git submodule update", id="submodules"),
    pytest.param({"build": ["bash", "install_for_npu.sh"]}, None, "build", "the tree has no install_for_npu.sh; it has install.sh", "set ktransformers_build",
                 id="build"),
])
def test_what_is_missing_is_named_with_what_there_is(tree, options, without, ident, observed, repair):
    if without:
        (tree / without).unlink()
    problem, = look(tree, **options)
    assert problem["id"] == f"ktransformers-{ident}"
    assert observed in problem["observed"]
    assert repair in problem["repair"]


def test_all_problems_are_told_at_once(tmp_path):
    assert [one["id"].partition("-")[2] for one in look(tmp_path)] == ["chat-module", "server-module", "rule", "submodules", "build"]


def test_no_server_is_looked_for_when_none_is_wanted(tree):
    (tree / "ktransformers/server/main.py").unlink()
    assert look(tree, server=None) == []


def test_the_chat_for_cuda_is_refused_beside_the_one_for_npus(tree):
    touch(tree, "ktransformers/local_chat_npu.py")
    touch(tree, "ktransformers/local_chat_test.py")
    problem, = look(tree)
    assert "is the one for CUDA" in problem["observed"]
    assert look(tree, chat="ktransformers.local_chat_npu") == []
    assert engine_source.chat_modules(str(tree)) == ["ktransformers.local_chat", "ktransformers.local_chat_npu"]


def test_a_source_that_is_known_to_be_bad_is_refused_by_name(tree, monkeypatch):
    touch(tree, "ktransformers/models/custom_cache.py", "bad")
    name, _sha256, words = engine_source.KNOWN_BAD[0]
    monkeypatch.setattr(engine_source, "KNOWN_BAD", [(name, "0" * 64, "another"), (name, hashlib.sha256(b"bad").hexdigest(), words)])
    problem, = look(tree)
    assert problem["observed"] == f"{tree} is branch support-npu as published (b9828153): it never writes its NPU cache, and answers garbage"


@pytest.mark.parametrize("build, script", [
    (["bash", "install.sh"], "install.sh"), (["bash", "ci/build.sh", "--x"], "ci/build.sh"), (["python3", "-m", "pip", "install", "."], None),
    (["bash", "/somewhere/else.sh"], None), ([], None)])
def test_build_script(build, script):
    assert engine_source.build_script(build) == script


def test_an_absolute_rule_stays(tree):
    assert engine_source.rule_path("/opt/kt", "./rules/a.yaml") == "/opt/kt/rules/a.yaml"
    assert engine_source.rule_path("/opt/kt", "/etc/rule.yaml") == "/etc/rule.yaml"


def test_environment(tmp_path):
    python = tmp_path / "envs/py311/bin/python"
    nothing = {"found": False, "python": None, "torch_npu": None, "ktransformers": None, "extension": False}
    assert engine_source.environment(str(python)) == nothing
    packages = tmp_path / "envs/py311/lib/python3.11/site-packages"
    touch(python.parent, "python")
    touch(packages, "torch_npu-2.3.1.post6.dist-info/RECORD", "a")
    touch(packages, "ktransformers-0.2.4+npu2.3.1.dist-info/METADATA")
    touch(packages, "cpuinfer_ext.cpython-311-aarch64-linux-gnu.so")
    found = engine_source.environment(str(python))
    assert (found["python"], found["extension"]) == ("python3.11", True)
    assert found["torch_npu"]["version"] == "2.3.1.post6"
    assert found["ktransformers"] == {"version": "0.2.4+npu2.3.1", "record": None}
    before = found["torch_npu"]["record"]
    touch(packages, "torch_npu-2.3.1.post6.dist-info/RECORD", "b")
    assert engine_source.environment(str(python))["torch_npu"]["record"] != before


@pytest.mark.parametrize("described, parts, missing", [
    pytest.param([{"lacks": ["third_party/llama.cpp", "third_party/pybind11", "third_party/docs"]}], [], "third_party/llama.cpp, third_party/pybind11",
                 id="nothing-beside-it"),
    pytest.param([{"lacks": ["third_party/llama.cpp"]}], [{"name": "source/kt.submodules/x.tar.gz", "commit": "a" * 40}], None, id="beside-it"),
    pytest.param([{"lacks": None}], [], None, id="whole"),
    pytest.param([], [], None, id="from-git"),
])
def test_a_source_without_its_submodules_is_told_before_anything_is_changed(described, parts, missing):
    failed = Role("ktransformers").failed(
        "__ktransformers_option_checks", __ktransformers_register_described={"files": described}, __ktransformers_register_parts={"files": parts},
        ktransformers_submodules={"third_party/llama.cpp": "a" * 40}, ktransformers_source="source/kt.tar.gz", npu_stack_pins={},
    )
    assert list(failed) == (["ktransformers-submodules"] if missing else [])
    if missing:
        assert failed["ktransformers-submodules"]["observed"] == (
            f"source/kt.tar.gz holds no files of {missing}, and source/kt.submodules/ of the media does not supply them")
