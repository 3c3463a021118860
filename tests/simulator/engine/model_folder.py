# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The model folder as transformers reads it: tokenizer first, then config.json, with the messages of transformers 4.43."""

from __future__ import annotations

import ast
import json
import os
import shutil
from pathlib import Path

from . import startup
from .tokenizer import Tokenizer

# transformers knows the model type without auto_map from here on.
KNOWN_SINCE = {"deepseek_v3": (4, 51, 0), "deepseek_v2": (4, 54, 0)}
CUSTOM_MODELS = ("DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM", "Qwen2MoeForCausalLM", "LlamaForCausalLM", "MixtralForCausalLM")


def transformers_version() -> tuple:
    return startup.version_tuple(startup.version_of("transformers", "4.43.2"))


def _missing(folder: str, name: str) -> OSError:
    revision = "None" if transformers_version() < (4, 51, 0) else "main"
    return OSError(f"{folder} does not appear to have a file named {name}. "
                   f"Checkout 'https://huggingface.co/{folder}/tree/{revision}' for available files.")


def read_tokenizer(folder) -> Tokenizer:
    """AutoTokenizer.from_pretrained, which comes before anything else is read."""
    if not isinstance(folder, (str, os.PathLike)):
        raise TypeError(f"expected str, bytes or os.PathLike object, not {type(folder).__name__}")
    folder = os.fspath(folder)
    if not os.path.isdir(folder):
        raise OSError(f"Incorrect path_or_model_id: '{folder}'. Please provide either the path to a local folder or the repo_id "
                      "of a model on the Hub.")
    settings_path = os.path.join(folder, "tokenizer_config.json")
    if not os.path.exists(settings_path):
        # ASSUMPTION: the tokenizer's class is then looked up by the config's, which is none that transformers has.
        raise ValueError("Unrecognized configuration class <class 'transformers_modules.configuration_deepseek.DeepseekV3Config'> "
                         "to build an AutoTokenizer.")
    path = os.path.join(folder, "tokenizer.json")
    if not os.path.exists(path):
        raise ValueError("Couldn't instantiate the backend tokenizer from one of: \n"
                         "(1) a `tokenizers` library serialization file, \n"
                         "(2) a slow tokenizer instance to convert or \n"
                         "(3) an equivalent slow tokenizer class to instantiate and convert. \n"
                         "You need to have sentencepiece installed to convert a slow tokenizer to a fast one.")
    with open(path, encoding="utf-8") as stream:
        text = stream.read()
    data = json.loads(text)
    merges = data.get("model", {}).get("merges", [])
    if any(not isinstance(merge, str) for merge in merges) and transformers_version() < (4, 45, 0):
        # tokenizers 0.19, which 4.43 pulls in, knows only merges written as one string.
        lines = text.splitlines() or [""]
        raise Exception("data did not match any variant of untagged enum ModelWrapper at "
                        f"line {len(lines)} column {len(lines[-1])}")
    with open(settings_path, encoding="utf-8") as stream:
        return Tokenizer(data, json.load(stream))


def read_config(folder: str) -> dict:
    """AutoConfig.from_pretrained(trust_remote_code=True): config.json, and the Python file that its auto_map names."""
    path = os.path.join(folder, "config.json")
    if not os.path.exists(path):
        raise _missing(folder, "config.json")
    with open(path, encoding="utf-8") as stream:
        config = json.load(stream)
    reference = (config.get("auto_map") or {}).get("AutoConfig")
    if reference:
        _load_python_config(folder, reference)
    else:
        kind = config.get("model_type")
        if kind not in KNOWN_SINCE or transformers_version() < KNOWN_SINCE[kind]:
            raise ValueError(f"The checkpoint you are trying to load has model type `{kind}` but Transformers does not recognize this "
                             "architecture. This could be because of an issue with the checkpoint, or because your version of "
                             "Transformers is out of date.")
    return config


def _load_python_config(folder: str, reference: str) -> None:
    module, _, name = reference.partition(".")
    source = os.path.join(folder, module + ".py")
    if not os.path.exists(source):
        raise _missing(folder, module + ".py")
    # The file is copied to the modules cache and imported from there: HF_HOME must be writable.
    home = os.environ.get("HF_HOME") or os.path.join(os.path.expanduser("~"), ".cache", "huggingface")
    cache = Path(os.environ.get("HF_MODULES_CACHE") or os.path.join(home, "modules"))
    target = cache / "transformers_modules" / Path(folder).name
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target / (module + ".py"))
    # Compiled, not run: the simulated transformers has nothing that the file could import.
    text = Path(source).read_text(encoding="utf-8")
    tree = ast.parse(text, filename=module + ".py")
    if name not in [node.name for node in tree.body if isinstance(node, ast.ClassDef)]:
        raise AttributeError(f"module 'transformers_modules.{Path(folder).name}.{module}' has no attribute '{name}'")


def set_default_dtype(config: dict) -> str:
    """torch.set_default_dtype(config.torch_dtype)."""
    dtype = config.get("torch_dtype")
    if dtype not in ("float16", "bfloat16", "float32", "float64"):
        raise TypeError("invalid dtype object: only floating-point types are supported as the default type")
    return dtype


def build_model(folder: str, config: dict) -> str:
    """The model class by architectures[0]; prints what the real one prints."""
    architecture = config.get("architectures")[0]
    if architecture not in CUSTOM_MODELS:
        raise _missing(folder, "modeling_deepseek.py")
    print("using custom modeling_xxx.py.", flush=True)
    return architecture


def read_generation_config(folder: str) -> dict:
    path = os.path.join(folder, "generation_config.json")
    if not os.path.exists(path):
        print(f"generation config can't auto create, make default. Message: {_missing(folder, 'generation_config.json')}")
        return {"temperature": 0.6, "top_p": 0.95, "do_sample": True}
    with open(path, encoding="utf-8") as stream:
        return json.load(stream)
