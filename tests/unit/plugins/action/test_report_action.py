# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The report action in real playbook runs."""

from __future__ import annotations

import json

import pytest

CANN = {"label": "CANN", "wanted": "8.1.RC1", "found": "8.1.RC1", "state": "ok", "note": ""}
NPU = {"label": "NPU", "wanted": "Atlas 800I A2", "found": "Atlas 800I A2 x 8", "state": "ok"}
ENGINE = {"label": "KTransformers", "wanted": "0.2.4", "found": None, "state": "missing", "note": "the unit is not there"}


def report(**args):
    return {"name": "report", "npuops.ktransformers.report": dict({"hosts": "{{ groups['npu'] }}"}, **args), "run_once": True}


def facts(**stages):
    return {"npu_stages": stages}


def test_all_well(ansible):
    run = ansible([report(stages=["NPU", "CANN"])], inventory={"node1": facts(cann=CANN, npu=NPU)})
    result = run.result("report")
    assert (result["ok"], result["failures"], result["changed"]) == (True, [], False)
    table = (
        "\nnode1\n"
        "  stage  wanted         found              state\n"
        "  NPU    Atlas 800I A2  Atlas 800I A2 x 8  ok\n"
        "  CANN   8.1.RC1        8.1.RC1            ok\n"
    )
    assert result["table"] == table
    assert table in run.output


def test_what_is_missing_is_seen_on_every_host(ansible):
    plays = [
        {"hosts": "npu", "gather_facts": False, "tasks": [{"name": "break", "ansible.builtin.fail": {"msg": "no"}, "when": "inventory_hostname == 'node3'"}]},
        {"hosts": "npu", "gather_facts": False, "tasks": [report()]},
        {"hosts": "localhost", "gather_facts": False, "tasks": [dict(report(hosts=["node2", "node4"], stages=["CANN"]), name="elsewhere")]},
    ]
    inventory = {"node1": facts(cann=CANN, engine=ENGINE), "node2": {}, "node3": facts(cann=CANN)}
    run = ansible(plays, inventory=inventory)
    result = run.result("report")
    assert result["ok"] is False
    table = result["table"]
    assert "  KTransformers   0.2.4    -        missing\n                  the unit is not there\n" in table
    assert "node2\n  no stage has reported: the host failed or could not be reached, see the messages above\n" in table
    assert [(row["host"], row["stage"]) for row in result["failures"] if row["host"] != "node3"] == [
        *(("node1", label) for label in ("NPU", "HDK", "Python", "torch_npu", "merged weights", "graph sinking", "KTransformers")),
        ("node2", "-"),
    ]
    assert result["failures"][-1] == {
        "host": "node3", "stage": "KTransformers", "wanted": "-", "found": "-", "state": "missing", "note": "this stage was not reached",
    }
    assert [row["host"] for row in run.result("elsewhere")["failures"]] == ["node2", "node4"]


def test_a_host_that_failed_in_this_play_is_never_ok(ansible):
    tasks = [{"name": "break", "ansible.builtin.fail": {"msg": "no"}, "when": "inventory_hostname == 'node2'"}, report(stages=["CANN"])]
    run = ansible(tasks, inventory={"node1": facts(cann=CANN), "node2": facts(cann=CANN)})
    assert [row["host"] for row in run.result("report")["failures"]] == ["node2"]
    assert "node2 (failed, see above)" in run.output


def finding(name, severity="error", follows=None):
    words = {key: f"{key} of {name}" for key in ("observed", "cause", "remedy", "source")}
    return dict(words, id=name, stage="cann", severity=severity, follows=follows)


def test_findings_of_all_hosts_in_their_order(ansible):
    found = [finding("one"), finding("two", follows="one"), finding("three", "warning")]
    inventory = {"node1": {"npu_findings": found}, "node2": {"npu_findings": []}, "node3": {}}
    run = ansible([report(what="findings")], inventory=inventory)
    result = run.result("report")
    assert result["ok"] is False
    assert [(item["host"], item["id"]) for item in result["failures"]] == [("node1", "one"), ("node1", "two"), ("node3", "not-looked-at")]
    assert result["table"].startswith(
        "\nnode1: 2 failures, to be repaired in this order, 1 to know of\n"
        "   1. one, cann\n"
        "      found   observed of one\n"
        "      cause   cause of one\n"
        "      remedy  remedy of one\n"
        "   2. two, cann: probably goes away with one\n"
    )
    assert "   3. three (warning), cann\n" in result["table"] and "\nnode2: no known failure was found\n" in result["table"]
    assert result["table"] in run.output


@pytest.mark.parametrize("mode", [[], ["--check"]])
def test_the_verdict_for_machines(ansible, tmp_path, mode):
    path = tmp_path / "verdict.json"
    path.write_text("an old one")
    run = ansible([report(stages=["CANN"], json=str(path))], *mode, inventory={"node1": facts(cann=CANN), "node2": facts(cann=dict(CANN, state="different"))})
    verdict = json.loads(path.read_text())
    assert verdict["ok"] is False and verdict["failures"] == run.result("report")["failures"]
    assert {name: host["ok"] for name, host in verdict["hosts"].items()} == {"node1": True, "node2": False}
    assert verdict["hosts"]["node1"]["stages"] == [{"stage": "CANN", "wanted": "8.1.RC1", "found": "8.1.RC1", "state": "ok", "note": ""}]
    assert [item.name for item in tmp_path.glob(".verdict*")] == []


def test_a_verdict_that_cannot_be_written_is_still_printed(ansible, tmp_path):
    run = ansible([report(stages=["CANN"], json=str(tmp_path / "nowhere" / "verdict.json"))], inventory={"node1": facts(cann=CANN)})
    assert run.rc == 2
    assert "verdict.json cannot be written: No such file or directory" in " ".join(run.output.split())
    assert "  CANN   8.1.RC1  8.1.RC1  ok\n" in run.output
