"""What it costs to look at nodes whose stages are all done: remote calls, seconds, and the slowest tasks.

Deploys simulated nodes on this computer once (kept in --root), then runs the site playbook again over 1, 4 and 8 of them, each a folder, by a connection
that counts. A call over SSH takes some 0.3 s on top of what is measured here; --call-seconds adds that.

    python tests/benchmarks/converge.py --root /tmp/converge --nodes 1,4,8
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import yaml
from counting import attribute
from counting import environment as counting_environment

CHECKOUT = Path(__file__).resolve().parents[2]


def name_of(number: int) -> str:
    return f"simulated-{number + 1}"


def play(root: Path, hosts: list[int], *arguments: str) -> tuple[float, str, Path, Path]:
    """Run the site playbook; (seconds, output, file of calls, file of tasks)."""
    folder = root / "inventory"
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / "group_vars"
    if not link.is_symlink():
        link.symlink_to(CHECKOUT / "inventories" / "rehearsal" / "group_vars")
    nodes = {
        name_of(number): {
            "ansible_connection": "counted_local",
            "ansible_python_interpreter": sys.executable,
            "rehearsal_root": str(root / name_of(number)),
            "ktransformers_port": 11000 + number,
        }
        for number in hosts
    }
    (folder / "hosts.yml").write_text(yaml.safe_dump({"npu": {"hosts": nodes, "vars": {"npu_serial": len(hosts)}}}), encoding="utf-8")
    calls, tasks = root / "calls", root / "tasks"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    environment |= {
        "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"), "ANSIBLE_HOME": str(root / "ansible-home"), "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_PIPELINING": "1", **counting_environment(calls, tasks),
    }
    start = time.monotonic()
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "site.yml", "-i", str(folder), *arguments]
    done = subprocess.run(command, cwd=CHECKOUT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        sys.exit(done.stdout[-5000:] + "\nthe site playbook failed")
    return time.monotonic() - start, done.stdout, calls, tasks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder for the nodes; kept, so that the next measurement starts at once")
    parser.add_argument("--nodes", default="1,4,8", help="numbers of nodes, separated by commas")
    parser.add_argument("--call-seconds", type=float, default=0.3, help="what a call over SSH takes on top")
    parser.add_argument("--every-task", action="store_true", help="print the calls of every task")
    options = parser.parse_args()
    root = options.root.resolve()
    sizes = [int(item) for item in options.nodes.split(",")]
    for number in range(max(sizes)):
        done = root / name_of(number) / "deployed"
        if not done.exists():
            simulate = [sys.executable, str(CHECKOUT / "tests/simulator/build.py"), "--root", str(root / name_of(number))]
            subprocess.run(simulate, check=True, stdout=subprocess.DEVNULL)
            seconds = play(root, [number])[0]
            print(f"deployed {name_of(number)} in {seconds:.0f} s", flush=True)
            done.touch()
    for size in sizes:
        # Deployed one by one, each has built torch_npu. Together they take the first one's, which the first run sees to.
        for _ in range(2):
            seconds, output, calls, tasks = play(root, list(range(size)))
            changed = sum(map(int, re.findall(r"changed=(\d+)", output)))
            if not changed:
                break
        counted, times = attribute(calls, tasks)
        most = max(sum(of_host.values()) for of_host in counted.values())
        print(f"\n{size} node{'s' if size > 1 else ''}: {seconds:.1f} s ({seconds / size:.1f} s a node), at most {most} remote calls a node"
              f" ({most * options.call_seconds:.1f} s more over SSH), changed={changed}")
        for task, each in sorted(times.items(), key=lambda item: -sum(item[1]))[:10]:
            print(f"  {sum(each) / size:6.2f} s a node  {counted[name_of(0)][task]:3d} calls  {task}")
        if options.every_task:
            for task, count in counted[name_of(0)].most_common():
                print(f"  {count:3d}  {task}")


if __name__ == "__main__":
    main()
