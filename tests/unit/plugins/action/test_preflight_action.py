# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The preflight action in real playbook runs."""

from __future__ import annotations

BAD = {"id": "cann-arch", "ok": False, "observed": "riscv64", "expected": "aarch64", "repair": "take the host out"}
WARN = {"id": "cann-old", "ok": False, "severity": "warning", "observed": "8.0.0", "expected": "8.1.RC1"}
GOOD = {"id": "cann-disk", "ok": True, "observed": "9 GB", "expected": "5 GB"}


def task(name, **args):
    return {"name": name, "npuops.ktransformers.preflight": args}


def unreachable():
    """A host that no remote call could reach."""
    return {"node1": {"ansible_connection": "ssh", "ansible_host": "192.0.2.1", "ansible_ssh_common_args": "-o ConnectTimeout=1"}}


def test_alone_it_fails_with_all_errors_a_line_each(ansible):
    other = dict(BAD, id="cann-glibc", observed="2.17", expected="2.28", repair="upgrade the system")
    run = ansible([task("check", role="cann", checks=[GOOD, BAD, WARN, other])], inventory=unreachable())
    result = run.result("check")
    assert result["kind"] == "failed"
    assert result["msg"] == (
        "[cann] cann-arch: riscv64; expected aarch64; take the host out\n[cann] cann-glibc: 2.17; expected 2.28; upgrade the system"
    )
    assert [problem["id"] for problem in result["problems"]] == ["cann-arch", "cann-old", "cann-glibc"]


def test_alone_it_passes_with_warnings_and_what_is_accepted(ansible):
    run = ansible([task("check", role="cann", checks=[GOOD, BAD, WARN])], "-e", '{"preflight_accept": ["cann-arch"]}')
    result = run.result("check")
    assert (run.rc, result["changed"]) == (0, False)
    assert result["warnings"] == [
        "[cann] cann-arch: riscv64; expected aarch64; take the host out (accepted)",
        "[cann] cann-old: 8.0.0; expected 8.1.RC1",
    ]


def test_collecting_never_fails_and_the_verdict_tells_all(ansible):
    plays = [
        {
            "hosts": "npu",
            "gather_facts": False,
            "vars": {"npu_preflight_collect": True},
            "tasks": [
                # as a playbook may do it: a variable that hides the fact of the same name
                {"ansible.builtin.set_fact": {"npu_problems": []}},
                task("host", role="host", checks=[dict(WARN, id="host-old")]),
                task("cann", role="cann", checks=[GOOD, BAD]),
                task("again", role="cann", checks=[BAD]),
                dict(task("loop", role="w", checks=[dict(BAD, id="w-{{ item }}")]), loop=["a", "b"]),
                task("verdict", verdict=True),
            ],
        }
    ]
    run = ansible(plays, inventory={"node1": {}, "node2": {}})
    assert run.result("cann")["kind"] == "ok"
    for host in ("node1", "node2"):
        result = run.result("verdict", host)
        assert result["kind"] == "failed"
        assert [problem["id"] for problem in result["problems"]] == ["host-old", "cann-arch", "w-a", "w-b"]
        assert result["msg"] == (
            f"{host} is not ready: 3 problems to repair, 1 more to know of.\n"
            "\n 1. error  cann  cann-arch\n    found     riscv64\n    expected  aarch64\n    repair    take the host out\n"
            "\n 2. error  w  w-a\n    found     riscv64\n    expected  aarch64\n    repair    take the host out\n"
            "\n 3. error  w  w-b\n    found     riscv64\n    expected  aarch64\n    repair    take the host out\n"
            "\n 4. warning  host  host-old\n    found     8.0.0\n    expected  8.1.RC1\n"
            "\nTo go on in spite of one: -e '{\"preflight_accept\": [\"cann-arch\"]}', or that list in the inventory."
        )


def test_a_verdict_without_problems_passes(ansible):
    run = ansible([task("cann", role="cann", checks=[GOOD]), task("verdict", verdict=True)], "--check")
    assert (run.rc, run.result("verdict")["problems"]) == (0, [])


def test_a_fact_cache_does_not_bring_back_the_problems_of_yesterday(ansible):
    ansible.environment = {"ANSIBLE_CACHE_PLUGIN": "jsonfile", "ANSIBLE_CACHE_PLUGIN_CONNECTION": str(ansible.folder / "cache")}
    tasks = [task("cann", role="cann", checks=[dict(BAD, ok="{{ good }}")]), task("verdict", verdict=True)]
    collect = ("-e", '{"npu_preflight_collect": true}')
    assert ansible(tasks, *collect, "-e", "good=false").rc == 2
    assert ansible(tasks, *collect, "-e", "good=true").rc == 0


def test_options_are_checked(ansible):
    run = ansible([task("check", role="cann", checks=[{"ok": True}])])
    assert "missing required arguments: id found in checks" in run.result("check")["msg"]
