"""Run a command of Ansible's and keep what it printed (NAME.log), how long it took (NAME.json), its remote calls and its tasks.

usage: record.py FOLDER/NAME COMMAND...     the exit status is the command's; when it fails, the end of what it printed is printed here
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(CHECKOUT / "tests" / "benchmarks"))

import counting  # noqa: E402


def main(name: str, *command: str) -> int:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")} | counting.environment(
        Path(f"{name}.calls"), Path(f"{name}.tasks")
    ) | {
        "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"), "ANSIBLE_HOME": str(CHECKOUT / ".ansible"), "ANSIBLE_NOCOLOR": "1", "COLUMNS": "400",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "FLEET_CONNECTION": "counted_ssh",
    }
    start = time.monotonic()
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    Path(f"{name}.log").write_text(done.stdout)
    Path(f"{name}.json").write_text(json.dumps({"rc": done.returncode, "seconds": time.monotonic() - start}))
    print("\n".join(done.stdout.splitlines()[-60:]))
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
