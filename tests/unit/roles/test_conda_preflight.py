"""What conda_py311 refuses before anything is changed: one run of its preflight over a host for each case."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

CHECKOUT = Path(__file__).resolve().parents[3]
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
    case("anacondas-address", {**MINIFORGE, "conda_py311_channels": ["https://repo.anaconda.com/pkgs/main"]},
         ("conda_py311-terms", TERMS.format("https://repo.anaconda.com/pkgs/main"))),
    case("conda-forge-by-address", {**MINIFORGE, "conda_py311_channels": ["https://conda.anaconda.org/conda-forge"]}),
    case("mirror", {**MINIFORGE, "conda_py311_channels": ["https://mirror.example.com/conda-forge"]}),
    case("no-installer-in-the-media", {**MINICONDA, "conda_accept_tos": True, "conda_py311_installer": "Miniconda3-py312_1"},
         ("media-Miniconda3-py312_1-Linux-aarch64.sh", None)),
    case("no-lock-in-the-media", {**MINIFORGE, "conda_py311_pip_source": "media"}, ("media-requirements.lock", None)),
    case("no-channel-in-the-media", {**MINIFORGE, "conda_py311_channels": ["media"]}, ("media-noarch", None), ("media-linux-aarch64", None)),
    case("another-machine", {**MINIFORGE, "npu_node": {"npu": {"host": {"architecture": "riscv64"}}}},
         ("conda_py311-architecture", "{host} is riscv64"), ("media-Miniforge3-24.9.2-0-Linux-riscv64.sh", None)),
    case("broken-environment", {**MINIFORGE, "npu_python": "{base}/broken/bin/python"},
         ("conda_py311-broken", "{base}/broken/bin/python does not run: bad interpreter"), ("", None)),
    case("another-python", {**MINIFORGE, "npu_python": sys.executable, "conda_py311_python_version": "3.5"},
         ("conda_py311-python", f"{os.path.dirname(os.path.dirname(sys.executable))} has Python {'.'.join(map(str, sys.version_info[:3]))}")),
]


def play(base: Path, hosts: dict[str, dict], tasks: list[dict]) -> dict[str, dict]:
    """Facts that a play with `tasks` leaves for each host; they end in one JSON file."""
    inventory = {"all": {"vars": {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "ansible_remote_tmp": str(base / "tmp")},
                         "children": {"npu": {"hosts": hosts}}}}
    (base / "inventory.yml").write_text(yaml.safe_dump(inventory))
    plays = [{"hosts": "npu", "gather_facts": False, "tasks": tasks},
             {"hosts": "npu", "gather_facts": False, "tasks": [{"ansible.builtin.copy": {"dest": f"{base}/{{{{ inventory_hostname }}}}.json", "content": "{{ result | to_json }}"}}]}]
    (base / "play.yml").write_text(yaml.safe_dump(plays))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    environment |= {"ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"), "ANSIBLE_HOME": str(base / "home"), "ANSIBLE_COLLECTIONS_PATH": str(CHECKOUT / "collections"),
                    "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORKS": "2"}
    done = subprocess.run([str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(base / "inventory.yml"), str(base / "play.yml")],
                          cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return {host: json.loads((base / f"{host}.json").read_text()) for host in hosts}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with media that hold the two installers, and an environment that does not work."""
    base = tmp_path_factory.mktemp("conda")
    files = []
    for name in ("conda/Miniconda3-py311_24.9.2-0-Linux-aarch64.sh", "conda/Miniforge3-24.9.2-0-Linux-aarch64.sh"):
        path = base / "media" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        files.append({"path": name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "size": 10, "version": "1", "arch": "aarch64", "origin": "test"})
    (base / "media/manifest.yml").write_text(yaml.safe_dump({"files": files}))
    (base / "broken/bin").mkdir(parents=True)
    python = base / "broken/bin/python"
    python.write_text("#!/bin/sh\necho bad interpreter >&2\nexit 126\n")
    python.chmod(0o755)
    return base


@pytest.fixture(scope="module")
def problems(base):
    """Problems of each case, by its name."""
    common = {"media_source": f"{base}/media", "npu_state_dir": f"{base}/state", "npu_scope": "user", "npu_config_dir": f"{base}/etc",
              "conda_py311_prefix": f"{base}/conda", "npu_python": f"{base}/conda/envs/py311/bin/python", "npu_preflight_collect": True,
              "npu_node": {"npu": {"host": {"architecture": "aarch64"}}}}
    hosts = {one.id: {**common, **json.loads(json.dumps(one.values[0]).replace("{base}", str(base)))} for one in CASES}
    tasks = [{"ansible.builtin.include_role": {"name": "npuops.ktransformers.conda_py311", "tasks_from": "preflight"}},
             {"ansible.builtin.set_fact": {"result": "{{ npu_problems | default([]) }}"}}]
    return play(base, hosts, tasks)


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
    tasks = [{"ansible.builtin.include_vars": {"file": str(CHECKOUT / "roles/conda_py311/vars/main.yml")}},
             {"ansible.builtin.set_fact": {"result": "{{ __conda_py311_requirements }}"}}]
    assert play(tmp_path, hosts, tasks)["node"] == ["numpy", *(["cpufeature==0.2.1"] if listed else []), "cpufeature-tools"]
