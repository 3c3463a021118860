"""What conda_py311 refuses before anything is changed: one run of its preflight over a host for each case."""

from __future__ import annotations

import json
import os
import sys

import pytest

from tests.unit.roles.playing import CHECKOUT, keep, lay_media, play, role

MINIFORGE = {"conda_py311_installer": "Miniforge3-24.9.2-0", "conda_py311_channels": ["conda-forge"], "conda_py311_pip_source": "index"}
MINICONDA = {"conda_py311_channels": ["conda-forge"], "conda_py311_pip_source": "index"}
TERMS = "conda_accept_tos is not true, and {} comes under Anaconda's terms of service"


def case(name, variables, *problems):
    return pytest.param(variables, list(problems), id=name)


CASES = [
    case("miniconda", {**MINICONDA}, ("conda_py311-terms", TERMS.format("Miniconda3-py311_24.9.2-0"))),
    case("miniconda-accepted", {**MINICONDA, "conda_accept_tos": True}),
    case("miniforge", {**MINIFORGE}),
    case("default-channels", {**MINIFORGE, "conda_py311_channels": ["defaults", "conda-forge"]}, ("conda_py311-terms", TERMS.format("defaults"))),
    case(
        "anacondas-address",
        {**MINIFORGE, "conda_py311_channels": ["https://repo.anaconda.com/pkgs/main"]},
        ("conda_py311-terms", TERMS.format("https://repo.anaconda.com/pkgs/main")),
    ),
    case("conda-forge-by-address", {**MINIFORGE, "conda_py311_channels": ["https://conda.anaconda.org/conda-forge"]}),
    case("mirror", {**MINIFORGE, "conda_py311_channels": ["https://mirror.example.com/conda-forge"]}),
    case(
        "no-installer-in-the-media",
        {**MINICONDA, "conda_accept_tos": True, "conda_py311_installer": "Miniconda3-py312_1"},
        ("media-Miniconda3-py312_1-Linux-aarch64.sh", None),
    ),
    case("no-lock-in-the-media", {**MINIFORGE, "conda_py311_pip_source": "media"}, ("media-requirements.lock", None)),
    case("no-channel-in-the-media", {**MINIFORGE, "conda_py311_channels": ["media"]}, ("media-noarch", None), ("media-linux-aarch64", None)),
    case(
        "another-machine",
        {**MINIFORGE, "npu_node": {"npu": {"host": {"architecture": "riscv64"}}}},
        ("conda_py311-architecture", "{host} is riscv64"),
        ("media-Miniforge3-24.9.2-0-Linux-riscv64.sh", None),
    ),
    case(
        "broken-environment",
        {**MINIFORGE, "npu_python": "{base}/broken/bin/python"},
        ("conda_py311-broken", "{base}/broken/bin/python does not run: bad interpreter"),
        ("", None),
    ),
    case(
        "another-python",
        {**MINIFORGE, "npu_python": sys.executable, "conda_py311_python_version": "3.5"},
        ("conda_py311-python", f"{os.path.dirname(os.path.dirname(sys.executable))} has Python {'.'.join(map(str, sys.version_info[:3]))}"),
    ),
]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with media that hold the two installers, and an environment that does not work."""
    base = tmp_path_factory.mktemp("conda")
    names = ("conda/Miniconda3-py311_24.9.2-0-Linux-aarch64.sh", "conda/Miniforge3-24.9.2-0-Linux-aarch64.sh")
    lay_media(base / "media", dict.fromkeys(names, b"#!/bin/sh\n"))
    (base / "broken/bin").mkdir(parents=True)
    python = base / "broken/bin/python"
    python.write_text("#!/bin/sh\necho bad interpreter >&2\nexit 126\n")
    python.chmod(0o755)
    return base


@pytest.fixture(scope="module")
def problems(base):
    """Problems of each case, by its name."""
    common = {
        "media_source": f"{base}/media",
        "npu_state_dir": f"{base}/state",
        "npu_scope": "user",
        "npu_config_dir": f"{base}/etc",
        "conda_py311_prefix": f"{base}/conda",
        "npu_python": f"{base}/conda/envs/py311/bin/python",
        "npu_preflight_collect": True,
        "npu_node": {"npu": {"host": {"architecture": "aarch64"}}},
    }
    hosts = {one.id: {**common, **json.loads(json.dumps(one.values[0]).replace("{base}", str(base)))} for one in CASES}
    return play(base, hosts, [role("conda_py311", "preflight"), keep("npu_problems | default([])")])


@pytest.mark.parametrize("variables, expected", CASES)
def test_problems_before_anything_is_changed(problems, base, request, variables, expected):
    name = request.node.callspec.id
    found = problems[name]
    expected = [(what, words.format(base=base, host=name) if words else None) for what, words in expected if what or words]
    assert {problem["id"] for problem in found} >= {what for what, _ in expected}
    if not expected:
        assert found == []
    for what, words in expected:
        problem = next(problem for problem in found if problem["id"] == what)
        assert words is None or problem["observed"] == words
        assert problem["expected"] and problem["repair"]


def test_the_terms_name_the_variable_and_the_text(problems):
    problem = problems["miniconda"][0]
    assert "https://www.anaconda.com/legal" in problem["expected"]
    assert problem["repair"].startswith("set conda_accept_tos: true, or use Miniforge")


def test_nothing_was_changed(problems, base):
    assert not (base / "state").exists() and not (base / "conda").exists() and not (base / "etc").exists()


@pytest.mark.parametrize("machine, listed", [("x86_64", True), ("aarch64", False)])
def test_cpufeature_counts_on_x86_only(tmp_path, machine, listed):
    hosts = {"node": {"npu_node": {"npu": {"host": {"architecture": machine}}}, "conda_py311_requirements": ["numpy", "cpufeature==0.2.1", "cpufeature-tools"]}}
    tasks = [{"ansible.builtin.include_vars": {"file": str(CHECKOUT / "roles/conda_py311/vars/main.yml")}}, keep("__conda_py311_requirements")]
    assert play(tmp_path, hosts, tasks)["node"] == ["numpy", *(["cpufeature==0.2.1"] if listed else []), "cpufeature-tools"]
