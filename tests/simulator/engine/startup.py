# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the engine needs before it reads its first argument: its imports, its folder in HOME, its environment."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from importlib import metadata
from pathlib import Path

NAME = "simulated KTransformers engine"
# The guide's private operators (its 新增算子): a public torch_npu of the same version imports, then fails at the first prompt.
PRIVATE_OPERATORS = ("_npu_matmul_dequant", "_npu_flash_attention_mla", "_npu_matmul_pp", "_npu_topk_topp_sampling")


def announce(module: str) -> None:
    """The first line of everything that runs here: nobody shall take this for the real engine."""
    print(f"{NAME}: {module} of KTransformers v0.2.4 with NPU support; it computes on the CPU and talks to no NPU", flush=True)


def version_of(distribution: str, default: str) -> str:
    """The installed version of a Python package, `default` when it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return default


def version_tuple(version: str) -> tuple:
    return tuple(int(part) if part.isdigit() else 0 for part in version.split("+")[0].split(".")[:3])


def make_home(package: Path) -> Path:
    """~/.ktransformers, as Config makes it at import: config.yaml is copied once, and never again."""
    home = Path(os.path.expanduser("~")) / ".ktransformers"
    shipped = package / "configs" / "config.yaml"
    if not shipped.exists():
        print(f"Can't find config file, {shipped}")
        sys.exit(-1)
    for folder in (home, home / "kvc2", home / "logs"):
        if not folder.exists():
            os.mkdir(folder)
    if not (home / "config.yaml").exists():
        shutil.copyfile(shipped, home / "config.yaml")
    return home


def import_npu(guarded: bool):
    """torch and torch_npu, with the engine's misleading errors.

    local_chat imports torch_npu openly, so that a missing libhccl.so is seen. ASSUMPTION: the private tree's local_chat does
    what the public branch's local_chat_npu does. Everything else imports it in a bare `except` (guarded), and without a usable
    NPU goes on to the CUDA operators, which nobody built.
    """
    importlib.import_module("torch")
    torch_npu = None
    try:
        torch_npu = importlib.import_module("torch_npu")
        usable = bool(torch_npu.npu.is_available())
    except Exception:
        if not guarded:
            raise
        usable = False
    if not usable:
        importlib.import_module("KTransformersOps")
    return torch_npu


def import_engine(package: Path, guarded: bool):
    """Everything that the real modules import, in their order; returns torch_npu. Any ImportError is the real one's."""
    torch_npu = import_npu(guarded)
    make_home(package)
    importlib.import_module("cpuinfer_ext.moe")
    importlib.import_module("acl")
    return torch_npu


def import_capture_plugin() -> None:
    """Graph mode imports the capture plugin from CAPTURE_PLUGIN_PATH, which may be relative to the working directory."""
    path = os.environ.get("CAPTURE_PLUGIN_PATH")
    if path is None:
        raise RuntimeError("env CAPTURE_PLUGIN_PATH not exist")
    sys.path.append(path)
    plugin = importlib.import_module("libgraph_capture")
    for name in ("init", "destroy", "begin", "end", "replay", "launch_callback"):
        if not hasattr(plugin, "graph_capture_" + name):
            raise ImportError(f"cannot import name 'graph_capture_{name}' from 'libgraph_capture' ({plugin.__file__})")


def check_switches(graph: bool) -> None:
    """The environment variables that torch_npu refuses (its OptionsManager.cpp and NPUGraph.cpp)."""
    if os.environ.get("INF_NAN_MODE_FORCE_DISABLE", "0") not in ("0", "1"):
        raise RuntimeError("INF_NAN_MODE_FORCE_DISABLE should be 0 or 1.")
    if graph and os.environ.get("TASK_QUEUE_ENABLE") == "2":
        raise RuntimeError("Do not support TASK_QUEUE_ENABLE = 2 during NPU graph capture, please export TASK_QUEUE_ENABLE=1/0.")


def process_group(torch_npu, tp: int) -> tuple:
    """(rank, world size) from torchrun's environment; prints the two lines that tell that the group is up."""
    os.environ["MASTER_ADDR"] = "localhost"
    rank, world = int(os.getenv("LOCAL_RANK", "0")), int(os.getenv("WORLD_SIZE", "1"))
    torch_npu.npu.set_device(rank)
    groups = world // tp
    print(f"start to init process group ------rank is {rank}, world_size is {world}", flush=True)
    print(f"init process group success ------rank is {rank}, world_size is {world}", flush=True)
    if groups == 0:
        # tp > world size is not checked by the engine: there is no group that this rank is in.
        raise AssertionError("tensor parallel group is not initialized")
    return rank, world
