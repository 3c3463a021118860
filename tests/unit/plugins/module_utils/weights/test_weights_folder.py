# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys

import pytest
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights import folder
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.errors import WeightsError

from tests.unit.plugins.module_utils.weights.builders import CHECKOUT, FIXTURES, write_safetensors


@pytest.fixture
def w8a8(tmp_path):
    shutil.copytree(FIXTURES / "tiny-msmodelslim" / "w8a8", tmp_path / "w8a8")
    return tmp_path / "w8a8"


def index_of(path):
    return next(path.glob("*index.json"))


def change_index(path, change):
    index = index_of(path)
    value = json.loads(index.read_text())
    change(value["weight_map"])
    index.write_text(json.dumps(value))


def refused(path, layers=3):
    with pytest.raises(WeightsError) as caught:
        folder.inspect(str(path), layers)
    return str(caught.value)


def test_contents(w8a8):
    found = folder.inspect(str(w8a8), 3)
    assert [item.name for item in found.shards] == sorted(path.name for path in w8a8.glob("*.safetensors"))
    assert found.left_out == {"mtp": 29, "expert_weights": 18, "expert_scales": 36}
    assert len(found.kept) == 205 - 29 - 54
    assert found.indexes == ["quant_model_weight_w8a8_dynamic.index.json"]
    assert found.descriptions == ["quant_model_description_w8a8_dynamic.json"]
    assert found.side_files == ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]
    assert found.experts[(1, "gate_proj", "weight")] == (3, 2, (("I8", (256, 256)),))
    assert (found.ignored, found.missing, found.rotation) == ([], [], None)
    assert sum(count for count, _size in found.stats.values()) == 205
    assert sum(size for _count, size in found.stats.values()) + sum(
        folder.read_header(str(path)).data_start for path in w8a8.glob("*.safetensors")) == sum(path.stat().st_size for path in w8a8.glob("*.safetensors"))


@pytest.mark.parametrize("name", ["model.safetensors.index.json", "index.json", "weights.json"])
def test_an_index_of_any_name(w8a8, name):
    index_of(w8a8).rename(w8a8 / name)
    found = folder.inspect(str(w8a8), 3)
    assert found.indexes == [name] and name not in found.side_files


def test_no_index(w8a8):
    expected = folder.inspect(str(w8a8), 3)
    index_of(w8a8).unlink()
    (w8a8 / "optional").mkdir()
    (w8a8 / "rank_0").mkdir()
    (w8a8 / ".cache").mkdir()
    for name in ("optional/a.safetensors", "rank_0/b.safetensors", ".cache/c.safetensors"):
        (w8a8 / name).write_bytes(b"no weights of the model")
    found = folder.inspect(str(w8a8), 3)
    assert (found.kept, found.shards, found.indexes) == (expected.kept, expected.shards, [])


def test_weights_in_a_subfolder(w8a8):
    index_of(w8a8).unlink()
    (w8a8 / "mtp").mkdir()
    (w8a8 / "mtp.safetensors").rename(w8a8 / "mtp" / "mtp.safetensors")
    assert "mtp/mtp.safetensors" in [item.name for item in folder.inspect(str(w8a8), 3).shards]


def test_files_beside_the_index_are_ignored(w8a8):
    write_safetensors(w8a8 / "stray.safetensors", {"model.norm.weight": ("BF16", (256,), bytes(512))})
    assert folder.inspect(str(w8a8), 3).ignored == ["stray.safetensors"]


def test_the_index_of_the_source_model_came_along(w8a8):
    (w8a8 / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"lm_head.weight": "model-00163-of-000163.safetensors"}}))
    found = folder.inspect(str(w8a8), 3)
    assert found.indexes == ["quant_model_weight_w8a8_dynamic.index.json"]
    assert "model.safetensors.index.json" not in found.side_files


def test_an_index_of_its_own_for_mtp(w8a8):
    def split(weight_map):
        for name in [name for name, item in weight_map.items() if item == "mtp.safetensors"]:
            del weight_map[name]

    change_index(w8a8, split)
    assert folder.inspect(str(w8a8), 3).left_out["mtp"] == 0
    (w8a8 / "mtp.index.json").write_text(json.dumps({"weight_map": {"model.layers.3.eh_proj.weight": "mtp.safetensors"}}))
    assert folder.inspect(str(w8a8), 3).left_out["mtp"] == 29


def test_two_indexes_that_contradict_each_other(w8a8):
    (w8a8 / "z.index.json").write_text(json.dumps({"weight_map": {"lm_head.weight": "mtp.safetensors"}}))
    assert "z.index.json: byte 0: says that lm_head.weight is in mtp.safetensors, another index of the folder says quant_model" in refused(w8a8)


@pytest.mark.parametrize("entry", ["../../etc/x.safetensors", "/etc/x.safetensors", "a/../../x.safetensors", "x.bin", "", "a\0.safetensors",
                                   "a\\x.safetensors"])
def test_an_index_that_points_outside(w8a8, entry):
    change_index(w8a8, lambda weight_map: weight_map.update({"a": entry}))
    assert refused(w8a8) == (f"{index_of(w8a8)}: byte 0: its weight_map names the file {entry!r}; a .safetensors file inside the folder was expected. "
                             "Bring the index that was published with the weights")


def test_an_index_with_numbers(w8a8):
    change_index(w8a8, lambda weight_map: weight_map.update({"a": 5}))
    assert refused(w8a8).endswith("its weight_map has values that are no file names. Bring the file again")


def test_an_index_that_is_none(w8a8):
    index_of(w8a8).write_text('{"metadata": {}}')
    assert refused(w8a8).endswith("is named as an index and has no weight_map object. Bring the file again, or remove it: the folder is then walked")
    index_of(w8a8).write_text("{")
    assert "is no JSON" in refused(w8a8)


def test_a_missing_shard_of_the_index(w8a8):
    (w8a8 / "quant_model_weight_w8a8_dynamic-00002-of-00003.safetensors").unlink()
    assert refused(w8a8) == (f"{w8a8}: 1 of its safetensors files are missing (quant_model_weight_w8a8_dynamic-00002-of-00003.safetensors). "
                             "Bring them, or check whether the download was complete")
    assert folder.inspect(str(w8a8), 3, incomplete=True).missing == ["quant_model_weight_w8a8_dynamic-00002-of-00003.safetensors"]


def test_a_missing_shard_of_the_numbering(w8a8):
    index_of(w8a8).unlink()
    (w8a8 / "quant_model_weight_w8a8_dynamic-00003-of-00003.safetensors").unlink()
    assert "1 of its safetensors files are missing (quant_model_weight_w8a8_dynamic-00003-of-00003.safetensors)" in refused(w8a8)


def test_a_tensor_that_its_file_lacks(w8a8):
    change_index(w8a8, lambda weight_map: weight_map.update({"model.layers.0.ghost": "mtp.safetensors"}))
    assert refused(w8a8) == (f"{index_of(w8a8)}: byte 0: lists 1 tensors that are not in the file it names: model.layers.0.ghost is nowhere, not in "
                             "mtp.safetensors. Bring the index and the files of one and the same export")
    change_index(w8a8, lambda weight_map: weight_map.update({"model.layers.0.ghost": "quant_model_weight_w8a8_dynamic-00001-of-00003.safetensors"}))
    assert "is nowhere, not in quant_model_weight_w8a8_dynamic-00001-of-00003.safetensors" in refused(w8a8)


def test_a_tensor_in_another_file(w8a8):
    change_index(w8a8, lambda weight_map: weight_map.update({"model.norm.weight": "mtp.safetensors"}))
    assert "model.norm.weight is in quant_model_weight_w8a8_dynamic-0000" in refused(w8a8)


def test_a_tensor_twice(w8a8):
    index_of(w8a8).unlink()
    write_safetensors(w8a8 / "zz.safetensors", {"model.norm.weight": ("BF16", (256,), bytes(512))})
    assert "zz.safetensors: byte 8: tensor model.norm.weight stands in quant_model_weight_w8a8_dynamic-0000" in refused(w8a8)


def test_an_expert_that_is_none(w8a8):
    index_of(w8a8).unlink()
    write_safetensors(w8a8 / "zz.safetensors", {"model.layers.1.mlp.experts.one.gate_proj.weight": ("I8", (1,), b"\0")})
    assert refused(w8a8) == (f"{w8a8}: the tensor model.layers.1.mlp.experts.one.gate_proj.weight is named like an expert's and is none. "
                             "Bring the export again")


def test_an_lfs_pointer_among_the_weights(w8a8):
    (w8a8 / "mtp.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert refused(w8a8) == (f"{w8a8 / 'mtp.safetensors'}: byte 0: is a Git LFS pointer of a few lines, not the file itself. "
                             "In the clone, run: git lfs install && git lfs pull")


def test_an_lfs_pointer_among_the_side_files(w8a8):
    (w8a8 / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "tokenizer.json: byte 0: is a Git LFS pointer" in refused(w8a8)


def test_a_pipe_among_the_side_files(w8a8):
    os.mkfifo(w8a8 / "extra.json")
    assert "extra.json: is no regular file" in refused(w8a8)


def test_swapped_and_empty_folders(tmp_path):
    assert refused(FIXTURES / "tiny-a" / "gguf") == (
        f"{FIXTURES / 'tiny-a' / 'gguf'}: holds GGUF files and no safetensors file. It looks as if safetensors_path and gguf_path were swapped: "
        "safetensors_path takes the W8A8 folder")
    assert refused(tmp_path) == f"{tmp_path}: holds no safetensors file. Give the folder with the model's .safetensors files"
    assert refused(tmp_path / "nowhere") == f"{tmp_path / 'nowhere'}: it does not exist. Correct the path, or bring the file"


@pytest.mark.parametrize("mark", [
    pytest.param(lambda path: change_description(path, {"optional": {"quarot": {"global_rotation": "x"}}}), id="optional.quarot"),
    pytest.param(lambda path: change_description(path, {"rot": True}), id="rot"),
    pytest.param(lambda path: ((path / "optional").mkdir(), (path / "optional" / "quarot.safetensors").write_bytes(b"")), id="file"),
    pytest.param(lambda path: (index_of(path).unlink(), write_safetensors(path / "r.safetensors", {"global_rotation": ("F32", (1,), b"1234")})), id="tensor"),
])
def test_rotated_exports(w8a8, mark):
    mark(w8a8)
    assert folder.inspect(str(w8a8), 3).rotation is not None


@pytest.mark.parametrize("more", [{"optional": {}}, {"rot": False}, {"rope_scaling": "W8A8"}])
def test_what_is_no_rotation(w8a8, more):
    change_description(w8a8, more)
    assert folder.inspect(str(w8a8), 3).rotation is None


def change_description(path, more):
    description = next(path.glob("quant_model_description*.json"))
    description.write_text(json.dumps(dict(json.loads(description.read_text()), **more)))


AS_NOBODY = """
import os, sys
sys.path.insert(0, {collections!r})
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights import folder
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    folder.inspect({path!r}, 3)
except Exception as exc:
    print(type(exc).__name__, exc)
"""


def as_another_user(path):
    """What inspect() says to a user who is not root (the tests may be)."""
    code = AS_NOBODY.format(collections=str(CHECKOUT / "collections"), path=str(path))
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.fixture
def reachable(w8a8):
    """The folder where another user could read it: pytest's own folders are closed to others."""
    for parent in w8a8.parents:
        if parent.stat().st_uid == os.geteuid() and not parent.stat().st_mode & 0o001:
            parent.chmod(stat.S_IMODE(parent.stat().st_mode) | 0o011)
    for path in w8a8.iterdir():
        path.chmod(0o644)
    w8a8.chmod(0o755)
    return w8a8


def test_files_that_the_user_may_not_read(reachable):
    assert as_another_user(reachable) == ""
    victim = reachable / "quant_model_weight_w8a8_dynamic-00002-of-00003.safetensors"
    victim.chmod(0o000)
    found = as_another_user(reachable)
    assert found.startswith(f"WeightsError {victim}: user ")
    assert found.endswith("mode 0000); msModelSlim writes its files with mode 0400. Run the task as the owner (become, become_user), "
                          f"or have the owner run: chmod -R a+rX {reachable}\n")


def test_a_folder_that_the_user_may_not_list(reachable):
    reachable.chmod(0o000)
    found = as_another_user(reachable)
    reachable.chmod(0o755)
    assert found.startswith(f"WeightsError {reachable}: user ") and "mode 0000" in found
