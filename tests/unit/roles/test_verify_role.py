"""The role verify over rows that stages have reported: one table, and a failure that names what is wrong."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.unit.roles.playing import keep, play, role

CHECKOUT = Path(__file__).resolve().parents[3]
LABELS = yaml.safe_load((CHECKOUT / "roles/verify/vars/main.yml").read_text())["__verify_labels"]


def rows(**states):
    return {stage: {"label": label, "wanted": "1", "found": "1", "state": states.get(stage, "ok"), "note": ""} for stage, label in LABELS.items()}


@pytest.fixture
def run(tmp_path):
    def verify(hosts, *arguments):
        """(exit status, output) of the role on `hosts`, {name: rows}."""
        (tmp_path / "hosts.yml").write_text(yaml.safe_dump({"npu": {"hosts": {
            name: {"npu_stages": stages, "ansible_connection": "local"} for name, stages in hosts.items()}}}))
        (tmp_path / "play.yml").write_text(yaml.safe_dump([{"hosts": "npu", "gather_facts": False, "roles": ["npuops.ktransformers.verify"]}]))
        environment = {**os.environ, "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"), "ANSIBLE_HOME": str(tmp_path / "home")}
        command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "hosts.yml", "play.yml", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    return verify


def test_a_node_as_wanted_passes_and_is_shown(run):
    status, output = run({"good": rows(npu_graph_sink="skipped")})
    assert status == 0, output
    table = output[output.index("\ngood\n"):]
    places = [table.index(f"  {label}  ") for label in LABELS.values()]
    assert places == sorted(places)


def test_the_node_that_is_wrong_fails_alone_and_says_what_to_run(run):
    status, output = run({"good": rows(), "bad": rows(cann="different", ktransformers="missing")})
    words = " ".join(output.split())
    assert status == 2
    assert "bad is not as wanted: CANN different; KTransformers missing. Run the playbook with --tags cann,ktransformers." in words
    assert "good is not as wanted" not in words


@pytest.mark.parametrize("arguments", [["--check"], ["-e", '{"verify_fail": false}']], ids=["check-mode", "only-report"])
def test_it_can_report_without_failing(run, arguments):
    status, output = run({"bad": rows(cann="missing")}, *arguments)
    assert status == 0, output
    assert "missing" in output


def test_stages_that_are_left_out_are_not_expected(run):
    status, output = run({"part": {"cann": rows()["cann"]}}, "-e", '{"verify_stages": ["cann"]}')
    assert status == 0, output
    assert "KTransformers" not in output


def test_an_unknown_stage_is_refused(run):
    status, output = run({"good": rows()}, "-e", '{"verify_stages": ["cuda"]}')
    assert status == 2
    assert "value of verify_stages must be one or more of" in " ".join(output.split())


def test_each_stage_can_be_asked_alone_without_facts_of_the_node(tmp_path):
    """`-e '{"verify_stages": ["conda_py311"]}'`: no other stage has looked at the node, and no play has gathered facts."""
    nothing = dict.fromkeys(("npu_state_dir", "npu_config_dir", "npu_bin_dir", "ascend_root", "npu_engine_source", "npu_model_path"), f"{tmp_path}/nothing")
    common = {"npu_scope": "user", "npu_python": f"{tmp_path}/nothing/bin/python", "media_source": f"{tmp_path}/media", "verify_fail": False, **nothing}
    hosts = {stage.replace("_", "-"): {**common, "verify_stages": [stage]} for stage in LABELS}
    found = play(tmp_path, hosts, [role("verify", "main"), keep("{'errors': npu_stage_errors | default({}), 'stages': npu_stages.keys() | list}")])
    assert found == {stage.replace("_", "-"): {"errors": {}, "stages": [stage]} for stage in LABELS}


def rescued(stage, tasks):
    """A play as in the playbooks: a stage, and what is done when it fails."""
    rescue = {"name": "Note", "ansible.builtin.include_role": {"name": "npuops.ktransformers.verify", "tasks_from": "stopped"}}
    return {"hosts": "npu", "gather_facts": False, "tasks": [{"name": "Stage", "vars": {"verify_stopped_stage": stage}, "block": tasks, "rescue": [rescue]}]}


@pytest.fixture
def run_stopped(tmp_path):
    def site(broken):
        """(exit status, output) of a play in which the hosts `broken` fail, and the verify play after it."""
        hosts = {name: {"npu_stages": rows(), "ansible_connection": "local"} for name in ("one", "two", "three")}
        loop = {"name": "Break", "ansible.builtin.assert": {"that": "item < 2", "fail_msg": "disk {{ item }} is full"}, "loop": [1, 2, 3],
                "when": f"inventory_hostname in {broken}"}
        plays = [rescued("weights_merge", [loop]), {"hosts": "npu", "gather_facts": False, "roles": ["npuops.ktransformers.verify"]}]
        (tmp_path / "hosts.yml").write_text(yaml.safe_dump({"npu": {"hosts": hosts}}))
        (tmp_path / "play.yml").write_text(yaml.safe_dump(plays))
        environment = {**os.environ, "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"), "ANSIBLE_HOME": str(tmp_path / "home")}
        command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "hosts.yml", "play.yml"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    return site


def test_a_node_whose_stage_failed_is_in_the_table_of_those_that_went_on(run_stopped):
    status, output = run_stopped(["two"])
    assert status == 2
    assert output.count("\ntwo (failed, see above)\n") == 1
    table = output[output.index("\ntwo (failed, see above)\n"):output.index("TASK [npuops.ktransformers.verify : Refuse a node")]
    assert re.search(r"^  merged weights +- +- +failed\n +disk 2 is full$", table, re.MULTILINE), table
    assert "two stops here: merged weights failed" in " ".join(output.split())
    assert "two is not as wanted" not in output and "one stops here" not in output


def test_the_table_comes_at_once_when_no_node_goes_on(run_stopped):
    status, output = run_stopped(["one", "two", "three"])
    assert status == 2
    assert len(re.findall(r"^  merged weights +- +- +failed\n +disk 2 is full$", output, re.MULTILINE)) == 3
    assert output.count("TASK [npuops.ktransformers.verify : Print the table of all hosts, since none goes on]") == 1
