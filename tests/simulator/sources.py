# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The simulated op-plugin: an archive with one folder and, where git is at hand, a bundle of the same tree."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from runpack import World
from tree import DATE, Tree
from wheels import TORCH_NPU_VERSION, torch_npu_files

HERE = Path(__file__).resolve().parent / "op_plugin"
NAME = "op-plugin-7.0.0"
BRANCH = "v2.3.1-7.0.0"


def op_plugin(world: World, private: bool = True) -> Tree:
    """The source tree. private: with the operators of the guide's fork; else what the public branch would build."""
    tree = Tree()
    tree.file(
        "README.md",
        "# op-plugin 7.0.0, simulated by npuops\n\nStands in for the adapted op-plugin, which is not public. "
        "A file FAIL_BUILD in this folder makes the build fail.\n",
    )
    tree.file("install.sh", (HERE / "install.sh").read_text(), 0o755)
    tree.file("ci/build.sh", (HERE / "install.sh").read_text(), 0o755)
    tree.file("version.txt", "7.0.0\n")
    for name in ("MatmulDequantKernelNpu", "MatmulPpKernelNpu", "TopkToppSamplingKernelNpu"):
        tree.file(f"op_plugin/ops/opapi/{name}.cpp", "// Simulated by npuops.\n")
    tree.file("op_plugin/config/op_plugin_functions.yaml", "# Simulated by npuops.\n")
    tree.file("build/pytorch/BRANCH", BRANCH + "\n")
    tree.file("build/pytorch/version.txt", TORCH_NPU_VERSION + "\n")
    tree.file("build/pytorch/setup.py", (HERE / "setup.py").read_text())
    for path, text in torch_npu_files(world, private).items():
        tree.file(f"build/pytorch/{path}", text)
    return tree


def git_bundle(tree: Tree, branch: str, subject: str) -> bytes | None:
    """The tree as one commit on `branch`; None without git. The same tree and git give the same bytes."""
    if shutil.which("git") is None:
        return None
    who = {
        f"GIT_{role}_{key}": value
        for role in ("AUTHOR", "COMMITTER")
        for key, value in (("NAME", "simulated"), ("EMAIL", "simulated@example.invalid"), ("DATE", f"{DATE} +0000"))
    }
    environment = {"PATH": os.environ["PATH"], "HOME": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, **who}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / "work"
        tree.lay(work)
        for command in (
            ["init", "--quiet", f"--initial-branch={branch}"],
            ["add", "--all", "--force"],
            ["commit", "--quiet", "--no-gpg-sign", "-m", subject],
            ["bundle", "create", "--quiet", "../bundle", "HEAD", branch],
        ):
            subprocess.run(["git", "-c", "core.autocrlf=false", "-c", "pack.threads=1", *command], cwd=work, env=environment, check=True, capture_output=True)
        return (Path(folder) / "bundle").read_bytes()
