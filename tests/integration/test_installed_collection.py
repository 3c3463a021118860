"""The tarball that is published, installed somewhere else, without the checkout."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from tests.release.checks import BELONGS, CHECKOUT, misplaced
from tests.release.installed import install, run

MODULES = sorted(path.stem for path in (CHECKOUT / "plugins" / "modules").glob("*.py"))
ROLES = ["host", "hdk", "conda_py311", "cann", "torch_npu_opplugin", "weights_merge", "npu_graph_sink", "ktransformers", "verify"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("installed")
    install(place)
    return place


def test_the_tarball_holds_what_belongs_to_the_collection(installed: Path):
    (tarball,) = installed.glob("*.tar.gz")
    with tarfile.open(tarball) as archive:
        members = archive.getmembers()
    assert misplaced(members) == []
    assert {member.name.split("/")[0] for member in members} == BELONGS
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
