# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The real wheels of the guide's pip set, from PyPI: the one thing of the media that is not simulated.

Only for aarch64: there PyPI's torch 2.3.1 is a CPU build, on x86_64 it is a CUDA build of 2.8 GB. They are fetched once, checked
against the lock, and kept in .cache/simulator.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
CACHE = HERE.parents[1] / ".cache" / "simulator"
ALL = "all"


def lock_path(arch: str) -> Path:
    """Raises ValueError for an architecture that has no lock."""
    path = HERE / "published" / f"requirements-{arch}.lock"
    if not path.is_file():
        raise ValueError(f"no published wheels are locked for {arch}: take --arch aarch64")
    return path


def pins(arch: str, names: str) -> dict[str, str]:
    """{distribution: its line of the lock}. names: "all", or some of them with commas. Raises ValueError for one that the lock has not."""
    lines = [line for line in lock_path(arch).read_text().splitlines() if "==" in line and not line.startswith("#")]
    found = {line.partition("==")[0]: line for line in lines}
    if names == ALL:
        return found
    wanted = names.split(",")
    unknown = [name for name in wanted if name not in found]
    if unknown:
        raise ValueError(f"{lock_path(arch).name} has no {', '.join(unknown)}")
    return {name: found[name] for name in wanted}


def wheels(arch: str, names: str) -> dict[str, tuple[str, bytes]]:
    """{distribution: (file name, bytes)} of the wheels that the lock names. Raises ValueError (what pins says) or OSError (no network)."""
    wanted = pins(arch, names)
    folder = CACHE / f"published-{arch}"
    folder.mkdir(parents=True, exist_ok=True)
    kept = by_hash(folder)
    hashes = {name: line.rpartition("sha256:")[2] for name, line in wanted.items()}
    missing = [line for name, line in wanted.items() if hashes[name] not in kept]
    if missing:
        download(missing, arch, folder)
        kept = by_hash(folder)
    return {name: (kept[sha256].name, kept[sha256].read_bytes()) for name, sha256 in hashes.items()}


def by_hash(folder: Path) -> dict[str, Path]:
    found = {}
    for path in sorted(folder.glob("*.whl")):
        with path.open("rb") as stream:
            found[hashlib.file_digest(stream, "sha256").hexdigest()] = path
    return found


def download(lines: list[str], arch: str, folder: Path) -> None:
    """Fetch by pip, which refuses what has not the hash of the line.

    pip takes one platform literally, so both generations of manylinux are named. It would judge dependencies for this machine and not for
    that platform (torch's CUDA packages): the lock is the whole set, so none are asked for.
    """
    print(f"simulator: fetching {len(lines)} published wheels for {arch} (once)", flush=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:", "--require-hashes"]
    platforms = [f"--platform={name}_{arch}" for name in ("manylinux2014", "manylinux_2_17", "manylinux_2_28")]
    command += ["--implementation=cp", "--python-version=3.11", *platforms]
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        lock = Path(scratch, "requirements.txt")
        lock.write_text("".join(f"{line}\n" for line in lines))
        done = subprocess.run([*command, f"--dest={scratch}", f"--requirement={lock}"], capture_output=True, text=True, check=False)
        if done.returncode:
            errors = re.findall(r"^ERROR: .*", done.stderr, re.M) or done.stderr.strip().splitlines()[-1:] or ["no output"]
            raise OSError(f"the published wheels can't be fetched: {errors[0]}")
        for path in Path(scratch).glob("*.whl"):
            path.rename(folder / path.name)
