"""The tarball that is published, installed somewhere else, without the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.integration.nodes import CHECKOUT

BIN = Path(sys.executable).parent
MODULES = sorted(path.stem for path in (CHECKOUT / "plugins" / "modules").glob("*.py"))
ROLES = ["host", "hdk", "conda_py311", "cann", "torch_npu_opplugin", "weights_merge", "npu_graph_sink", "ktransformers", "verify"]
BELONGS = {
    "CHANGELOG.rst", "FILES.json", "LICENSE", "MANIFEST.json", "README.md", "README.zh-CN.md",
    "changelogs", "docs", "inventories", "meta", "playbooks", "plugins", "roles",
}  # fmt: skip


def run(place: Path, *command: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    environment |= {"ANSIBLE_COLLECTIONS_PATH": str(place / "collections"), "ANSIBLE_HOME": str(place / "home"), "ANSIBLE_NOCOLOR": "1"}
    done = subprocess.run([str(BIN / command[0]), *command[1:]], cwd=place, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("installed")
    run(place, "ansible-galaxy", "collection", "build", str(CHECKOUT), "--output-path", str(place))
    run(place, "ansible-galaxy", "collection", "install", "--offline", "-p", str(place / "collections"), *map(str, place.glob("*.tar.gz")))
    return place


def test_the_tarball_holds_what_belongs_to_the_collection(installed: Path):
    (tarball,) = installed.glob("*.tar.gz")
    with tarfile.open(tarball) as archive:
        names = archive.getnames()
    assert {name.split("/")[0] for name in names} == BELONGS
    assert [name for name in names if "__pycache__" in name or name.endswith(".pyc")] == []
    assert tarball.stat().st_size < 2_000_000


def test_every_module_is_documented(installed: Path):
    listed = json.loads(run(installed, "ansible-doc", "-t", "module", "-l", "--json", "npuops.ktransformers"))
    assert sorted(name.rsplit(".", 1)[1] for name in listed) == MODULES
    assert all(listed.values())


def test_every_role_is_documented(installed: Path):
    listed = json.loads(run(installed, "ansible-doc", "-t", "role", "-l", "--json", "npuops.ktransformers"))
    found = {name.rsplit(".", 1)[1]: set(role["entry_points"]) for name, role in listed.items()}
    for role in ROLES:
        assert {"main", "preflight", "verify"} <= found[role]


@pytest.mark.parametrize("playbook", sorted(path.stem for path in (CHECKOUT / "playbooks").glob("*.yml")))
def test_every_playbook_is_found_by_its_full_name(installed: Path, playbook: str):
    inventory = installed / "hosts.yml"
    inventory.write_text("npu: {hosts: {one: {}}}\n")
    run(installed, "ansible-playbook", f"npuops.ktransformers.{playbook}", "-i", str(inventory), "--syntax-check")
