"""Build the collection and install it into an empty place, from which it runs without the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.release.checks import CHECKOUT

BIN = Path(sys.executable).parent


def away(place: Path) -> dict[str, str]:
    """The environment of a computer that has this collection and not its checkout."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    return environment | {"ANSIBLE_COLLECTIONS_PATH": str(place / "collections"), "ANSIBLE_HOME": str(place / "home"), "ANSIBLE_NOCOLOR": "1"}


def run(place: Path, *command: str, timeout: int = 300) -> str:
    done = subprocess.run([str(BIN / command[0]), *command[1:]], cwd=place, env=away(place), capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    return done.stdout


def install(place: Path) -> Path:
    """Build the tarball into `place` and install it there; returns the tarball."""
    run(place, "ansible-galaxy", "collection", "build", str(CHECKOUT), "--output-path", str(place))
    (tarball,) = place.glob("*.tar.gz")
    run(place, "ansible-galaxy", "collection", "install", "--offline", "-p", str(place / "collections"), str(tarball))
    return tarball
