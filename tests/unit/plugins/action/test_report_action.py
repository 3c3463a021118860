# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The report action in real playbook runs."""

from __future__ import annotations

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
    assert "node2 (failed in this play, see above)" in run.output
