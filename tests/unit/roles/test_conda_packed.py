"""conda_py311 from media that hold a packed environment: no conda, no channel, and nothing in place of what is refused."""

from __future__ import annotations

import pytest

from tests.unit.packing import VERSION, libraries, pack
from tests.unit.roles.playing import keep, lay_media, play, role, run
from tests.unit.simulator.simulated import ARCH


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return pack(tmp_path_factory.mktemp("packed")).read_bytes()


def variables(base, content):
    """A node whose media are nothing but this archive."""
    lay_media(base / "media", {f"conda/py311-{ARCH}.tar.gz": content})
    return {
        "media_source": f"{base}/media",
        "npu_scope": "user",
        "npu_state_dir": f"{base}/state",
        "npu_config_dir": f"{base}/etc",
        "npu_python": f"{base}/envs/py311/bin/python",
        "conda_py311_prefix": f"{base}/conda",
        "conda_py311_python_version": VERSION,
        "conda_py311_pip_source": "index",
        "conda_py311_requirements": ["pip"],
        "conda_py311_constraints": [],
        "conda_py311_imports": [],
    }


WHOLE = [role("conda_py311", "main"), keep("npu_stages.conda_py311 | combine({'conda': __conda_py311_asked.env.conda})")]


def test_the_environment_is_made_once_and_its_own(tmp_path, archive):
    node = variables(tmp_path, archive)
    found = play(tmp_path, {"node": node}, WHOLE)["node"]
    assert (found["state"], found["conda"]["libstdcxx-ng"]) == ("ok", "13.2.0")
    prefix = tmp_path / "envs/py311"
    assert libraries(prefix) == [str(prefix / "lib"), str(prefix / "lib" / f"python{VERSION}/site-packages/pip")]
    assert not (tmp_path / "conda").exists()
    again = run(tmp_path, {"node": node}, WHOLE)
    assert "changed=0" in again.stdout, again.stdout
    gone = run(tmp_path, {"node": node}, [role("conda_py311", "uninstall"), keep("{}")])
    assert gone.returncode == 0 and not (tmp_path / "envs/py311").exists(), gone.stdout


def test_check_mode_of_a_bare_node(tmp_path, archive):
    done = run(tmp_path, {"node": variables(tmp_path, archive)}, [role("conda_py311", "main"), keep("{}")], ("--check", "--diff"))
    assert done.returncode == 0, done.stdout
    assert not (tmp_path / "envs").exists()


def test_what_is_refused_leaves_nothing(tmp_path, archive):
    other = {"conda_py311_python_version": "3.5"}
    hosts = {"short": variables(tmp_path / "short", archive[:-100_000]), "other": {**variables(tmp_path / "other", archive), **other}}
    done = run(tmp_path, hosts, WHOLE)
    words = " ".join(done.stdout.split())
    assert done.returncode == 2
    assert f"py311-{ARCH}.tar.gz is damaged or cut short" in words
    assert f"py311-{ARCH}.tar.gz does not fit: it has Python {VERSION}." in words and "3.5 is wanted; pack such an environment with conda-pack." in words
    for host in hosts:
        assert not (tmp_path / host / "envs/py311").exists() and not (tmp_path / host / "envs/py311.npuops-new").exists()
