"""Weights in a fleet: one node merges, the others get the folder from it and from each other."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.integration.nodes import CHECKOUT, Run

PAIR = CHECKOUT / "tests" / "fixtures" / "weights" / "tiny-msmodelslim"
STAND_IN = CHECKOUT / "tests" / "fixtures" / "weights" / "stand-in"
MERGED = "weights/DeepSeek-R1-q4km-w8a8"
PLAY = """
- name: Merge once, and hand on
  hosts: npu
  gather_facts: false
  tasks:
    - name: Merge the weights
      ansible.builtin.import_role:
        name: npuops.ktransformers.weights_merge
"""

# As site.yml goes: the preflight of all stages in a play of its own, the stages later.
SITE = """
- name: Check
  hosts: npu
  gather_facts: false
  tasks:
    - name: Check the weights
      ansible.builtin.include_role:
        name: npuops.ktransformers.weights_merge
        tasks_from: preflight

    - name: Let the stages begin
      ansible.builtin.set_fact:
        npu_preflight_done: true
""" + PLAY


class Fleet:
    """Nodes that are folders below `root`; only the first one has the two halves."""

    def __init__(self, root: Path, names: list[str]) -> None:
        self.root = root
        self.names = names
        for name in names:
            (root / name / "weights").mkdir(parents=True)
        self.give_halves(names[0])
        (root / "play.yml").write_text(PLAY)
        self.variables: dict[str, object] = {
            "ansible_connection": "local",
            "ansible_python_interpreter": os.environ.get("NPUOPS_TARGET_PYTHON", sys.executable),
            "ansible_remote_tmp": str(root / "tmp"),
            "npu_scope": "user",
            "npu_state_dir": str(root) + "/{{ inventory_hostname }}/state",
            "npu_model_path": str(root) + "/{{ inventory_hostname }}/" + MERGED,
            "weights_merge_gguf_path": str(root) + "/{{ inventory_hostname }}/weights/gguf",
            "weights_merge_safetensors_path": str(root) + "/{{ inventory_hostname }}/weights/w8a8",
            "weights_merge_hand_on_address": "127.0.0.1",
            "weights_merge_reserve_mb": 10,
        }
        self.hosts: dict[str, dict] = {name: {} for name in names}

    def give_halves(self, name: str) -> None:
        weights = self.root / name / "weights"
        shutil.copytree(PAIR / "gguf", weights / "gguf")
        shutil.copytree(PAIR / "w8a8", weights / "w8a8", dirs_exist_ok=True)
        for path in STAND_IN.iterdir():
            shutil.copy(path, weights / "w8a8" / path.name)

    def play(self, *arguments: str) -> Run:
        (self.root / "hosts.yml").write_text(yaml.safe_dump({"npu": {"hosts": self.hosts, "vars": self.variables}}, sort_keys=False))
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        environment |= {"ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"), "ANSIBLE_HOME": str(self.root / "home"), "ANSIBLE_NOCOLOR": "1", "COLUMNS": "400"}
        command = [str(Path(sys.executable).parent / "ansible-playbook"), str(self.root / "play.yml"), "-i", str(self.root / "hosts.yml"), *arguments]
        done = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=600, check=False)
        return Run(done.returncode, done.stdout + done.stderr)

    def merged(self, name: str) -> Path:
        return self.root / name / MERGED

    def content(self, name: str) -> dict[str, tuple[bytes, int]]:
        """Every file with its bytes and time; of the manifest what it says of the files, since only those that arrived have a checksum."""
        folder = self.merged(name)
        files = {
            str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
            for path in folder.rglob("*")
            if path.is_file() and not path.name.startswith("log")
        }
        manifest = json.loads(files.pop(".npuops-merge/manifest.json")[0])
        for record in manifest["files"]:
            record["sha256"] = None
        return files | {"manifest": (json.dumps(manifest, sort_keys=True).encode(), 0)}


def changed(run: Run) -> dict[str, int]:
    return {host: int(count) for host, count in re.findall(r"^(\S+)\s+: ok=.*\bchanged=(\d+)", run.output, re.MULTILINE)}


def tasks_with_calls(run: Run, host: str) -> list[str]:
    """Tasks in which a node was really called: neither skipped, nor on the controller alone."""
    free = ("Validating arguments", "Note ", "Judge ", "Refuse ")
    found = re.findall(r"^TASK \[(?:\S+ : )?(.+?)\] \*+\n(.*?)(?=^TASK|^PLAY RECAP)", run.output, re.MULTILINE | re.DOTALL)
    return [name for name, body in found if re.search(rf"^(ok|changed): \[{host}\]", body, re.MULTILINE) and not name.startswith(free)]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    fleet = Fleet(tmp_path_factory.mktemp("fleet"), ["one", "two", "three"])
    fleet.variables["weights_merge_hand_on_fanout"] = 1
    run = fleet.play("-vvv")
    assert run.rc == 0, run.output[-6000:]
    fleet.first = run
    return fleet


def test_all_nodes_have_the_folder_of_the_first(fleet: Fleet):
    expected = fleet.content("one")
    assert len([name for name in expected if name.endswith(".safetensors")]) > 2
    for name in fleet.names[1:]:
        assert fleet.content(name) == expected
        manifest = json.loads((fleet.merged(name) / ".npuops-merge/manifest.json").read_text())
        assert all(record["sha256"] for record in manifest["files"])


def task_output(run: Run, name: str) -> str:
    return re.search(rf"^TASK \[(?:\S+ : )?{re.escape(name)}\] \*+\n(.*?)(?=^TASK|^PLAY RECAP)", run.output, re.MULTILINE | re.DOTALL).group(1)


def test_nodes_serve_each_other(fleet: Fleet):
    """A chain: all but the last one serve."""
    assert sorted(re.findall(r"^ok: \[(\w+)\]", task_output(fleet.first, "Serve the weights"), re.MULTILINE)) == ["one", "two"]


def test_the_token_is_not_printed(fleet: Fleet):
    assert "VALUE_SPECIFIED_IN_NO_LOG_PARAMETER" in fleet.first.output
    assert not re.search(r"\b[A-Za-z0-9]{43}\b", fleet.first.output)


def test_nothing_is_left(fleet: Fleet):
    running = [path.parent.name for path in Path("/proc").glob("[0-9]*/cmdline") if b"weights_" in read(path) and str(fleet.root).encode() in read(path)]
    assert running == []
    for name in fleet.names:
        assert {path.name for path in fleet.merged(name).glob(".npuops-merge/*")} <= {"manifest.json", "log", "log.previous"}
        assert {path.name for path in fleet.root.glob(f"{name}/state/jobs/*/*")} <= {"sums.json"}


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_a_second_run_changes_nothing_and_costs_one_call(fleet: Fleet):
    before = {name: fleet.content(name) for name in fleet.names}
    run = fleet.play()
    assert (run.rc, changed(run)) == (0, dict.fromkeys(fleet.names, 0)), run.output[-6000:]
    assert {name: fleet.content(name) for name in fleet.names} == before
    assert tasks_with_calls(run, "two") == ["Look whether the node has the merged weights"]


def test_check_mode_on_a_node_without_weights(fleet: Fleet):
    shutil.move(fleet.merged("three"), fleet.root / "aside")
    try:
        run = fleet.play("--check")
        assert (run.rc, changed(run)) == (0, dict.fromkeys(fleet.names, 0)), run.output[-6000:]
        assert not fleet.merged("three").exists()
    finally:
        shutil.move(fleet.root / "aside", fleet.merged("three"))


def test_a_new_node_alone(fleet: Fleet):
    """With --limit the node that has merged serves all the same, and stops."""
    expected = fleet.content("one")
    shutil.rmtree(fleet.merged("three"))
    run = fleet.play("--limit", "three")
    assert run.rc == 0, run.output[-6000:]
    assert fleet.content("three") == expected
    test_nothing_is_left(fleet)


def test_a_node_that_cannot_receive_leaves_the_next_one_alone(fleet: Fleet):
    """The second node is to serve the third one, and has a file in its folder that the engine would read."""
    expected = fleet.content("one")
    shutil.rmtree(fleet.merged("three"))
    files = sorted(fleet.merged("two").glob("*.safetensors"))
    foreign = fleet.merged("two") / "npuops-other.safetensors"
    foreign.write_bytes(files[0].read_bytes())
    files[0].write_bytes(files[0].read_bytes()[:-1] + b"?")
    run = fleet.play()
    assert run.rc != 0
    assert re.search(r"^two\s+: .*failed=1", run.output, re.MULTILINE) and re.search(r"^three\s+: .*failed=0", run.output, re.MULTILINE), run.output[-6000:]
    assert "npuops-other.safetensors" in run.flat()
    assert fleet.content("three") == expected
    foreign.unlink()
    run = fleet.play()
    assert run.rc == 0, run.output[-6000:]
    assert fleet.content("two") == expected
    assert (changed(run)["three"], re.search(r"received_bytes: (\d+)", run.output)) == (0, None)
    test_nothing_is_left(fleet)


def test_a_shared_folder_is_left_alone(tmp_path: Path):
    fleet = Fleet(tmp_path, ["one", "two"])
    fleet.variables["npu_model_path"] = str(tmp_path / "one" / MERGED)
    run = fleet.play()
    assert run.rc == 0, run.output[-6000:]
    assert changed(run)["two"] == 0
    assert re.search(r"^ok: \[two\]", task_output(run, "Start to fetch the weights"), re.MULTILINE)
    assert {path.name for path in fleet.merged("one").glob(".npuops-merge/*")} == {"manifest.json", "log"}


def test_a_node_with_its_own_halves_merges_them(tmp_path: Path):
    fleet = Fleet(tmp_path, ["one", "two", "three"])
    fleet.give_halves("two")
    run = fleet.play()
    assert run.rc == 0, run.output[-6000:]
    assert re.search(r"^changed: \[two\]", task_output(run, "Start to merge the weights of nodes with their own halves"), re.MULTILINE)
    assert re.search(r"^changed: \[three\]", task_output(run, "Start to fetch the weights"), re.MULTILINE)
    run = fleet.play()
    assert (run.rc, changed(run)) == (0, dict.fromkeys(fleet.names, 0)), run.output[-6000:]


def test_problems_of_the_node_that_merges_stop_those_that_wait(tmp_path: Path):
    fleet = Fleet(tmp_path, ["one", "two"])
    shutil.rmtree(tmp_path / "one" / "weights" / "gguf")
    run = fleet.play()
    assert run.rc != 0
    assert "weights_merge_gguf_path" in run.flat()
    assert "one cannot merge the weights that two is to receive" in run.flat()
    assert not fleet.merged("one").exists() and not fleet.merged("two").exists()


def test_batches_and_a_node_that_has_removed_its_halves(tmp_path: Path):
    """With serial the node that has merged is not part of the second batch; what it hands on is all that it has."""
    fleet = Fleet(tmp_path, ["one", "two"])
    assert fleet.play("--limit", "one").rc == 0
    shutil.rmtree(tmp_path / "one" / "weights" / "gguf")
    shutil.rmtree(tmp_path / "one" / "weights" / "w8a8")
    (tmp_path / "play.yml").write_text(PLAY.replace("  gather_facts: false\n", "  gather_facts: false\n  serial: 1\n"))
    run = fleet.play()
    assert (run.rc, changed(run)["one"]) == (0, 0), run.output[-6000:]
    assert fleet.content("two") == fleet.content("one")


def test_what_the_preflight_play_of_the_site_has_seen_is_known_later(tmp_path: Path):
    """The second node has halves of its own, the third one receives; finished nodes wait for nothing, and no unit is stopped."""
    fleet = Fleet(tmp_path, ["one", "two", "three"])
    (tmp_path / "play.yml").write_text(SITE)
    fleet.give_halves("two")
    run = fleet.play()
    assert run.rc == 0, run.output[-6000:]
    assert re.search(r"^changed: \[two\]", task_output(run, "Start to merge the weights of nodes with their own halves"), re.MULTILINE)
    assert re.findall(r"^changed: \[(\w+)\]", task_output(run, "Start to fetch the weights"), re.MULTILINE) == ["three"]
    run = fleet.play()
    assert (run.rc, changed(run)) == (0, dict.fromkeys(fleet.names, 0)), run.output[-6000:]
    assert "TASK [Stop our units]" not in run.output and "fetch the weights" not in run.output
