#!/usr/bin/env python3
# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Build the simulated media and a simulated Atlas 800I A2 below one folder.

    python tests/simulator/build.py --root DIR [--arch ARCH] [--python PYTHON] [--system | --privileged]

DIR/media is the media_source of an inventory, DIR/node the node that its packages act on. A second call changes nothing; the
media are built again when the simulator or the arguments change, the node never is, because the playbook changes it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from media import RELEASES, Media, conda_files, source_files, vendor_packages, wheel_files  # noqa: E402
from node import lay_node  # noqa: E402
from runpack import World  # noqa: E402

ARCHES = ("x86_64", "aarch64")


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Build simulated media and a simulated node.")
    parser.add_argument("--root", type=Path, required=True, help="folder that gets media/ and node/")
    parser.add_argument(
        "--arch", choices=ARCHES, default=platform.machine() if platform.machine() in ARCHES else "x86_64", help="architecture of the packages"
    )
    parser.add_argument("--python", default=sys.executable, help="python that the simulated conda environment is made from")
    parser.add_argument("--release", choices=sorted(RELEASES), default="guide", help="set of vendor packages, named as the stacks are")
    parser.add_argument("--published", default="", help="wheels of the guide's set that are PyPI's own: names with commas, or all (aarch64 only)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--system", action="store_true", help="the packages act on / as root; DIR/node holds sys/ and proc/ only")
    where.add_argument(
        "--privileged", action="store_true", help="the packages believe to be root below DIR/node, a bare node whose driver is still to be installed"
    )
    return parser.parse_args(argv)


def digest(options: argparse.Namespace) -> str:
    """What the media depend on: the simulator's own files and the arguments."""
    chosen = [str(options.root), options.arch, options.python, options.release, options.system, options.privileged, options.published]
    state = hashlib.sha256(json.dumps(chosen).encode())
    for path in sorted(item for item in HERE.rglob("*") if item.is_file() and "__pycache__" not in item.parts):
        state.update(path.relative_to(HERE).as_posix().encode() + b"\0" + path.read_bytes())
    return state.hexdigest()


def world_of(options: argparse.Namespace) -> World:
    node = options.root / "node"
    if options.system:
        return World(root="", privileged=True, sysfs=f"{node}/sys", proc=f"{node}/proc", dev="/dev")
    return World(root=str(node), privileged=options.privileged, sysfs=f"{node}/sys", proc=f"{node}/proc", dev=f"{node}/dev")


def build_engine(media: Media, node: Path, options: argparse.Namespace) -> None:
    try:
        from engine.build import build
    except ModuleNotFoundError as error:
        if error.name not in ("engine", "engine.build"):
            raise
        print("simulator: tests/simulator/engine is not there: no KTransformers source and no weights are laid")
        return
    for entry in build(media=media.root, node=node, arch=options.arch, python=options.python):
        media.describe(entry)


def main(argv: list[str] | None = None) -> int:
    options = arguments(argv)
    options.root = options.root.resolve()
    stamp = options.root / ".simulator.json"
    wanted = digest(options)
    media, node = options.root / "media", options.root / "node"
    if stamp.is_file() and json.loads(stamp.read_text()).get("digest") == wanted and (media / "manifest.yml").is_file() and node.is_dir():
        print(f"simulator: {options.root} is as wanted, nothing to do")
        return 0
    release, world = RELEASES[options.release], world_of(options)
    stamp.unlink(missing_ok=True)
    fresh = options.root / "media.new"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    content = Media(fresh)
    vendor_packages(content, release, options.arch, world)
    conda_files(content, options.arch, options.python, world, internet=str(media / "conda" / "channel"))
    wheel_files(content, options.arch, options.published)
    source_files(content, world)
    laid = lay_node(node, release.hdk, options.arch, world)
    build_engine(content, node, options)
    content.write_manifest()
    shutil.rmtree(media, ignore_errors=True)
    fresh.rename(media)
    stamp.write_text(json.dumps({"digest": wanted, "arch": options.arch, "python": options.python, "release": options.release}) + "\n")
    print(f"simulator: media in {media}; node {'laid' if laid else 'kept as it was'} in {node}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
