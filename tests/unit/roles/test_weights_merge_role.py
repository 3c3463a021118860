"""What the role weights_merge makes of a refused plan, and what it reports: its own variables over what the modules answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

CHECKOUT = Path(__file__).resolve().parents[3]
ROLE = CHECKOUT / "roles" / "weights_merge"
GGUF, SAFETENSORS, MERGED = "/mnt/weights/DeepSeek-R1-Q4_K_M", "/mnt/weights/DeepSeek-R1-W8A8", "/mnt/weights/DeepSeek-R1-q4km-w8a8"
REFUSALS = "{'folders': __weights_merge_folder_checks, 'plan': __weights_merge_plan_checks, 'there': __weights_merge_there}"


def folder(path, kind, found=True, reason=None, **more):
    return {"weights": {"path": path, "kind": kind, "found": found, "reason": reason, "merged": None, "engine_problems": [], "bytes": 2 ** 20, **more}}


def missing(path):
    return folder(path, "empty", False, f"{path} does not exist")


PLANNED = {"plan": {"files": 64, "bytes": 400 * 2 ** 30}, "reasons": [], "problems": [], "engine_problems": []}
PROBLEM = {"id": "engine_quantize", "severity": "error", "observed": "config.json has no quantize", "expected": "w8a8_dynamic",
           "repair": "take it from the export"}
WARNING = {**PROBLEM, "id": "halves", "severity": "warning"}
COMPLETE = folder(MERGED, "merged", merged={"complete": True})


def seen(plan, folders=(), **more):
    return {"__weights_merge_register_plan": plan, "__weights_merge_register_folders": {"results": list(folders)}, **more}


CASES = {
    "fine": seen(PLANNED),
    "refused": seen({**PLANNED, "msg": "…", "problems": [WARNING], "engine_problems": [PROBLEM]},
                    [folder(GGUF, "gguf"), folder(SAFETENSORS, "safetensors"), missing(MERGED)]),
    "unreadable": seen({"msg": "x.safetensors: user me may not read it"}, [folder(GGUF, "gguf"), folder(SAFETENSORS, "safetensors"), missing(MERGED)]),
    "no-gguf": seen({"msg": "gguf_path does not exist"}, [missing(GGUF), folder(SAFETENSORS, "safetensors"), missing(MERGED)]),
    "swapped": seen({"msg": "…"}, [folder(GGUF, "safetensors"), folder(SAFETENSORS, "gguf"), missing(MERGED)]),
    "sources-gone": seen({"msg": "gguf_path does not exist"}, [missing(GGUF), missing(SAFETENSORS), COMPLETE]),
    "half-merged": seen({"msg": "gguf_path does not exist"}, [missing(GGUF), folder(SAFETENSORS, "safetensors"),
                                                              folder(MERGED, "merged", merged={"complete": False, "reason": "3 files are missing"})]),
    "merged": seen(PLANNED, __weights_merge_register_started={"plan": PLANNED["plan"], "changed": True}),
    "verified": {"__weights_merge_register_seen": COMPLETE},
    "nothing-there": {"__weights_merge_register_seen": missing(MERGED)},
    "incomplete": {"__weights_merge_register_seen": folder(MERGED, "merged", merged={"complete": False, "reason": "3 files are missing"})},
    "unmerged-weights": {"__weights_merge_register_seen": folder(MERGED, "safetensors", engine_problems=[PROBLEM])},
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """{case: what follows from it}: one run of Ansible for all of them."""
    base = tmp_path_factory.mktemp("weights")
    plays = []
    for case, variables in CASES.items():
        (base / f"{case}.yml").write_text(yaml.safe_dump(variables))
        reports = {"__weights_merge_register_seen", "__weights_merge_register_started"} & set(variables)
        expression = "__weights_merge_row" if reports else REFUSALS
        plays.append({
            "hosts": "localhost", "connection": "local", "gather_facts": False,
            "vars_files": [str(ROLE / "defaults/main.yml"), str(ROLE / "vars/main.yml"), f"{base}/{case}.yml"],
            "tasks": [{"ansible.builtin.copy": {"dest": f"{base}/{case}.json", "content": "{{ %s | to_json }}" % expression}}]})
    (base / "play.yml").write_text(yaml.safe_dump(plays))
    environment = {**os.environ, "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"), "ANSIBLE_HOME": str(base / "home"), "ANSIBLE_LOCALHOST_WARNING": "false"}
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "localhost,", "-e", f"ansible_python_interpreter={sys.executable}", "play.yml"]
    done = subprocess.run(command, cwd=base, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return {case: json.loads((base / f"{case}.json").read_text()) for case in CASES}


def refused(answer):
    return [check for check in answer["folders"] + answer["plan"] if not check["ok"]]


def test_a_plan_that_stands_is_no_problem(answers):
    assert refused(answers["fine"]) == []


def test_the_modules_errors_are_told_and_its_warnings_are_not(answers):
    assert refused(answers["refused"]) == [{**PROBLEM, "ok": False}]


def test_a_plan_that_could_not_be_made_tells_why(answers):
    problem, = refused(answers["unreadable"])
    assert (problem["id"], problem["observed"]) == ("weights_merge-plan", "x.safetensors: user me may not read it")


def test_missing_weights_are_named_with_where_to_get_them(answers):
    problem, = refused(answers["no-gguf"])
    assert problem["observed"] == f"{GGUF} does not exist"
    assert "modelscope.cn/models/unsloth/DeepSeek-R1-GGUF" in problem["repair"]
    assert "404430187616 bytes" in problem["repair"]


def test_swapped_folders_are_named_as_such(answers):
    problems = refused(answers["swapped"])
    assert [problem["observed"] for problem in problems] == [f"{GGUF} holds safetensors", f"{SAFETENSORS} holds gguf"]
    assert all("are swapped" in problem["repair"] for problem in problems)


def test_a_finished_merge_needs_its_sources_no_more(answers):
    assert answers["sources-gone"]["there"] is True
    assert refused(answers["sources-gone"]) == []
    assert answers["half-merged"]["there"] is False
    assert [problem["id"] for problem in refused(answers["half-merged"])] == ["weights_merge-gguf"]


@pytest.mark.parametrize("case, found, state, note", [
    ("merged", "400.00 GB, complete", "ok", ""),
    ("verified", "1.00 MB, complete", "ok", ""),
    ("nothing-there", "empty", "missing", f"{MERGED} does not exist"),
    ("incomplete", "merged", "different", "3 files are missing"),
    ("unmerged-weights", "safetensors", "different", "config.json has no quantize"),
])
def test_the_row_of_the_report(answers, case, found, state, note):
    assert answers[case] == {"label": "merged weights", "wanted": "DeepSeek-R1-q4km-w8a8", "found": found, "state": state, "note": note}
