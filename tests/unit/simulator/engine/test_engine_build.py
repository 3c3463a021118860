"""What build.py lays, and how the simulated tree builds and installs itself."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import platform
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.simulator.engine import build

ARM_FILES = {
    "CMakeLists.txt": "csrc/ktransformers_ext/CMakeLists.txt",
    "iqk_mul_mat.inc": "third_party/llamafile/iqk_mul_mat.inc",
    "sgemm.cpp": "third_party/llamafile/sgemm.cpp",
    "tinyblas_cpu_sgemm.inc": "third_party/llamafile/tinyblas_cpu_sgemm.inc",
    "setup.py": "setup.py",
}


def state(folder: Path) -> dict:
    return {path.relative_to(folder).as_posix(): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
            for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def laid(tmp_path_factory):
    root = tmp_path_factory.mktemp("laid")
    entries = build.build(root / "media", root / "node", "aarch64", sys.executable)
    return root, entries


def test_the_manifest_names_what_is_in_the_media(laid):
    root, entries = laid
    assert {entry["path"] for entry in entries} == set(state(root / "media"))
    assert all(entry["version"] == "0.2.4" and entry["arch"] == "noarch" and "simulated" in entry["origin"] for entry in entries)


def test_a_second_build_changes_nothing(laid):
    root, entries = laid
    before = state(root)
    assert build.build(root / "media", root / "node", "aarch64", sys.executable) == entries
    assert state(root) == before


def test_weights_that_are_there_are_kept(laid, tmp_path):
    root, _ = laid
    shutil.copytree(root / "node", tmp_path / "node")
    path = tmp_path / "node/mnt/weights/DeepSeek-R1-W8A8/config.json"
    path.write_text("{}")
    build.weights(tmp_path / "node/mnt/weights")
    assert path.read_text() == "{}"


def test_the_archive_has_one_folder_and_what_the_guide_touches(laid):
    root, _ = laid
    with tarfile.open(root / "media/source/ktransformers-v0.2.4-npu.tar.gz") as archive:
        names = set(archive.getnames())
    assert {name.split("/")[0] for name in names} == {"ktransformers-v0.2.4-npu"}
    wanted = ["install.sh", "requirements-local_chat.txt", "ktransformers/server/requirements.txt", "ktransformers/local_chat.py",
              "ktransformers/server/main.py", "ktransformers/configs/config.yaml",
              "ktransformers/optimize/optimize_rules/DeepSeek-V3-Chat-800IA2-npu.yaml",
              *(f"ktransformers/util/npu_graph_so/{folder}/{file}" for folder in ("arm", "x86") for file in ("libruntime.so", "libgraph_capture.py")),
              *(f"for_arm/{name}" for name in ARM_FILES), *ARM_FILES.values()]
    assert [name for name in wanted if f"ktransformers-v0.2.4-npu/{name}" not in names] == []


def test_the_bundle_is_the_same_tree(laid, tmp_path, source):
    root, _ = laid
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", "--branch", "v0.2.4-npu", str(root / "media/source/ktransformers-v0.2.4-npu.bundle"), str(clone)], check=True,
                   capture_output=True)
    shutil.rmtree(clone / ".git")
    pointer = "ktransformers/simulated/numpy_pointer.txt"
    assert {name: digest for name, (digest, _) in state(clone).items() if name != pointer} == {
        name: digest for name, (digest, _) in state(source).items() if name != pointer and "__pycache__" not in name}


def test_the_replacements_for_arm_differ_from_the_trees_own(source):
    for name, path in ARM_FILES.items():
        assert (source / "for_arm" / name).read_bytes() != (source / path).read_bytes(), name


def with_overlay(source: Path, folder: Path) -> Path:
    shutil.copytree(source, folder)
    for name, path in ARM_FILES.items():
        shutil.copyfile(folder / "for_arm" / name, folder / path)
    return folder


@pytest.fixture
def compile_problem(source, monkeypatch):
    specification = importlib.util.spec_from_file_location("simulated_build", source / "tools" / "simulated_build.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)

    def problem(folder: Path, machine: str, setup_for: str):
        monkeypatch.chdir(folder)
        return module.compile_problem(machine, setup_for)

    return problem


def test_each_machine_builds_its_own_sources(compile_problem, source, tmp_path):
    assert compile_problem(source, "x86_64", "x86_64") is None
    assert compile_problem(with_overlay(source, tmp_path / "arm"), "aarch64", "aarch64") is None


def test_a_missing_replacement_is_a_compiler_error(compile_problem, source, tmp_path):
    assert "unrecognized command-line option '-mavx2'" in compile_problem(source, "aarch64", "x86_64")
    for name in ("iqk_mul_mat.inc", "sgemm.cpp", "tinyblas_cpu_sgemm.inc"):
        folder = with_overlay(source, tmp_path / name)
        shutil.copyfile(source / ARM_FILES[name], folder / ARM_FILES[name])
        problem = compile_problem(folder, "aarch64", "aarch64")
        assert f"{folder / ARM_FILES[name]}:" in problem and "fatal error: immintrin.h: No such file or directory" in problem
    assert "armv8.2-a" in compile_problem(with_overlay(source, tmp_path / "wrong"), "x86_64", "aarch64")


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A virtual environment whose packages satisfy the requirements by name, and a folder of wheels that is empty."""
    root = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", str(root / "venv")], check=True)
    packages = next((root / "venv" / "lib").glob("python*")) / "site-packages"
    from tests.unit.simulator.engine.conftest import MODULES

    for name, text in MODULES.items():
        (packages / name).mkdir()
        (packages / name / "__init__.py").write_text(text)
    (packages / "cpufeature.py").write_text("")
    for name, version in {"fire": "0.7.1", "transformers": "4.43.2", "numpy": "1.26.4", "torch": "2.3.1", "packaging": "26.3", "cpufeature": "0.2.1",
                          "protobuf": "7.36.2"}.items():
        information = packages / f"{name}-{version}.dist-info"
        information.mkdir()
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (information / "RECORD").write_text("")
    (root / "home" / ".ktransformers").mkdir(parents=True)
    (root / "wheels").mkdir()
    return root


def install(environment: Path, source: Path, **changes) -> subprocess.CompletedProcess:
    values = {"PATH": f"{environment / 'venv/bin'}:/usr/bin:/bin", "HOME": str(environment / "home"), "ASCEND_TOOLKIT_HOME": "/simulated", "PIP_NO_INDEX": "1",
              "PIP_FIND_LINKS": str(environment / "wheels"), "PIP_DISABLE_PIP_VERSION_CHECK": "1", **changes}
    return subprocess.run(["bash", "install.sh"], cwd=source, capture_output=True, text=True, check=False, timeout=300,
                          env={key: value for key, value in values.items() if value is not None})


@pytest.fixture
def tree(source, tmp_path):
    """A source tree that this computer can build, whatever its architecture."""
    return with_overlay(source, tmp_path / "tree") if platform.machine() == "aarch64" else Path(shutil.copytree(source, tmp_path / "tree"))


def test_install_builds_and_installs(environment, tree):
    run = install(environment, tree)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Installation completed successfully" in run.stdout
    assert not (environment / "home" / ".ktransformers").exists()
    question = "from cpuinfer_ext.moe import MOEConfig, MOE; import ktransformers; print(ktransformers.__file__)"
    proof = subprocess.run([environment / "venv/bin/python", "-c", question], cwd=environment, capture_output=True, text=True, check=False)
    assert "site-packages/ktransformers/__init__.py" in proof.stdout, proof.stderr
    listed = json.loads(subprocess.run([environment / "venv/bin/pip", "list", "--format=json"], capture_output=True, text=True, check=True).stdout)
    assert next(entry["version"] for entry in listed if entry["name"] == "ktransformers").startswith("0.2.4+npu2.3.1.post6torch23")
    assert (environment / "venv/bin/ktransformers").is_file()


def test_install_needs_the_toolkits_environment(environment, tree):
    run = install(environment, tree, ASCEND_TOOLKIT_HOME=None)
    assert (run.returncode, "ASCEND_TOOLKIT_HOME is not set" in run.stderr) == (1, True)


def test_install_needs_a_live_npu(environment, tree, tmp_path):
    (tmp_path / "torch_npu.py").write_text("class npu:\n    is_available = staticmethod(lambda: False)\n")
    run = install(environment, tree, PYTHONPATH=str(tmp_path))
    assert run.returncode != 0
    assert "ValueError: Unsupported backend: CUDA_HOME ROCM_HOME MUSA_HOME are not set" in run.stdout + run.stderr


def test_install_is_held_by_constraints(environment, tree, tmp_path):
    (tmp_path / "constraints.txt").write_text("transformers==4.57.1\n")
    run = install(environment, tree, PIP_CONSTRAINT=str(tmp_path / "constraints.txt"))
    assert run.returncode != 0
    assert "ResolutionImpossible" in run.stderr


def test_the_wheel_is_whole(environment, tree):
    command = "import sys; sys.path.insert(0, 'tools'); import simulated_build; print(simulated_build.write_wheel('dist', '0.2.4'))"
    name = subprocess.run([environment / "venv/bin/python", "-c", command], cwd=tree, capture_output=True, text=True, check=True).stdout.strip()
    with zipfile.ZipFile(tree / "dist" / name) as wheel:
        record = [line.split(",") for line in wheel.read("ktransformers-0.2.4.dist-info/RECORD").decode().splitlines()]
        assert sorted(path for path, _, _ in record) == sorted(wheel.namelist())
        assert {"cpuinfer_ext/moe.py", "ktransformers/simulated/forward.py",
                "ktransformers/optimize/optimize_rules/DeepSeek-V3-Chat-800IA2-npu.yaml"} <= set(wheel.namelist())
