# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The job action in real playbook runs: short and long work, failure, SIGKILL, a lost connection."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
from ansible_collections.npuops.ktransformers.plugins.module_utils import job as jobs

# Loses the connection while the file named by FLAKY_FILE is there, once work is running.
FLAKY = """
from __future__ import annotations
import os
from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.connection.local import Connection as Local
DOCUMENTATION = '''
name: flaky
short_description: a local connection that breaks
description: for tests
author: tests
options: {}
extends_documentation_fragment: [connection_pipelining]
'''
class Connection(Local):
    transport = "flaky"
    def exec_command(self, cmd, in_data=None, sudoable=True):
        if os.path.exists(os.environ["FLAKY_FILE"]):
            raise AnsibleConnectionFailure("cable cut")
        return super().exec_command(cmd, in_data, sudoable)
    def reset(self):
        with open(os.environ["FLAKY_FILE"] + ".resets", "a") as file:
            file.write("x")
"""

# Else Ansible would try to hand files over to that user.
ADMINS = {"ansible_admin_users": ["root", "somebody"]}


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "job"
    yield path
    jobs.stop(str(path), grace=0)


def job(folder, *command, task="job", **args):
    args = dict({"job_dir": str(folder), "title": "build it"}, **args)
    if command:
        args["command"] = list(command)
    return {"name": task, "npuops.ktransformers.job": args}


def python(code):
    return [sys.executable, "-uc", code]


def progress_lines(run):
    return [line for line in run.output.splitlines() if re.match(r"node\d: ", line)]


def remote_calls(run):
    return run.output.count("Using module file")


def test_short_work_is_one_call_and_done_once(ansible, folder, tmp_path):
    mark = tmp_path / "mark"
    command = ["sh", "-c", f'echo "$COLOUR in $PWD" >> {mark}']
    args = {"environment": {"COLOUR": "red"}, "chdir": str(tmp_path), "digest": ["v1", "{{ 8.1 }}"]}
    tasks = [
        dict(job(folder, *command, task="bare", **args), check_mode=True),
        job(folder, *command, task="first", **args),
        job(folder, *command, task="second", **args),
        dict(job(folder, *command, task="third", **args), check_mode=True),
        job(folder, *command, task="changed", **dict(args, digest=["v2"])),
    ]
    run = ansible(tasks, "-vvv")
    assert (run.rc, remote_calls(run), progress_lines(run)) == (0, len(tasks), [])
    results = {task["name"]: run.result(task["name"]) for task in tasks}
    assert {name: (result["changed"], result["job"]["state"]) for name, result in results.items()} == {
        "bare": (True, "absent"), "first": (True, "done"), "second": (False, "done"), "third": (False, "done"), "changed": (True, "done"),
    }  # fmt: skip
    assert (results["first"]["job"]["title"], results["first"]["job"]["result"]["rc"]) == ("build it", 0)
    assert mark.read_text() == f"red in {tmp_path}\n" * 2


def test_long_work_shows_its_progress_per_host(ansible, tmp_path):
    code = "import time\nfor n in range(1, 5): print(f'[{n}/4] cc'); time.sleep(2)"
    task = job("{{ folder }}/{{ inventory_hostname }}", *python(code), title="build")
    run = ansible([task], "-e", f"folder={tmp_path}", inventory={"node1": {}, "node2": {}})
    for host in ("node1", "node2"):
        result = run.result("job", host)
        assert result["changed"] and result["job"]["state"] == "done" and result["job"]["log_tail"][-1] == "[4/4] cc"
        lines = [line for line in progress_lines(run) if line.startswith(host)]
        assert re.fullmatch(host + r": build \d+ % after \d+ s \(\[\d/4\] cc\)", lines[0])
        assert re.fullmatch(host + r": build done after \d+ s", lines[-1]) and len(lines) > 1


def test_secrets_are_not_shown(ansible, folder):
    run = ansible([dict(job(folder, *python("import time; print('secret'); time.sleep(3)"), title="secret work"), no_log=True)])
    assert run.rc == 0 and "secret" not in run.output


def test_failure_names_the_first_error_and_the_log(ansible, folder):
    code = "import sys; print('cc a.c'); print('a.c:1: error: no acl.h'); print('make: *** [all] Error 1'); sys.exit(2)"
    tasks = [
        dict(job(folder, *python(code)), ignore_errors=True),
        dict(job(folder, "/no/such/program", task="absent program"), ignore_errors=True),
        dict(job(folder, "true", task="bad pattern", show_errors=["("]), ignore_errors=True),
        dict(job(folder, task="no command"), ignore_errors=True),
        job(folder, task="status", state="status"),
    ]
    run = ansible(tasks)
    assert run.rc == 0
    result = run.result("job")
    host = os.uname().nodename
    assert result["msg"] == f"build it failed: a.c:1: error: no acl.h (exit status 2); the whole log is {folder}/log on {host}"
    assert result["job"]["error_lines"][1:] == ["cc a.c", "a.c:1: error: no acl.h", "make: *** [all] Error 1", "exit status 2"]
    assert result["job"]["result"]["rc"] == 2
    assert run.result("absent program")["msg"].startswith(
        "build it failed: /no/such/program can't be run in /: [Errno 2] No such file or directory: '/no/such/program'; the whole log is "
    )
    assert run.result("bad pattern")["msg"].startswith("show_errors holds '(', which is no regular expression: ")
    assert "command" in run.result("no command")["msg"]
    assert run.result("status")["job"]["state"] == "failed"


def test_work_of_an_earlier_task_that_failed_since_is_told_and_not_started_again(ansible, folder, tmp_path):
    """Weights of which the disk became full between the task that starts to fetch them and the one that waits."""
    fetch = {"dest": str(tmp_path / "weights"), "urls": ["http://127.0.0.1:9"], "token": "x", "started": "{{ job.job | combine({'state': 'running'}) }}"}
    tasks = [
        dict(job(folder, "sh", "-c", "sleep 5; echo disk full >&2; exit 3", wait=False), register="job"),
        {"name": "wait", "npuops.ktransformers.weights_fetch": fetch},
    ]
    run = ansible(tasks, "-vvv")
    assert run.rc == 2
    assert "exit status 3" in run.result("wait")["msg"] and f"{folder}/log" in run.result("wait")["msg"]
    assert not re.search(r"Using module file \S*weights_fetch", run.output)


def test_long_work_that_fails_fails_the_task(ansible, folder):
    run = ansible([job(folder, *python("import time; time.sleep(3); raise RuntimeError('late')"))])
    result = run.result("job")
    assert run.rc == 2 and "build it failed: RuntimeError: late (exit status 1)" in result["msg"]


def test_start_look_stop(ansible, folder):
    tasks = [
        job(folder, "sleep", "600", wait=False),
        job(folder, task="status", state="status"),
        dict(job(folder, "sleep", "601", task="other"), ignore_errors=True),
        dict(job(folder, task="stop in check mode", state="absent"), check_mode=True),
        job(folder, task="stop", state="absent"),
        job(folder, task="stop again", state="absent"),
    ]
    run = ansible(tasks)
    assert run.result("job")["job"]["state"] == run.result("status")["job"]["state"] == "running"
    pid = run.result("job")["job"]["pid"]
    assert re.match(rf"{folder} is busy with build it \(pid {pid}, digest \w+\), so build it \(digest \w+\) is not started", run.result("other")["msg"])
    assert [run.result(name)["changed"] for name in ("status", "stop in check mode", "stop", "stop again")] == [False, True, True, False]
    assert run.result("stop")["job"]["state"] == "absent"
    assert jobs._start_ticks(pid) is None


def when_running(folder, action):
    """Call action(state) from a thread once the job runs."""

    def wait():
        for _turn in range(600):
            state = jobs.status(str(folder))
            if state["state"] == "running":
                time.sleep(2.2)  # the starting call has returned
                action(state)
                return
            time.sleep(0.1)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def test_a_killed_worker_fails_the_task_and_the_next_run_goes_on(ansible, folder, tmp_path):
    mark = tmp_path / "mark"
    command = ["sh", "-c", f"test -e {mark} || {{ touch {mark}; sleep 600; }}"]
    when_running(folder, lambda state: os.kill(state["pid"], signal.SIGKILL))
    run = ansible([job(folder, *command)])
    assert run.rc == 2
    assert run.result("job")["msg"] == (
        "build it was interrupted: the working process is gone without a result (it was killed, or the machine restarted); "
        f"run the playbook again to go on (log: {folder}/log)"
    )
    run = ansible([job(folder, *command)])
    assert run.rc == 0 and run.result("job")["changed"]
    assert subprocess.run(["pgrep", "-f", f"touch {mark}"], stdout=subprocess.DEVNULL, check=False).returncode == 1


def test_progress_is_told_while_the_work_goes_on(ansible, folder, tmp_path):
    """Also where the output goes to a file: an operator who looks into it waits for hours otherwise."""
    seen = tmp_path / "seen"

    def look(state):
        for _turn in range(300):
            if re.search("^node1: build it ", ansible.output.read_text(), re.MULTILINE):
                seen.touch()
                break
            time.sleep(0.1)

    when_running(folder, look)
    run = ansible([job(folder, "sh", "-c", f"for turn in $(seq 350); do [ ! -e {seen} ] || exit 0; sleep 0.1; done; exit 1")])
    assert run.rc == 0, run.output


@pytest.fixture
def flaky(ansible):
    plugins = ansible.folder / "connection"
    plugins.mkdir()
    (plugins / "flaky.py").write_text(FLAKY)
    cut = ansible.folder / "cut"
    ansible.environment = {"ANSIBLE_CONNECTION_PLUGINS": str(plugins), "FLAKY_FILE": str(cut), "ANSIBLE_PIPELINING": "1"}
    return cut


def test_a_lost_connection_costs_nothing(ansible, folder, flaky):
    def cut_for_a_while(state):
        flaky.touch()
        time.sleep(4)
        flaky.unlink()

    when_running(folder, cut_for_a_while)
    run = ansible([job(folder, "sleep", "9")], inventory={"node1": {"ansible_connection": "flaky"}})
    assert run.rc == 0 and run.result("job")["job"]["state"] == "done"
    lines = progress_lines(run)
    assert lines[1:3] == [
        "node1: build it: connection lost; the work goes on, trying for 10 min to reach the node again",
        "node1: build it: connected again",
    ]
    assert flaky.with_name("cut.resets").exists()


def test_a_connection_that_stays_lost(ansible, folder, flaky):
    when_running(folder, lambda state: flaky.touch())
    tasks = [job(folder, "sleep", "30", reconnect_seconds=2)]
    inventory = {"node1": {"ansible_connection": "flaky"}}
    run = ansible(tasks, inventory=inventory)
    result = run.result("job")
    lost = r"the connection was lost \d+ s ago while build it was running \(.*cable cut\); it goes on by itself: run the playbook again to attach to it"
    assert run.rc != 0 and re.match(lost, result["msg"])
    flaky.unlink()
    pid = jobs.status(str(folder))["pid"]
    jobs.stop(str(folder), grace=5)
    assert jobs.status(str(folder))["pid"] == pid  # nothing was started twice


def test_loop_and_become(ansible, tmp_path):
    task = job(f"{tmp_path}/job-{{{{ item }}}}", "sh", "-c", "echo $BECAME > {{ item }}", chdir=str(tmp_path))
    run = ansible([dict(task, loop=["a", "b"], become=True, become_method="pretend", become_user="somebody", vars=ADMINS)])
    assert [item["job"]["state"] for item in run.result("job")["results"]] == ["done", "done"]
    assert [(tmp_path / name).read_text() for name in "ab"] == ["yes\n"] * 2
