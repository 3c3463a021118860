"""A real environment (py-rattler, from the simulated channel), packed by the real conda-pack."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
import rattler

from tests.unit.simulator.simulated import ARCH

# isort: split
import channel

VERSION = "{}.{}".format(*sys.version_info)


def pack(folder: Path) -> Path:
    """py311.tar.gz in `folder`, of an environment that no longer exists where it was made."""
    mirror, prefix = folder / "channel", folder / "made" / "py311"
    for path, data in channel.channel(ARCH, sys.executable).items():
        (mirror / path).parent.mkdir(parents=True, exist_ok=True)
        (mirror / path).write_bytes(data)

    async def create() -> None:
        specs = [f"python={VERSION}", "pip", "libstdcxx-ng"]
        records = await rattler.solve([f"file://{mirror}"], specs, platforms=[channel.SUBDIRS[ARCH], "noarch"])
        await rattler.install(records, str(prefix), cache_dir=str(folder / "cache"), show_progress=False)

    asyncio.run(create())
    path = folder / "py311.tar.gz"
    command = [str(Path(sys.executable).parent / "conda-pack"), "--quiet", "--prefix", str(prefix), "--output", str(path), "--compress-level", "1"]
    done = subprocess.run([*command, "--ignore-missing-files"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    prefix.rename(folder / "gone")
    return path


def libraries(prefix: Path) -> list[str]:
    """What an environment says of itself: its LIBDIR, a text that conda-unpack had to write anew, and where its pip is."""
    interpreter = channel.ask(sys.executable)
    if interpreter is None or interpreter.base == "/usr":
        pytest.skip("a distribution's own Python gets links, not a tree, so that its LIBDIR stays")
    code = "import os, pip, sysconfig; print(sysconfig.get_config_var('LIBDIR')); print(os.path.dirname(pip.__file__))"
    return subprocess.run([str(prefix / "bin/python"), "-I", "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
