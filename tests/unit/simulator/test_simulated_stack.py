"""The simulated wheelhouse, op-plugin's build and torch_npu, in a real virtual environment with the real pip."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import venv

import pytest

from tests.unit.simulator.simulated import ARCH, Node

# isort: split
import sources
import wheels

VERSION = "{}.{}".format(*sys.version_info)
TAG = "cp{}{}".format(*sys.version_info)
LINES = [
    "numpy",
    "torch",
    "torchvision",
    "torchaudio",
    "packaging",
    "ninja",
    "transformers",
    "fire",
    "protobuf",
    "attrs",
    "decorator",
    "cloudpickle",
    "ml-dtypes",
    "scipy",
    "tornado",
    "absl-py",
    "psutil",
    "pyyaml",
    "setuptools",
    "wheel",
]


class Stack(Node):
    """A node with CANN, and an environment with the guide's pip set and the torch_npu built from the simulated sources."""

    def python(self, *arguments: str, environment: dict[str, str] | None = None, **keywords) -> subprocess.CompletedProcess:
        keywords.setdefault("timeout", 60)
        return subprocess.run(
            [str(self.env / "bin/python"), *arguments],
            env={"PATH": f"{self.env}/bin:/usr/bin:/bin", **(environment or {})},
            cwd=self.root,
            capture_output=True,
            text=True,
            check=False,
            **keywords,
        )

    def pip(self, *arguments: str) -> subprocess.CompletedProcess:
        return self.python("-m", "pip", "--isolated", "--disable-pip-version-check", "--no-cache-dir", *arguments)

    def build(self, *arguments: str, source=None, environment=None) -> subprocess.CompletedProcess:
        environment = {"PATH": f"{self.env}/bin:/usr/bin:/bin", **(environment if environment is not None else self.toolkit_environment())}
        return subprocess.run(
            ["bash", "install.sh", *(arguments or (f"--python={VERSION}", "--pytorch=v2.3.1-7.0.0"))],
            cwd=source or self.source,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def libraries(self, driver: bool = True) -> dict[str, str]:
        folders = [f"{self.toolkit}/latest/lib64"] + ([f"{self.ascend}/driver/lib64/driver"] if driver else [])
        return {**self.toolkit_environment(), "LD_LIBRARY_PATH": ":".join(folders), "PYTHONPATH": f"{self.toolkit}/latest/python/site-packages"}


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    node = Stack(tmp_path_factory.mktemp("stack"), privileged=False)
    assert node.install("toolkit").returncode == 0
    node.env = node.root / "opt/env"
    venv.create(node.env, with_pip=True)
    node.wheels = node.media / "wheels"
    node.wheels.mkdir()
    for name, content in wheels.wheelhouse(ARCH).items():
        (node.wheels / name).write_bytes(content)
    node.lock = node.wheels / "requirements.lock"
    done = node.pip("install", "--no-index", "--find-links", str(node.wheels), "--require-hashes", "-r", str(node.lock))
    assert done.returncode == 0, done.stderr
    node.source = node.root / "opt/op-plugin"
    sources.op_plugin(node.world).lay(node.source)
    node.built = node.build()
    assert node.built.returncode == 0, node.built.stdout + node.built.stderr
    done = node.pip("install", "--no-index", "--no-deps", *map(str, (node.source / "dist").glob("*.whl")))
    assert done.returncode == 0, done.stderr
    return node


def test_the_lock_has_a_wheel_for_every_line_of_the_guide(stack):
    names = {line.split("==")[0] for line in stack.lock.read_text().splitlines() if not line.startswith("#")}
    assert set(LINES) <= names
    assert ("cpufeature" in names) is (ARCH == "x86_64")
    assert "cpufeature" not in wheels.wheelhouse("aarch64")["requirements.lock"].decode()
    assert stack.pip("check").stdout.strip() == "No broken requirements found."


def test_every_distribution_says_that_it_is_simulated(stack):
    program = "import importlib.metadata as m\nfor d in m.distributions():\n    print(d.metadata['Name'], d.version, d.metadata['Summary'])"
    for line in stack.python("-c", program).stdout.splitlines():
        assert line.startswith("pip ") or "Simulated by npuops" in line


def test_modules_have_their_versions(stack):
    done = stack.python(
        "-c",
        "import numpy, transformers, google.protobuf, yaml, ml_dtypes, absl, attr, pkg_resources, packaging.version\n"
        "print(numpy.__version__, transformers.__version__, ml_dtypes.__version__)",
    )
    assert done.stdout.split() == ["1.26.4", "4.43.2", "0.5.4"], done.stderr


def test_a_changed_wheel_is_refused_by_its_hash(stack, tmp_path):
    for path in stack.wheels.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes() + (b"\0" if path.name.startswith("numpy") else b""))
    done = stack.pip("install", "--no-index", "--find-links", str(tmp_path), "--require-hashes", "--force-reinstall", "--dry-run", "-r", str(stack.lock))
    assert done.returncode == 1
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" in done.stderr


def test_torch_is_a_cpu_build_of_the_old_abi(stack):
    done = stack.python(
        "-c",
        "import torch; print(torch.__version__, torch.version.cuda, torch.compiled_with_cxx11_abi(), torch._C._GLIBCXX_USE_CXX11_ABI, torch.xpu.is_available(),"
        "(torch.ones(2, 2) @ torch.ones(2, 2)).sum().item())",
    )
    assert done.stdout.split() == ["2.3.1", "None", "False", "False", "False", "8.0"], done.stderr


# --- op-plugin ----------------------------------------------------------------------------------------------------------
def test_the_build_leaves_a_wheel_of_the_running_python(stack):
    assert [path.name for path in (stack.source / "dist").iterdir()] == [f"torch_npu-2.3.1.post6-{TAG}-{TAG}-linux_{ARCH}.whl"]
    assert "[100%] Built target torch_npu" in stack.built.stdout


@pytest.mark.parametrize(
    "arguments, environment, words",
    [
        pytest.param(["--python", VERSION], None, "ERROR Unsupported parameters", id="space-form"),
        pytest.param([f"--python={VERSION}", "--jobs=4"], None, "ERROR Unsupported parameters: --jobs=4", id="unknown"),
        pytest.param([], {}, "ASCEND_TOOLKIT_HOME is not set", id="no-environment"),
        pytest.param([f"--python={VERSION}", "--pytorch=v2.5.1"], None, "pathspec 'v2.5.1' did not match", id="another-branch"),
    ],
)
def test_refusals_of_the_build(stack, arguments, environment, words):
    done = stack.build(*arguments, environment=environment)
    assert done.returncode != 0
    assert words in done.stdout + done.stderr


def test_a_failing_build_hides_its_error_in_the_middle(stack, tmp_path):
    tree = sources.op_plugin(stack.world)
    tree.file("FAIL_BUILD", "")
    tree.lay(tmp_path / "broken")
    done = stack.build(source=tmp_path / "broken")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    at = next(number for number, line in enumerate(lines) if "error:" in line)
    assert 5 < at < len(lines) - 5
    assert not (tmp_path / "broken/dist").exists()


# --- torch_npu ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "environment, library",
    [
        pytest.param(lambda node: {}, "libhccl.so", id="set_env.sh-not-sourced"),
        pytest.param(lambda node: node.libraries(driver=False), "libascend_hal.so", id="driver-not-on-the-path"),
    ],
)
def test_the_guides_two_import_errors(stack, environment, library):
    done = stack.python("-c", "import torch_npu", environment=environment(stack))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"ImportError: {library}: cannot open shared object file: No such file or directory"
    assert "During handling of the above exception, another exception occurred:" in done.stderr


def test_torch_npu_answers_from_the_device_nodes(stack):
    program = (
        "import torch, torch_npu, torchair, acl\n"
        "print(torch_npu.__version__, torch_npu.npu.is_available(), torch_npu.npu.device_count(), torch.npu.get_device_name(0),"
        " torch.ones(2).npu().device, acl.get_soc_name())\n"
        "print([hasattr(torch_npu, name) for name in ('_npu_matmul_dequant', '_npu_flash_attention_mla', '_npu_matmul_pp', '_npu_topk_topp_sampling')])"
    )
    done = stack.python("-c", program, environment=stack.libraries())
    assert done.stdout.splitlines() == ["2.3.1.post6 True 8 Ascend910B4 npu:0 Ascend910B4", "[True, True, True, True]"], done.stderr
    manager = stack.root / "dev/davinci_manager"
    manager.rename(manager.with_name("away"))
    try:
        done = stack.python("-c", "import torch_npu; print(torch_npu.npu.is_available(), torch_npu.npu.device_count())", environment=stack.libraries())
        assert done.stdout.split() == ["False", "0"]
    finally:
        manager.with_name("away").rename(manager)


def test_the_public_wheel_has_the_version_but_not_the_operators(stack, tmp_path):
    name, content = wheels.public_torch_npu(ARCH, stack.world, f"{TAG}-{TAG}")
    (tmp_path / name).write_bytes(content)
    target = tmp_path / "target"
    assert stack.pip("install", "--no-index", "--no-deps", "--target", str(target), str(tmp_path / name)).returncode == 0
    environment = stack.libraries()
    environment["PYTHONPATH"] = str(target)
    done = stack.python(
        "-c",
        "import torch_npu, torch_npu.version as v; print(torch_npu.__version__, v.git_version[:8], hasattr(torch_npu, '_npu_matmul_pp'))",
        environment=environment,
    )
    assert done.stdout.split() == ["2.3.1.post6", "eb3b35e3", "False"], done.stderr


# --- torchrun -----------------------------------------------------------------------------------------------------------
@pytest.fixture
def module(stack):
    path = stack.root / "a_worker.py"
    path.write_text(
        "import os, sys\n"
        "names = ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'LOCAL_WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT')\n"
        "os.write(1, (' '.join([*(os.environ[name] for name in names), *sys.argv[1:]]) + '\\n').encode())\n"
        "sys.exit(int(os.environ.get('FAIL', '0')))\n"
    )
    return path.stem


@pytest.fixture
def port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return str(free.getsockname()[1])


@pytest.mark.parametrize("form", ["--nproc_per_node 2 --master_port {}", "--nproc_per_node=2 --master_port={}", "--nproc-per-node=2 --master-port {}"])
def test_torchrun_gives_its_workers_their_ranks(stack, module, port, form):
    done = stack.python(str(stack.env / "bin/torchrun"), *form.format(port).split(), "-m", module, "--tp", "1")
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [f"{rank} {rank} 2 2 127.0.0.1 {port} --tp 1" for rank in (0, 1)]


def test_torchrun_reports_a_failed_worker(stack, module, port):
    done = stack.python(str(stack.env / "bin/torchrun"), "--nproc_per_node", "1", "--master_port", port, "-m", module, environment={"FAIL": "3"})
    assert done.returncode == 1
    assert "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: " in done.stderr
    assert "a_worker FAILED" in done.stderr and "exitcode  : 3 (pid: " in done.stderr


def test_torchrun_says_when_its_port_is_taken(stack, module):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        at = ["--master_port", str(taken.getsockname()[1])]
        done = stack.python(str(stack.env / "bin/torchrun"), *at, "-m", module, environment={"NPUOPS_SIMULATOR_PORT_WAIT": "0"})
    assert done.returncode == 1
    assert "EADDRINUSE" in done.stderr


def test_torchrun_refuses_unknown_options(stack):
    done = stack.python(str(stack.env / "bin/torchrun"), "--nonsense", "-m", "x")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (2, "torchrun: error: unrecognized arguments: --nonsense")


def test_torchrun_ends_its_workers_when_it_is_ended(stack, port):
    (stack.root / "a_sleeper.py").write_text("import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(60)\n")
    running = subprocess.Popen(
        [str(stack.env / "bin/python"), str(stack.env / "bin/torchrun"), "--master_port", port, "-m", "a_sleeper"],
        cwd=stack.root,
        env={"PATH": "/usr/bin:/bin"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    worker = int(running.stdout.readline())
    running.send_signal(signal.SIGTERM)
    assert running.wait(timeout=30) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)
    running.stdout.close()
    running.stderr.close()
