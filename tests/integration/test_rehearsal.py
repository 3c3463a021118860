"""The main job: a bare simulated node is deployed, stays as it is, and holds the right weights."""

from __future__ import annotations

import hashlib
import json
import re

import pytest
from safetensors import safe_open

from tests.integration.nodes import CHECKOUT, INVENTORY, Node

STAGES = ["NPU", "HDK", "CANN", "Python", "torch_npu", "merged weights", "graph sinking", "KTransformers"]
ROLES = ["host", "hdk", "conda_py311", "cann", "torch_npu_opplugin", "weights_merge", "npu_graph_sink", "ktransformers"]


def test_check_mode_on_a_bare_node_changes_nothing(bare_node: Node):
    before = bare_node.snapshot()
    run = bare_node.play("--check", "--diff")
    assert run.rc == 0, run.output[-6000:]
    assert run.recap("failed") == 0
    assert bare_node.snapshot() == before


def test_the_summary_shows_every_stage_as_right(deployed_node: Node):
    run = deployed_node.play(playbook="playbooks/verify.yml")
    assert run.rc == 0, run.output[-6000:]
    for stage in STAGES:
        assert [line for line in run.output.splitlines() if line.strip().startswith(stage) and line.rstrip().endswith("ok")], f"{stage}\n{run.output[-3000:]}"
    assert run.recap("changed") == 0


def test_a_second_run_changes_nothing(deployed_node: Node):
    before = deployed_node.snapshot()
    run = deployed_node.play()
    assert run.rc == 0, run.output[-6000:]
    assert (run.recap("changed"), run.recap("failed")) == (0, 0), run.output[-6000:]
    after = deployed_node.snapshot()
    assert {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)} <= {
        # The engine writes these on each start, as the smoke test starts it.
        name for name in after if "/ktransformers-home/" in name or name.endswith(".log")
    }


def test_check_mode_on_a_deployed_node_changes_nothing(deployed_node: Node):
    before = deployed_node.snapshot()
    run = deployed_node.play("--check", "--diff")
    assert run.rc == 0, run.output[-6000:]
    assert (run.recap("changed"), run.recap("failed")) == (0, 0), run.output[-6000:]
    assert deployed_node.snapshot() == before


def test_the_merged_folder_is_the_expected_one(deployed_node: Node):
    expected = json.loads((CHECKOUT / "tests/fixtures/weights/tiny-msmodelslim/expected-w8a8.json").read_text())["tensors"]
    found = {}
    merged = deployed_node.path / "mnt/weights/DeepSeek-R1-q4km-w8a8"
    for path in merged.rglob("*.safetensors"):
        raw = path.read_bytes()
        length = int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8 : 8 + length])
        with safe_open(str(path), framework="numpy") as reader:
            assert set(reader.keys()) == set(header) - {"__metadata__"}
        for name in set(header) - {"__metadata__"}:
            start, end = header[name]["data_offsets"]
            found[name] = {
                "dtype": header[name]["dtype"],
                "shape": header[name]["shape"],
                "sha256": hashlib.sha256(raw[8 + length + start : 8 + length + end]).hexdigest(),
            }
    assert found == {name: {key: tensor[key] for key in ("dtype", "shape", "sha256")} for name, tensor in expected.items()}
    assert json.loads((merged / "config.json").read_text())["torch_dtype"] == "float16"


def test_one_stage_by_its_tag(deployed_node: Node):
    run = deployed_node.play("--tags", "cann")
    assert run.rc == 0, run.output[-6000:]
    assert run.recap("changed") == 0
    # The options of every role are checked whatever the tags are; its tasks are not run.
    ran = re.findall(r"^TASK \[npuops\.ktransformers\.(\w+) : (?!Validating arguments)(.+?)\]", run.output, re.MULTILINE)
    assert {role for role, _ in ran} <= {"cann", "host", "common"}
    assert "cann" in dict(ran)
    # Whatever the tags are, a service that is down is started in the end: the question is asked, and no unit is ours here.
    assert [name for role, name in ran if role == "common"] == ["Note which of our units are down"]


@pytest.mark.parametrize("role", ROLES)
def test_each_role_alone_in_a_playbook(deployed_node: Node, tmp_path, role: str):
    playbook = tmp_path / "one.yml"
    playbook.write_text(
        f"""
- name: One role of the collection, as somebody else's playbook would use it
  hosts: npu
  gather_facts: true
  roles:
    - role: npuops.ktransformers.{role}
"""
    )
    run = deployed_node.play(playbook=playbook, inventory=INVENTORY)
    assert run.rc == 0, run.output[-6000:]
    assert (run.recap("changed"), run.recap("failed")) == (0, 0), run.output[-6000:]
