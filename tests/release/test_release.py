"""`make release-check`: the tarball of this checkout, judged as a whole. Its cheap parts have tests of their own in tests/unit."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml

from tests.integration.nodes import simulate
from tests.release import checks
from tests.release.checks import CHECKOUT
from tests.release.installed import away, install, run

# The environment and the folder of the logs that the Makefile names.
TOOLS = CHECKOUT / ".cache" / "venv-release" / "bin"
KEPT = CHECKOUT / ".cache" / "release"
FINAL = os.environ.get("FINAL") == "1"


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty place, with the tarball and what was installed from it."""
    place = tmp_path_factory.mktemp("release")
    install(place)
    return place


@pytest.fixture(scope="session")
def tarball(place: Path) -> Path:
    (found,) = place.glob("*.tar.gz")
    return found


@pytest.fixture(scope="session")
def names(tarball: Path) -> set[str]:
    with tarfile.open(tarball) as archive:
        return {member.name for member in archive.getmembers() if member.isfile()}


@pytest.fixture(scope="session")
def galaxy() -> dict:
    return yaml.safe_load((CHECKOUT / "galaxy.yml").read_text())


def test_nothing_is_inside_but_what_belongs(tarball: Path):
    with tarfile.open(tarball) as archive:
        assert checks.misplaced(archive.getmembers()) == []


def test_all_of_the_repository_that_is_published_is_inside(names: set[str]):
    assert checks.unlike(names, checks.tracked()) == []


def test_name_and_version_agree(tarball: Path, galaxy: dict):
    assert checks.unlisted(checks.load(tarball, "MANIFEST.json"), galaxy, tarball.name) == []


def test_no_plugin_is_newer_than_the_release(place: Path, galaxy: dict):
    documented = {}
    for kind in ("module", "filter", "test"):
        listed = json.loads(run(place, "ansible-doc", "-t", kind, "-l", "--json", "npuops.ktransformers"))
        dumped = json.loads(run(place, "ansible-doc", "-t", kind, "--json", *listed))
        documented |= {name: entry["doc"].get("version_added") or "0" for name, entry in dumped.items()}
    assert len(documented) >= len(list((CHECKOUT / "plugins/modules").glob("*.py")))
    assert checks.newer(galaxy["version"], documented) == []


def test_the_changelog_has_this_version(tmp_path: Path, galaxy: dict):
    """With FINAL=1 in the checkout as it is; else after releasing the fragments in a copy, which shows that they can be released."""
    folder = CHECKOUT / "changelogs"
    released = yaml.safe_load((folder / "changelog.yaml").read_text()) if (folder / "changelog.yaml").exists() else {}
    fragments = sorted(path.name for path in (folder / "fragments").glob("*.y*ml"))
    version = galaxy["version"]
    assert checks.changelog(version, released, (CHECKOUT / "CHANGELOG.rst").read_text(), fragments, FINAL) == []
    if version in (released.get("releases") or {}):
        return
    copy = tmp_path / "ansible_collections" / "npuops" / "ktransformers"
    for name in [*checks.tracked(), "galaxy.yml"]:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CHECKOUT / name, copy / name)
    command = [str(Path(sys.executable).parent / "antsibull-changelog"), "release"]
    environment = away(tmp_path) | {"ANSIBLE_COLLECTIONS_PATH": str(tmp_path), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    left = sorted(path.name for path in (copy / "changelogs" / "fragments").glob("*.y*ml"))
    assert checks.changelog(version, yaml.safe_load((copy / "changelogs/changelog.yaml").read_text()), (copy / "CHANGELOG.rst").read_text(), left, True) == []


def test_the_front_page_has_what_certification_asks_for(galaxy: dict):
    assert checks.front_page((CHECKOUT / "README.md").read_text(), galaxy["version"]) == []


def test_the_metadata_of_execution_environments_is_right(place: Path, tarball: Path, names: set[str]):
    metadata = checks.load(tarball, "meta/execution-environment.yml")
    told = subprocess.run([TOOLS / "ansible-builder", "introspect", place / "collections"], env=away(place), capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    found = yaml.safe_load(told.stdout)
    # Those that it could not read would be missing here, without an error.
    wanted = [line for line in (CHECKOUT / "meta/ee-bindep.txt").read_text().splitlines() if not line.startswith("#")]
    assert found == {"python": [], "system": [f"{line}  # from collection npuops.ktransformers" for line in wanted]}
    python = [line.split("#")[0].strip() for line in (CHECKOUT / "meta/ee-requirements.txt").read_text().splitlines()]
    assert checks.execution_environment(metadata, names, [line for line in python if line]) == []


def test_galaxy_importer_takes_it(tarball: Path):
    """Its log stays in .cache/release, whether it is satisfied or not."""
    KEPT.mkdir(parents=True, exist_ok=True)
    (KEPT / "importer_result.json").unlink(missing_ok=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "GALAXY_"))}
    environment |= {
        "GALAXY_IMPORTER_CONFIG": str(CHECKOUT / "tests/release/galaxy-importer.cfg"),
        "HOME": str(KEPT / "home"),
        "PATH": f"{TOOLS}:{os.environ['PATH']}",
    }
    command = [str(TOOLS / "python"), "-m", "galaxy_importer.main", str(tarball)]
    done = subprocess.run(command, cwd=KEPT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=3600, check=False)
    (KEPT / "galaxy-importer.log").write_text(done.stdout)
    assert done.returncode == 0, done.stdout[-3000:]
    assert re.findall(r"^(?:ERROR|WARNING).*$", done.stdout, re.MULTILINE) == []
    result = json.loads((KEPT / "importer_result.json").read_text())
    for kind, found in (("module", "plugins/modules/*.py"), ("role", "roles/*/meta/main.yml"), ("playbook", "playbooks/*.yml")):
        imported = [one["name"] for one in result["contents"] if one["content_type"] == kind]
        assert len(imported) == len(list(CHECKOUT.glob(found))), f"{kind}: {imported}"


def test_the_rehearsal_runs_from_what_is_installed(place: Path):
    node = simulate(place / "rehearsal")
    inventory = place / "collections/ansible_collections/npuops/ktransformers/inventories/rehearsal"
    arguments = ["-i", str(inventory), "-e", f"rehearsal_root={node.root}"]
    first = run(place, "ansible-playbook", "npuops.ktransformers.site", *arguments, timeout=1800)
    assert re.search(r"^simulated-800i-a2\s+: ok=.*\bfailed=0", first, re.MULTILINE), first[-3000:]
    second = run(place, "ansible-playbook", "npuops.ktransformers.site", *arguments, timeout=1800)
    assert re.search(r"^simulated-800i-a2\s+: ok=.*\bchanged=0\b.*\bfailed=0", second, re.MULTILINE), second[-3000:]
    assert str(CHECKOUT / "roles") not in first + second, "the checkout was used"
