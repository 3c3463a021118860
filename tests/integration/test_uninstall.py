"""What the stages laid can be taken off again, and the node can be deployed anew."""

from __future__ import annotations

from tests.integration.nodes import Node


def test_rollback_of_graph_sinking_and_back(deployed_node: Node, tmp_path):
    library = next((deployed_node.path / "usr/local/Ascend/ascend-toolkit/8.1.RC1").glob("*-linux/lib64/libruntime.so"))
    swapped = library.read_bytes()
    playbook = tmp_path / "rollback.yml"
    playbook.write_text(
        """
- name: Give CANN its own library back
  hosts: npu
  gather_facts: false
  tasks:
    - name: Roll back
      ansible.builtin.include_role:
        name: npuops.ktransformers.npu_graph_sink
        tasks_from: rollback
"""
    )
    first = deployed_node.play(playbook=playbook)
    assert (first.rc, first.recap("changed")) == (0, 1), first.output[-4000:]
    assert library.read_bytes() != swapped
    again = deployed_node.play(playbook=playbook)
    assert (again.rc, again.recap("changed")) == (0, 0), again.output[-4000:]
    back = deployed_node.play("--tags", "npu_graph_sink")
    assert back.rc == 0, back.output[-4000:]
    assert library.read_bytes() == swapped


def test_uninstall_wants_a_word(deployed_node: Node):
    before = deployed_node.snapshot()
    run = deployed_node.play(playbook="playbooks/uninstall.yml")
    assert run.rc != 0
    assert "npu_uninstall_confirm=true" in run.flat()
    assert deployed_node.snapshot() == before


def test_uninstall_takes_off_what_was_laid_and_nothing_else(deployed_node: Node):
    run = deployed_node.play("-e", "npu_uninstall_confirm=true", playbook="playbooks/uninstall.yml")
    assert run.rc == 0, run.output[-6000:]
    node = deployed_node.path
    ours = ["mnt/weights/DeepSeek-R1-q4km-w8a8", "opt/miniconda3", "usr/local/Ascend/ascend-toolkit/8.1.RC1", "usr/local/bin/npu-exec"]
    theirs = ["mnt/weights/DeepSeek-R1-W8A8/config.json", "mnt/weights/DeepSeek-R1-Q4_K_M", "usr/local/Ascend/driver/version.info", "usr/local/bin/npu-smi"]
    assert [name for name in ours if (node / name).exists()] == []
    assert [name for name in theirs if not (node / name).exists()] == []
    again = deployed_node.play("-e", "npu_uninstall_confirm=true", playbook="playbooks/uninstall.yml")
    assert (again.rc, again.recap("changed")) == (0, 0), again.output[-6000:]
