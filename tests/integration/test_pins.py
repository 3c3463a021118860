"""The pins of a deployed node: a build that moves one is caught, and the stage of Python brings it back and shows it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.nodes import CHECKOUT, Node

sys.path.append(str(CHECKOUT / "tests" / "simulator"))
import wheels  # noqa: E402

FOUND = "the build of KTransformers left numpy 1.26.3 in"


def installed(node: Node) -> str:
    code = "import importlib.metadata as found; print(found.version('numpy'))"
    python = node.path / "opt/miniconda3/envs/py311/bin/python"
    return subprocess.run([str(python), "-I", "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_a_build_that_moves_a_pin_is_caught_and_the_pin_brought_back(deployed_node: Node, tmp_path: Path):
    name, content = wheels.guide_wheel("numpy", "1.26.3", ("numpy",))
    (tmp_path / name).write_bytes(content)
    build = f"bash install.sh && PIP_CONSTRAINT= pip install --no-index --no-deps --find-links {tmp_path} numpy==1.26.3"
    run = deployed_node.play("--tags", "ktransformers", "-e", json.dumps({"ktransformers_build": ["bash", "-c", build]}))
    assert run.rc != 0
    assert FOUND in run.flat() and "numpy ==1.26.4" in run.flat() and "bring the pins back with --tags conda_py311" in run.flat(), run.output[-4000:]
    assert installed(deployed_node) == "1.26.3"

    shown = deployed_node.play("--tags", "conda_py311", "--check", "--diff")
    assert shown.rc == 0, shown.output[-4000:]
    assert "-numpy==1.26.3" in shown.output and "+numpy==1.26.4" in shown.output
    assert installed(deployed_node) == "1.26.3"

    brought = deployed_node.play("--tags", "conda_py311", "--diff")
    assert brought.rc == 0, brought.output[-4000:]
    assert "-numpy==1.26.3" in brought.output and "+numpy==1.26.4" in brought.output
    assert installed(deployed_node) == "1.26.4"

    again = deployed_node.play("--tags", "conda_py311")
    assert (again.rc, again.recap("changed")) == (0, 0), again.output[-4000:]


@pytest.mark.skipif(not shutil.which("gcc"), reason="no gcc here")
def test_a_build_that_needs_a_newer_libstdcxx_is_caught(deployed_node: Node, tmp_path: Path):
    """A real extension, as a compiler newer than the environment's libstdc++ builds it."""
    (tmp_path / "new.c").write_text("int npuops_new(void) { return 0; }\n")
    (tmp_path / "new.map").write_text("GLIBCXX_3.4.99 { npuops_new; };\n")
    (tmp_path / "ext.c").write_text("int npuops_new(void);\nint npuops_ext(void) { return npuops_new(); }\n")
    gcc = ["gcc", "-shared", "-fPIC", "-o"]
    script = f"-Wl,--version-script={tmp_path}/new.map"
    subprocess.run([*gcc, "libstdc++.so.6", "new.c", "-Wl,-soname,libstdc++.so.6", script], cwd=tmp_path, check=True)
    subprocess.run([*gcc, "KTransformersOps.so", "ext.c", "libstdc++.so.6"], cwd=tmp_path, check=True)
    site_packages = next((deployed_node.path / "opt/miniconda3/envs/py311/lib").glob("python3.*/site-packages"))
    build = f"bash install.sh && cp {tmp_path}/KTransformersOps.so {site_packages}/"
    try:
        run = deployed_node.play("--tags", "ktransformers", "-e", json.dumps({"ktransformers_build": ["bash", "-c", build]}))
    finally:
        (site_packages / "KTransformersOps.so").unlink(missing_ok=True)
    assert run.rc != 0
    assert f"{site_packages}/KTransformersOps.so needs GLIBCXX_3.4.99" in run.flat() and "bring a newer libstdcxx-ng" in run.flat(), run.output[-4000:]
