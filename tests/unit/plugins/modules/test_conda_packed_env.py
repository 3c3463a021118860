"""A real environment (py-rattler, from the simulated channel), packed by the real conda-pack and unpacked elsewhere."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile

import pytest
from ansible_collections.npuops.ktransformers.plugins.module_utils import packed_env
from ansible_collections.npuops.ktransformers.plugins.module_utils.packed_env import PackedEnvError

from tests.unit.packing import VERSION, libraries, pack
from tests.unit.simulator.simulated import ARCH, OTHER_ARCH


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return pack(tmp_path_factory.mktemp("packed"))


def run(command, environment):
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_an_environment_moves(archive, tmp_path):
    packed = packed_env.inspect(str(archive))
    assert packed.machine == ARCH and packed.packages["libstdcxx-ng"] == "13.2.0"
    assert packed_env.problems(packed, VERSION, ARCH, ["libstdcxx-ng>=13"]) == []
    prefix = tmp_path / "opt/envs/py311"
    packed_env.unpack(str(archive), str(prefix), run, {})
    assert libraries(prefix) == [str(prefix / "lib"), str(prefix / "lib" / f"python{VERSION}/site-packages/pip")]
    assert [path.name for path in prefix.parent.iterdir()] == ["py311"]
    with pytest.raises(PackedEnvError, match="is there already"):
        packed_env.unpack(str(archive), str(prefix), run, {})
    assert (prefix / "bin/python").exists()


@pytest.mark.parametrize(
    "version, machine, packages, words",
    [
        pytest.param("3.5", ARCH, [], "it has Python {python}, 3.5 is wanted", id="another-python"),
        pytest.param(VERSION, OTHER_ARCH, [], f"it is for {ARCH}, the node is {OTHER_ARCH}", id="another-architecture"),
        pytest.param(VERSION, ARCH, ["libstdcxx-ng", "cmake=3.26"], "it has no cmake", id="a-package-is-missing"),
    ],
)
def test_what_does_not_fit(archive, version, machine, packages, words):
    python = "{}.{}.{}".format(*sys.version_info)
    assert packed_env.problems(packed_env.inspect(str(archive)), version, machine, packages) == [words.format(python=python)]


@pytest.mark.parametrize("end", [1000, 2_000_000])
def test_a_truncated_archive_is_refused(archive, tmp_path, end):
    short = tmp_path / "short.tar.gz"
    short.write_bytes(archive.read_bytes()[:-end])
    with pytest.raises(PackedEnvError, match="^short.tar.gz is damaged or cut short .*; bring it to the media again, then index them.$"):
        packed_env.inspect(str(short))


def lay(path, *names, linkname=""):
    with tarfile.open(path, "w:gz") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            if linkname:
                info.type, info.linkname = tarfile.LNKTYPE, linkname
                tar.addfile(info)
                continue
            data = json.dumps({"name": "python", "version": VERSION, "subdir": "linux-64"}).encode() if name.endswith(".json") else b"#!/bin/sh\n"
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return str(path)


@pytest.mark.parametrize(
    "names, linkname, words",
    [
        pytest.param(["bin/python"], "", "has no bin/conda-unpack, expected an archive that conda-pack made", id="somebody-elses-archive"),
        pytest.param(["../outside"], "", "holds ../outside, which would lie outside", id="outside"),
        pytest.param(["/etc/passwd"], "", "holds /etc/passwd, which would lie outside", id="absolute"),
        pytest.param(["bin/link"], "../../etc/passwd", "holds bin/link, which would lie outside", id="hard-link"),
    ],
)
def test_other_archives(tmp_path, names, linkname, words):
    with pytest.raises(PackedEnvError, match=words):
        packed_env.inspect(lay(tmp_path / "some.tar.gz", *names, linkname=linkname))


def test_an_environment_that_does_not_run_leaves_nothing(tmp_path):
    path = lay(tmp_path / "some.tar.gz", "bin/python", "bin/conda-unpack", f"conda-meta/python-{VERSION}-0.json")
    (tmp_path / "envs").mkdir()
    with pytest.raises(PackedEnvError, match="conda-unpack failed in .*: no room; pack the environment again"):
        packed_env.unpack(path, str(tmp_path / "envs/py311"), lambda command, environment: (1, "", "no room\n"), {})
    assert list((tmp_path / "envs").iterdir()) == []
