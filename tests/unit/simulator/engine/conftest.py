"""A merged folder, the simulated source tree and what the engine imports, laid once a session."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulator.engine import build
from tests.unit.simulator.engine import merging

RULE = "./ktransformers/optimize/optimize_rules/DeepSeek-V3-Chat-800IA2-npu.yaml"
# Stand-ins for what the simulator's wheels and the CANN toolkit have: names and answers only.
MODULES = {
    "torch": '__version__ = "2.3.1"\n',
    "acl": "",
    "torch_npu": '''__version__ = "2.3.1.post6"
class npu:
    @staticmethod
    def is_available():
        return True
    @staticmethod
    def set_device(device):
        pass
_npu_matmul_dequant = _npu_flash_attention_mla = _npu_matmul_pp = _npu_topk_topp_sampling = None
''',
}


class Engine:
    """Runs the engine of one source tree, as a process of its own."""

    def __init__(self, root: Path, source: Path):
        self.root, self.source = root, source
        self.home = root / "home"
        self.toolkit = root / "toolkit"
        for path in (self.home, self.toolkit / "lib64"):
            path.mkdir(parents=True)
        (self.toolkit / "lib64" / "libruntime.so").write_bytes((source / "ktransformers/util/npu_graph_so/x86/libruntime.so").read_bytes())
        self.modules = root / "modules"
        for name, text in MODULES.items():
            self.module(name, text)
        (self.modules / "cpuinfer_ext").symlink_to(source / "cpuinfer_ext")

    def module(self, name: str, text: str) -> None:
        (self.modules / name).mkdir(parents=True, exist_ok=True)
        (self.modules / name / "__init__.py").write_text(text)

    def environment(self, **changes) -> dict:
        values = {"PATH": os.environ["PATH"], "HOME": str(self.home), "PYTHONPATH": str(self.modules), "PYTHONDONTWRITEBYTECODE": "1",
                  "ASCEND_TOOLKIT_HOME": str(self.toolkit), "ATB_HOME_PATH": str(self.toolkit), **changes}
        return {key: value for key, value in values.items() if value is not None}

    def command(self, folder: Path, *flags: str, module: str = "ktransformers.local_chat", gguf_path: Path | None = None) -> list:
        return [sys.executable, "-m", module, "--model_path", str(folder), "--gguf_path", str(gguf_path or folder), "--optimize_config_path", RULE, *flags]

    def chat(self, folder: Path, *flags: str, prompts: str = "", gguf_path: Path | None = None, **environment) -> subprocess.CompletedProcess:
        return subprocess.run(self.command(folder, *flags, gguf_path=gguf_path), input=prompts, capture_output=True, text=True, check=False, cwd=self.source,
                              env=self.environment(**environment), timeout=120)


@pytest.fixture(scope="session")
def contents():
    return merging.contents()


@pytest.fixture(scope="session")
def merged(tmp_path_factory, contents):
    """The correct merge. Read only: tests that change it write their own."""
    return merging.write_folder(tmp_path_factory.mktemp("weights") / "merged", contents)


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """The simulated source tree, unpacked; without a pointer to numpy, as the tests' own Python has it."""
    folder = tmp_path_factory.mktemp("source") / build.NAME
    build.source_tree(folder / "no-pointer").lay(folder)
    return folder


@pytest.fixture
def engine(tmp_path, source):
    return Engine(tmp_path / "node", source)
