# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What KTransformers on NPU asks of a folder of merged weights, as data, and the check of a plan or folder against it.

Source: both public engines were executed with every request recorded (support-npu b9828153: ktransformers/util/custom_loader.py,
operators/ascend/ascend_{linear,layernorm,experts,gate}.py; kvcache-ai c007d40b: the same names in the same order). What happens when
a tensor is missing was tried one by one. The engine itself checks neither shapes nor lengths; it would read past the end.
"""

from __future__ import annotations

import re
from typing import Any, Dict, List, NamedTuple, Optional, Set, Tuple

from ansible_collections.npuops.ktransformers.plugins.module_utils.weights import names
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.checks import full_name, weight_shapes
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.errors import Problem, problem, shortened
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.files import parse_json
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.gguf import GGML_TYPES
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.model import Model

ENGINES = ("none", "ktransformers")

FLOATS = ("BF16", "F16", "F32")
INTEGERS = ("I64", "I32", "I16", "I8", "U8")

KEY_ERROR = "KeyError: 'Key {name} not found in Safetensor files'"
FILE_NOT_FOUND = "FileNotFoundError: Weight file not found for key {module}"
NOT_IN_GGUF = "Exception: can't find {name} in GGUF file!"
SILENT = "loads silently; at the first prompt None reaches the NPU operator"


class Ask(NamedTuple):
    """One tensor that the engine asks of a module.

    dtypes: what it can convert. shape: "weight" (the module's), "rows" (its first dimension), "rows1" ([rows, 1]), "one" ([1]),
    "bytes" (all experts' bytes), "scalar" (one element, any number of dimensions). missing: what it does without.
    """

    suffix: str
    dtypes: Tuple[str, ...]
    shape: str
    missing: str


STATIC = (
    Ask("weight", ("I8",), "weight", FILE_NOT_FOUND),
    Ask("deq_scale", ("F32", "BF16"), "rows", SILENT),
    Ask("quant_bias", ("I32",), "rows", KEY_ERROR),
    Ask("input_scale", FLOATS, "one", KEY_ERROR),
    Ask("input_offset", FLOATS + ("I8",), "one", KEY_ERROR),
)
DYNAMIC = (
    Ask("weight", ("I8",), "weight", FILE_NOT_FOUND),
    Ask("weight_scale", FLOATS, "rows1", SILENT),
    Ask("weight_offset", FLOATS, "rows1", KEY_ERROR),
)
NORM = (Ask("weight", FLOATS, "weight", KEY_ERROR), Ask("bias", FLOATS, "weight", KEY_ERROR))
FLOAT_KEY = (Ask("weight", FLOATS, "weight", KEY_ERROR),)
FLOAT_GGUF = (Ask("weight", FLOATS, "weight", NOT_IN_GGUF),)
HEAD = (Ask("weight", FLOATS, "weight", FILE_NOT_FOUND),)
CORRECTION = (Ask("bias", FLOATS, "rows", KEY_ERROR),)
EXPERT_BYTES = (Ask("weight", ("U8",), "bytes", KEY_ERROR),)
EXPERT_TYPE = (Ask("ggml_type", INTEGERS, "scalar", KEY_ERROR),)
# The shared experts' up is fetched together with its gate, by key.
UP_STATIC = tuple(ask._replace(missing=KEY_ERROR) for ask in STATIC)
UP_DYNAMIC = tuple(ask._replace(missing=KEY_ERROR) for ask in DYNAMIC)

# (module, what is asked of it), modules in the engine's order. A tuple of two: static if the module has deq_scale, else dynamic.
Table = Tuple[Tuple[str, Tuple[Any, ...]], ...]
OUTSIDE: Table = (("output", HEAD), ("token_embd", FLOAT_GGUF))
ATTENTION: Table = (
    ("attn_q_a", STATIC), ("attn_q_a_norm", NORM), ("attn_q_b", STATIC), ("attn_kv_a_mqa", STATIC), ("attn_kv_a_norm", NORM),
    ("attn_kv_b", FLOAT_GGUF), ("attn_output", STATIC),
)
DENSE: Table = (("ffn_gate", (STATIC, DYNAMIC)), ("ffn_up", (STATIC, DYNAMIC)), ("ffn_down", (STATIC, DYNAMIC)))
MOE: Table = (
    ("ffn_gate_exps", EXPERT_BYTES), ("ffn_up_exps", EXPERT_BYTES), ("ffn_down_exps", EXPERT_BYTES),
    ("ffn_gate_exps", EXPERT_TYPE), ("ffn_up_exps", EXPERT_TYPE), ("ffn_down_exps", EXPERT_TYPE),
    ("ffn_gate_inp", FLOAT_KEY), ("exp_probs_b", CORRECTION),
)
SHARED: Table = (("ffn_gate_shexp", (STATIC, DYNAMIC)), ("ffn_up_shexp", (UP_STATIC, UP_DYNAMIC)), ("ffn_down_shexp", (STATIC, DYNAMIC)))
NORMS: Table = (("attn_norm", NORM), ("ffn_norm", NORM))
LAST: Table = (("output_norm", NORM),)

REMEDIES = {
    "bias": "Export with the norm biases (msModelSlim quant_deepseek_w8a8.py with anti-outlier, not --disable_anti and no modelslim_v1 recipe)",
    "deq_scale": "Export the attention static (msModelSlim without --dynamic)",
    "ggml_type": "Merge again with gguf_safetensors_merge, which writes it for every type",
}


class Tensor(NamedTuple):
    """What the check needs of a tensor; value is that of a ggml_type, where known."""

    dtype: str
    shape: Tuple[int, ...]
    value: Optional[int] = None


class Weights(NamedTuple):
    """A folder as the engine would see it: tensors, config.json, names of the files, and the beginning of tokenizer.json's merges."""

    tensors: Dict[str, Tensor]
    config: Dict[str, Any]
    files: Set[str]
    tokenizer_pairs: Optional[bool]
    chat_template: Optional[bool]


def wanted(model: Model, has: Set[str]) -> List[Tuple[Optional[int], str, Ask]]:
    """All the tensors that the engine will ask for, in its order: (layer, module, ask). `has` are the names in the folder."""
    asks: List[Tuple[Optional[int], str, Ask]] = []

    def add(layer: Optional[int], table: Table) -> None:
        for module, entry in table:
            if not isinstance(entry[0], Ask):
                entry = entry[0] if full_name(layer, module + ".deq_scale") in has else entry[1]
            asks.extend((layer, module, ask) for ask in entry)

    add(None, OUTSIDE)
    for layer in range(model.num_hidden_layers):
        add(layer, ATTENTION)
        if model.is_moe(layer):
            add(layer, MOE + SHARED if model.n_shared_experts else MOE)
        else:
            add(layer, DENSE)
        add(layer, NORMS)
    add(None, LAST)
    return asks


def check_tensors(model: Model, tensors: Dict[str, Tensor]) -> List[Problem]:
    """One problem a kind of tensor (module and suffix) and fault, naming the tensors."""
    missing: Dict[Tuple[str, Ask], List[str]] = {}
    dtypes: Dict[Tuple[str, Ask], List[str]] = {}
    shapes: Dict[Tuple[str, Ask], List[str]] = {}
    by_layer: Dict[Any, Dict[str, Tuple[int, ...]]] = {}
    for layer, module, ask in wanted(model, set(tensors)):
        name = full_name(layer, f"{module}.{ask.suffix}")
        tensor = tensors.get(name)
        if tensor is None:
            missing.setdefault((module, ask), []).append(name)
            continue
        if tensor.dtype not in ask.dtypes:
            dtypes.setdefault((module, ask), []).append(f"{name} is {tensor.dtype}")
        if layer not in by_layer:
            by_layer[layer] = weight_shapes(model, layer)
        expected = _expected(model, by_layer[layer], module, ask, layer, tensors)
        if expected is not None and not _fits(tensor, ask, expected):
            shapes.setdefault((module, ask), []).append(f"{name} is {list(tensor.shape)}, not {expected}")
    return ([_missing(module, ask, found) for (module, ask), found in missing.items()]
            + [_wrong_dtype(module, ask, found) for (module, ask), found in dtypes.items()]
            + [problem("engine_shape", f"{len(found)} tensors have a wrong length: {shortened(found)}",
                       "the lengths that config.json gives; the engine checks none and would read past the end",
                       "Bring weights and config.json of one model") for found in shapes.values()])


def _expected(model: Model, modules: Dict[str, Tuple[int, ...]], module: str, ask: Ask, layer: Optional[int],
              tensors: Dict[str, Tensor]) -> Optional[List[int]]:
    if ask.shape == "one":
        return [1]
    if ask.shape == "scalar":
        return []
    if ask.shape == "bytes":
        kind = tensors.get(f"blk.{layer}.{module}.ggml_type")
        if kind is None or kind.value not in GGML_TYPES:
            return None
        _name, block, size = GGML_TYPES[kind.value]
        count = model.n_routed_experts * model.moe_intermediate_size * model.hidden_size
        return [count // block * size]
    if module == "exp_probs_b":
        return [model.n_routed_experts]
    shape = modules.get(module)
    if shape is None:
        return None
    return {"weight": list(shape), "rows": [shape[0]], "rows1": [shape[0], 1]}[ask.shape]


def _fits(tensor: Tensor, ask: Ask, expected: List[int]) -> bool:
    count = 1
    for dim in tensor.shape:
        count *= dim
    if ask.shape == "scalar":
        return count == 1
    if ask.shape == "bytes":
        return count == expected[0]
    if ask.shape == "rows1":
        return list(tensor.shape) in (expected, expected[:1])
    return list(tensor.shape) == expected


def _missing(module: str, ask: Ask, found: List[str]) -> Problem:
    name = found[0]
    says = ask.missing.format(name=name, module=name[:-len(ask.suffix) - 1])
    return problem("engine_tensor_missing", f"the engine asks for {shortened(found)}, which the merge does not have",
                   f"{module}.{ask.suffix} in every layer that has the module (without it: {says})",
                   REMEDIES.get(ask.suffix, "Bring the missing files of the export, or export again"))


def _wrong_dtype(module: str, ask: Ask, found: List[str]) -> Problem:
    if ask.suffix == "deq_scale" and found[0].endswith("is I64"):
        return problem("engine_deq_scale_i64", f"{len(found)} deq_scale are int64 ({shortened(found)}): an export with torch_dtype float16",
                       "F32; the engine would make every value infinite without a word",
                       "Set deq_scale_i64: restore, which turns them back into F32 bit for bit")
    return problem("engine_dtype", f"{len(found)} tensors have a dtype that the engine cannot take: {shortened(found)}",
                   f"{module}.{ask.suffix} as {' or '.join(ask.dtypes)}", "Export the model as W8A8 with msModelSlim, with attention static")


def _version(text: str) -> Tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


def check_config(config: Dict[str, Any], files: Set[str], transformers_version: str) -> List[Problem]:
    """What the engine and transformers need of config.json and the files beside it."""
    found: List[Problem] = []
    override = "Set config_overrides: {%s}"
    if config.get("quantize") != "w8a8_dynamic":
        found.append(problem("engine_quantize", f"config.json has quantize {config.get('quantize')!r:.60}",
                             "quantize 'w8a8_dynamic'; the engine chooses its loader by it and would load garbage without a word",
                             "Take the config.json of the W8A8 export, or " + override[0].lower() + override[1:] % "quantize: w8a8_dynamic"))
    if config.get("torch_dtype") != "float16":
        found.append(problem("engine_torch_dtype", f"config.json has torch_dtype {config.get('torch_dtype')!r:.60}",
                             "torch_dtype 'float16'; the NPU operators take no other", override % "torch_dtype: float16"))
    rope = config.get("rope_scaling")
    if not isinstance(rope, dict) or rope.get("type", rope.get("rope_type")) != "yarn":
        found.append(problem("engine_rope_scaling", f"config.json has rope_scaling {rope!r:.80}",
                             "rope_scaling of type yarn as DeepSeek publishes it (without: TypeError: argument of type 'NoneType' is not iterable)",
                             "Take the config.json that was published with the model, or set rope_scaling in config_overrides"))
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or architectures[:1] != ["DeepseekV3ForCausalLM"]:
        found.append(problem("engine_architectures", f"config.json has architectures {architectures!r:.80}",
                             "['DeepseekV3ForCausalLM'] (another: the NPU modules are not put in)",
                             override % "architectures: [DeepseekV3ForCausalLM]"))
    return found + _check_auto_map(config, files, transformers_version)


def _check_auto_map(config: Dict[str, Any], files: Set[str], transformers_version: str) -> List[Problem]:
    model_type = config.get("model_type")
    auto_map = config.get("auto_map")
    target = auto_map.get("AutoConfig") if isinstance(auto_map, dict) else None
    if target is None:
        if model_type == "deepseek_v3" and _version(transformers_version) >= (4, 51):
            return []
        return [problem("engine_auto_map", f"config.json has no auto_map with AutoConfig, and transformers {transformers_version} does not know model_type "
                                           f"{model_type!r:.60}", "auto_map AutoConfig 'configuration_deepseek.DeepseekV3Config' and that Python file",
                        "Bring configuration_deepseek.py of the published model into the safetensors folder and set config_overrides: "
                        "{auto_map: {AutoConfig: configuration_deepseek.DeepseekV3Config}}")]
    name = "{}.py".format(str(target).rsplit("--", maxsplit=1)[-1].split(".")[0])
    if name in files:
        return []
    return [problem("engine_auto_map_file", f"config.json's auto_map names {str(target):.80}, and there is no {name} beside it",
                    f"{name} in the folder (without: OSError: ... does not appear to have a file named {name})",
                    f"Bring {name} of the published model into the safetensors folder; the quantizer copies it")]


def check_tokenizer(weights: Weights, transformers_version: str) -> List[Problem]:
    found: List[Problem] = []
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if name not in weights.files:
            found.append(problem("engine_tokenizer_missing", f"there is no {name}", "tokenizer.json and tokenizer_config.json of the model",
                                 f"Bring {name} of the published model into the safetensors folder"))
    if weights.tokenizer_pairs and _version(transformers_version) < (4, 45):
        found.append(problem("engine_tokenizer_merges", "tokenizer.json writes its merges as pairs (tokenizers >= 0.20)",
                             f"merges as strings, which transformers {transformers_version} can read (it says: data did not match any variant of untagged "
                             "enum ModelWrapper)", "Bring the tokenizer.json that was published with the model"))
    if weights.chat_template is False:
        found.append(problem("engine_chat_template", "tokenizer_config.json has no chat_template", "the chat template of the model",
                             "Bring the tokenizer_config.json that was published with the model", "warning"))
    if "generation_config.json" not in weights.files:
        found.append(problem("engine_generation_config", "there is no generation_config.json", "temperature and top_p of the model; the engine takes its own",
                             "Bring the generation_config.json that was published with the model", "warning"))
    return found


def check(weights: Weights, model: Model, transformers_version: str) -> List[Problem]:
    """Everything that the engine would stumble over, most telling first."""
    found = check_config(weights.config, weights.files, transformers_version) + check_tokenizer(weights, transformers_version)
    quantized = any(tensor.dtype == "I8" for tensor in weights.tensors.values())
    if not quantized:
        kinds = sorted({tensor.dtype for name, tensor in weights.tensors.items() if name.endswith(".weight") and names.tensor_class(name) != "experts"})
        return [problem("engine_format", f"the weights beside the experts are {', '.join(kinds)}",
                        "W8A8 (I8 weights); the engine's NPU operators take no other", "Merge a W8A8 export with safetensors_format: w8a8")] + found
    return found + check_tensors(model, weights.tensors)


_PAIRS = re.compile(rb'"merges"\s*:\s*\[\s*(.)')


def merges_are_pairs(raw: bytes) -> bool:
    """Whether a tokenizer.json writes its merges as lists of two, from its bytes."""
    match = _PAIRS.search(raw)
    return match is not None and match.group(1) == b"["


def has_chat_template(config: Any, files: Set[str]) -> bool:
    return bool(isinstance(config, dict) and config.get("chat_template")) or "chat_template.jinja" in files


def as_weights(tensors: Dict[str, Tensor], config: Dict[str, Any], sides: Dict[str, bytes]) -> Weights:
    """Weights of a plan or a folder; sides are the contents of the small files beside config.json."""
    files = set(sides) | {"config.json"}
    pairs = merges_are_pairs(sides["tokenizer.json"]) if "tokenizer.json" in sides else None
    template = None
    if "tokenizer_config.json" in sides:
        template = has_chat_template(parse_json(sides["tokenizer_config.json"], "tokenizer_config.json"), files)
    return Weights(tensors, config, files, pairs, template)
