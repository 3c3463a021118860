"""The simulated engine asks and refuses as the real one did: engine-asks.json is the recording of its runs on a CPU."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import pytest

from tests.simulator.engine import contract, loader, model_folder
from tests.unit.simulator.engine import merging

RECORDING = json.loads((Path(__file__).parent / "engine-asks.json").read_text())
ASKED = RECORDING["asked"]


def load(model_path, gguf_path=None):
    """Loads as local_chat does, from the tokenizer to the last tensor; the loaded model."""
    model_folder.read_tokenizer(str(model_path))
    config = model_folder.read_config(str(model_path))
    model_folder.set_default_dtype(config)
    architecture = model_folder.build_model(str(model_path), config)
    return contract.load(config, architecture, loader.GGUFLoader(str(gguf_path or model_path), config.get("quantize")))


def outcome(*paths) -> str:
    try:
        load(*paths)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "loads silently"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


@pytest.fixture
def folder(tmp_path, contents):
    """A merge of its own for a test that damages it."""
    return merging.write_folder(tmp_path / "merged", contents)


def test_every_name_is_asked_for_in_the_recorded_order(merged):
    assert load(merged).loader.asked == [entry["name"] for entry in ASKED]


def test_the_recorded_types_are_those_of_the_merge(contents):
    assert {entry["name"]: (entry["dtype"], entry["shape"]) for entry in ASKED} == {
        name: (dtype, shape) for name, (dtype, shape, _) in contents.items()}


@pytest.mark.parametrize("entry", [pytest.param(entry, id=entry["name"]) for entry in ASKED[:-1]])
def test_a_missing_tensor_ends_as_recorded(merged, entry):
    config = model_folder.read_config(str(merged))
    found = loader.GGUFLoader(str(merged), config["quantize"])
    del found.safetensor_loader.tensor_file_map[entry["name"]]
    try:
        contract.load(config, config["architectures"][0], found)
        ended = "loads silently"
    except Exception as error:
        ended = f"{type(error).__name__}: {error}"
    assert ended == entry["if_missing"]


CONFIGS = [
    ("config.json without quantize", {"quantize": None}),
    ('config.json quantize "W8A8_DYNAMIC" (capitals)', {"quantize": "W8A8_DYNAMIC"}),
    ("config.json torch_dtype bfloat16", {"torch_dtype": "bfloat16"}),
    ("config.json without torch_dtype", {"torch_dtype": None}),
    ("config.json without rope_scaling", {"rope_scaling": None}),
    ("config.json without architectures", {"architectures": None}),
    ("architectures[0] DeepseekV2ForCausalLM", {"architectures": ["DeepseekV2ForCausalLM"]}),
    ("architectures[0] unknown", {"architectures": ["Other"]}),
    ("config.json without auto_map, model_type deepseekv2", {"auto_map": None}),
    ("config.json without auto_map, model_type deepseek_v3", {"auto_map": None, "model_type": "deepseek_v3"}),
    ("num_hidden_layers one more than in the files", {"num_hidden_layers": 4}),
    ("num_hidden_layers one less", {"num_hidden_layers": 2}),
]


def recorded(change: str, folder: Path) -> str:
    """The outcome of a variation in the recording; `…` where it was shortened there."""
    entry = next(entry for entry in RECORDING["negative"] if entry["change"] == change)
    return entry["outcome"].replace("DIR", str(folder))


def agrees(ended: str, expected: str) -> bool:
    return ended.startswith(expected[:-3].rstrip()) if expected.endswith("...") else ended == expected


@pytest.mark.parametrize("change, values", CONFIGS, ids=[change for change, _ in CONFIGS])
def test_a_changed_config_ends_as_recorded(folder, change, values):
    merging.set_config(folder, **values)
    ended = outcome(folder)
    assert agrees(ended, recorded(change, folder)), ended


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def remove(folder: Path, name: str) -> None:
    (folder / name).unlink()


def layer_0(folder: Path) -> Path:
    return folder / "model-00001-of-00003.safetensors"


def to_subfolder(folder: Path, name: str) -> None:
    (folder / "sub").mkdir()
    shutil.move(layer_0(folder), folder / "sub" / name)


def only(folder: Path, *suffixes: str) -> None:
    for path in folder.iterdir():
        if path.suffix in suffixes:
            path.unlink()


FILES = [
    ("a truncated extra .safetensors", lambda folder: (shutil.copy(layer_0(folder), folder / "extra.safetensors"), truncate(folder / "extra.safetensors"))),
    ("an extra .safetensors that is an LFS pointer", lambda folder: (folder / "x.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")),
    ("an extra empty .safetensors", lambda folder: (folder / "x.safetensors").write_bytes(b"")),
    ("layer 0 file truncated", lambda folder: truncate(layer_0(folder))),
    ("layer 0 file moved to a subfolder under the base name of another file", lambda folder: to_subfolder(folder, "model-00000-of-00003.safetensors")),
    ("layer 0 file moved to a subfolder, own name", lambda folder: to_subfolder(folder, layer_0(folder).name)),
    ("auto_map, no configuration_deepseek.py", lambda folder: remove(folder, "configuration_deepseek.py")),
    ("no config.json", lambda folder: remove(folder, "config.json")),
    ("no tokenizer.json", lambda folder: remove(folder, "tokenizer.json")),
    ("no .safetensors, no .gguf", lambda folder: only(folder, ".safetensors")),
    (".gguf files beside the merged files", lambda folder: (folder / "x.gguf").write_bytes(b"GGUF")),
    ("a broken model.safetensors.index.json", lambda folder: (folder / "model.safetensors.index.json").write_text("{")),
]


@pytest.mark.parametrize("change, damage", FILES, ids=[change for change, _ in FILES])
def test_a_damaged_folder_ends_as_recorded(folder, change, damage):
    damage(folder)
    ended = outcome(folder)
    assert agrees(ended, recorded(change, folder)), ended


PATHS = [
    ("gguf_path = the Q4_K_M folder", lambda folder: (folder, merging.PAIR / "gguf")),
    ("gguf_path = the unmerged W8A8 folder", lambda folder: (folder, merging.PAIR / "w8a8")),
    ("gguf_path = one of the merged files", lambda folder: (folder, layer_0(folder))),
]


@pytest.mark.parametrize("change, paths", PATHS, ids=[change for change, _ in PATHS])
def test_a_wrong_path_ends_as_recorded(merged, change, paths):
    assert outcome(*paths(merged)) == recorded(change, merged)


def test_paths_that_do_not_exist(merged, tmp_path):
    missing = tmp_path / "nowhere"
    assert outcome(merged, missing) == f"FileNotFoundError: GGUF dir not found: {missing}"
    assert outcome(missing) == recorded("model_path does not exist", missing)


def test_merges_written_as_pairs_are_refused(folder):
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["model"]["merges"] = [merge.split(" ") for merge in tokenizer["model"]["merges"]]
    path.write_text(json.dumps(tokenizer))
    assert outcome(folder).startswith("Exception: data did not match any variant of untagged enum ModelWrapper at line 1 column ")


def test_the_python_config_has_to_be_python(folder):
    (folder / "configuration_deepseek.py").write_text("this is no Python\n")
    assert outcome(folder) == "SyntaxError: invalid syntax (configuration_deepseek.py, line 1)"


def test_no_generation_config_is_said_and_passed(folder, capsys):
    remove(folder, "generation_config.json")
    assert model_folder.read_generation_config(str(folder))["do_sample"] is True
    assert capsys.readouterr().out.startswith(f"generation config can't auto create, make default. Message: {folder} does not appear")


def test_a_bad_file_is_named_twice(folder, capsys):
    truncate(layer_0(folder))
    outcome(folder)
    words = "Error while deserializing header: incomplete metadata, file not fully covered"
    assert capsys.readouterr().out.count(f"Error opening Safetensor file {layer_0(folder)}: {words}") == 2


def test_the_last_file_by_name_wins(folder):
    dtype, shape, data = "BF16", [256], b"\1\2" * 256
    merging.write_safetensors(folder / "stray.safetensors", {"blk.0.attn_norm.weight": (dtype, shape, data)})
    assert load(folder).tensors["blk.0.attn_norm.weight"].read() == data


def test_the_plain_loader_names_the_original_tensor(tmp_path, contents):
    left = {name: tensor for name, tensor in contents.items() if name != "blk.0.attn_q_a_norm.bias"}
    folder = merging.write_folder(tmp_path / "merged", left, quantize=None)
    assert outcome(folder) == "KeyError: 'Key model.layers.0.self_attn.q_a_layernorm.bias not found in Safetensor files'"


@pytest.mark.parametrize("data, ended", [
    pytest.param(struct.pack("<i", 12), "loads silently", id="I32-of-one-element"),
    pytest.param(struct.pack("<ii", 12, 12), "RuntimeError: a Tensor with 2 elements cannot be converted to Scalar", id="two-elements"),
])
def test_the_type_of_experts_may_have_any_width(tmp_path, contents, data, ended):
    changed = {**contents, "blk.1.ffn_up_exps.ggml_type": ("I32", [len(data) // 4], data)}
    assert outcome(merging.write_folder(tmp_path / "merged", changed)) == ended


def test_tensors_of_the_mtp_layer_are_never_asked_for(tmp_path, contents):
    extra = {name.replace("blk.2.", "blk.3."): tensor for name, tensor in contents.items() if name.startswith("blk.2.")}
    folder = merging.write_folder(tmp_path / "merged", {**contents, **extra})
    assert [name for name in load(folder).loader.asked if name.startswith("blk.3.")] == []
