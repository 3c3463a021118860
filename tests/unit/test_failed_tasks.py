"""What is told last of a scenario that failed."""

from __future__ import annotations

from tests.containers.failed import brief, failures

LOG = """\
TASK [Look] ********************************************************************
[ERROR]: Task failed: Module failed: not there
Origin: /tree/molecule/faults/converge.yml:4:7

fatal: [node]: FAILED! =>
    msg: not there
...ignoring

TASK [Judge how it ended] ******************************************************
[ERROR]: Task failed: Action failed: exit code 2
TASK [Nested, as the message has it]
Origin: /tree/molecule/shared/tasks/run.yml:24:3

24
25 - name: Judge how it ended
     ^ column 3

fatal: [node]: FAILED! =>
    assertion: run_register.rc == 0
    msg: |-
        exit code 2; not said: []
        TASK [Merge the weights] ***

        fatal: [node]: FAILED! =>
            msg: disk full

        PLAY RECAP ***

PLAY RECAP *********************************************************************
INFO     [faults > destroy] Executing
"""


def test_what_was_ignored_is_not_told():
    assert [failure[0] for failure in failures(LOG)] == ["Origin: /tree/molecule/shared/tasks/run.yml:24:3"]


def test_a_result_ends_where_its_indentation_ends():
    (failure,) = failures(LOG)
    assert failure[1] == "fatal: [node]: FAILED! =>"
    assert failure[-1].strip() == "PLAY RECAP ***"


def test_a_task_without_a_place_is_told_by_its_name():
    (failure,) = failures("TASK [Look] *****\nfatal: [node]: UNREACHABLE! =>\n    msg: gone\n")
    assert failure == ["TASK [Look]", "fatal: [node]: UNREACHABLE! =>", "    msg: gone"]


def test_of_a_long_result_the_failure_in_it_is_told():
    head, noise, end = ["Origin: x", "fatal: [node]: FAILED! =>"], ["    ok: [node]"] * 500, ["    fatal: [node]: FAILED! =>", "        msg: disk full"]
    told = brief([*head, *noise, *end, *noise])
    assert len(told) < 30
    assert told[:2] == head
    assert "        msg: disk full" in told


def test_without_one_its_end_is_told_and_long_lines_are_cut():
    told = brief(["Origin: x", "fatal: [node]: FAILED! =>", "    " + "x" * 5000, *["    noise"] * 500, "    the end"])
    assert told[-1] == "    the end"
    assert max(map(len, told)) <= 301
