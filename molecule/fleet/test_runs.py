"""What the runs of converge.yml printed. Called as a program it prints what looking at finished nodes costs."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(CHECKOUT / "tests" / "benchmarks"))

import counting  # noqa: E402

RUNS = CHECKOUT / ".cache" / "molecule" / "fleet" / "runs"
ONE, TWO, THREE = NODES = [f"npuops-fleet-{number}" for number in (1, 2, 3)]
LABELS = ["NPU", "HDK", "CANN", "Python", "torch_npu", "merged weights", "graph sinking", "KTransformers"]


@dataclass(frozen=True)
class Recorded:
    name: str

    @property
    def log(self) -> str:
        return (RUNS / f"{self.name}.log").read_text()

    @property
    def seconds(self) -> float:
        return json.loads((RUNS / f"{self.name}.json").read_text())["seconds"]

    def recap(self, key: str) -> dict[str, int]:
        return {host: int(count) for host, count in re.findall(rf"^(\S+)\s+: ok=.*\b{key}=(\d+)", self.log, re.MULTILINE) if host != "localhost"}

    def states(self, host: str) -> dict[str, str]:
        """The state of each stage in the table of a host."""
        table = re.search(rf"^{host}(?: \(failed, see above\))?\n  stage .*\n((?:  .*\n)+)", self.log, re.MULTILINE)
        assert table, self.log[-5000:]
        found = (re.match(rf"  ({'|'.join(LABELS)})  .* (\w+)$", line) for line in table[1].splitlines())
        return {row[1]: row[2] for row in found if row}

    def tasks(self) -> list[dict]:
        return counting.ran(RUNS / f"{self.name}.tasks")

    def order(self, *roles: str) -> list[tuple[str, str]]:
        """(host, role) in the order in which the hosts began with these roles, after the preflight."""
        begun = sorted(self.tasks(), key=lambda task: task["start"])
        roles_of = {f"npuops.ktransformers.{role} : Validating arguments against arg spec 'main'": role for role in roles}
        return [(task["host"], role) for task in begun for name, role in roles_of.items() if task["task"].startswith(name)]

    def calls(self) -> list[counting.Call]:
        return counting.called(RUNS / f"{self.name}.calls")

    def calls_of_each(self) -> Counter[str]:
        return Counter(call.address for call in self.calls())

    def at_once(self) -> int:
        """How many calls were under way at the same time, at most."""
        calls = self.calls()
        return max(sum(call.start <= moment.start < call.end for call in calls) for moment in calls)


ALONE, FULL, COMPLETED, ONE_FORK = map(Recorded, ("alone", "full", "completed", "one-fork"))
FINISHED = [Recorded(f"finished-{number}") for number in (1, 2, 3)]
ALL_OK = dict.fromkeys(LABELS, "ok")


def test_the_first_node_alone():
    assert ALONE.recap("failed") == {ONE: 0}
    assert ALONE.states(ONE) == ALL_OK


def test_a_full_disk_stops_one_node_and_leaves_the_others_alone():
    assert FULL.recap("failed") == {ONE: 0, TWO: 0, THREE: 1}
    assert FULL.recap("changed")[ONE] == 0
    assert re.search(r"the disk of /mnt/weights/DeepSeek-R1-q4km-w8a8 became full while \S+ arrived; make room and run the playbook again", FULL.log)


def test_the_table_says_what_happened_on_which_node():
    assert FULL.states(ONE) == FULL.states(TWO) == ALL_OK
    after = {"torch_npu": "missing", "graph sinking": "missing", "KTransformers": "missing"}
    assert FULL.states(THREE) == {**ALL_OK, **after, "merged weights": "failed"}
    table = FULL.log[FULL.log.index(f"\n{THREE} (failed, see above)\n"):]
    assert re.search(r"^ {18}the weights for \S+ failed: the disk of /mnt/weights/DeepSeek-R1-q4km-w8a8 became full while", table, re.MULTILINE)


def test_the_next_run_completes_it_and_changes_nothing_else():
    changed = COMPLETED.recap("changed")
    assert (changed[ONE], changed[TWO]) == (0, 0) and changed[THREE] > 0
    assert [COMPLETED.states(host) for host in NODES] == [ALL_OK] * 3
    assert COMPLETED.recap("failed") == dict.fromkeys(NODES, 0)


def test_finished_nodes_change_nothing():
    assert [run.recap("changed") for run in FINISHED] == [dict.fromkeys(NODES[:number], 0) for number in (1, 2, 3)]


def test_nodes_are_prepared_one_by_one_or_as_many_at_once_as_npu_serial_says():
    assert FULL.order("host", "cann") == [(host, role) for host in NODES for role in ("host", "cann")]
    assert [role for _host, role in FINISHED[2].order("host", "cann")] == ["host"] * 3 + ["cann"] * 3


def test_forks_say_how_many_nodes_are_called_at_once():
    assert ONE_FORK.at_once() == 1
    assert FINISHED[2].at_once() > 1


def test_a_finished_node_costs_few_calls():
    for number, run in enumerate(FINISHED, 1):
        counts = run.calls_of_each()
        assert len(counts) == number
        assert max(counts.values()) <= 30  # what a finished node may cost


if __name__ == "__main__":
    for number, run in enumerate(FINISHED, 1):
        each = f"{run.seconds / number:.1f} s and at most {max(run.calls_of_each().values())} remote calls a node"
        print(f"{number} finished node{'s' * (number > 1)} over SSH: {run.seconds:.1f} s, {each}")
