# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One loaded model and what is done with it: what local_chat and the server have in common."""

from __future__ import annotations

import os
from pathlib import Path

from . import answers, contract, first_prompt, loader, model_folder, rules, startup

# ASSUMPTION: apply_chat_template is not interpreted. ChatML stands for it, the default of transformers before 4.44.
TURN = "<|im_start|>{role}\n{content}<|im_end|>\n"
ANSWER = "<|im_start|>assistant\n"


class Session:
    """Loads in the real order; every exception on the way is the real engine's."""

    def __init__(self, package: Path, torch_npu):
        self.package = package
        self.torch_npu = torch_npu
        self.engine = None
        self.captured = False
        self.prompts = 0
        self.runtime = first_prompt.loaded_runtime()

    def load(self, model_path, gguf_path, rule_path, graph, tp: int = 1) -> None:
        self.graph = bool(graph)
        startup.check_switches(False)
        self.rank, self.world = startup.process_group(self.torch_npu, tp)
        self.tp = tp
        self.tokenizer = model_folder.read_tokenizer(model_path)
        self.config = model_folder.read_config(model_path)
        if self.graph:
            startup.import_capture_plugin()
        self.dtype = model_folder.set_default_dtype(self.config)
        self.architecture = model_folder.build_model(model_path, self.config)
        if rule_path is None:
            rule_path = self._default_rule()
        if gguf_path is None:
            gguf_path = input("please input the path of your gguf file(gguf file in the dir containing input gguf file must all belong to "
                              "current model):")
        rules.read(rule_path)
        weights = loader.GGUFLoader(gguf_path, self.config.get("quantize"))
        self.model = contract.load(self.config, self.architecture, weights, self.rank, os.getenv("USE_MERGE", "0"))
        self.generation = model_folder.read_generation_config(model_path)
        if answers.find_numpy() is None:
            print(f"{startup.NAME}: {answers.DigestModel.words}", flush=True)
        if self.rank == 0:
            print(f"model={self.architecture}(\n  (model): KDeepseekV2Model(simulated, {self.config['num_hidden_layers']} layers, "
                  f"{len(self.model.tensors)} tensors)\n  (lm_head): KTransformersLinearW8A8A2()\n)", flush=True)

    def _default_rule(self) -> str:
        # The public branch names a rule that it does not have.
        path = str(self.package / "optimize" / "optimize_rules" / "npu" / "DeepSeek-V3-Chat.yaml")
        if self.rank == 0:
            print("using default_optimize_rule for", self.architecture)
            print(f"optimize_config_path={path!r}")
        return path

    def tokens_of_chat(self, messages: list) -> list:
        if not self.tokenizer.chat_template and model_folder.transformers_version() >= (4, 44, 0):
            raise ValueError("Cannot use chat template functions because tokenizer.chat_template is not set and no template argument was "
                             "passed! For information about writing templates and setting the tokenizer.chat_template attribute, please see "
                             "the documentation at https://huggingface.co/docs/transformers/main/en/chat_templating")
        return self.tokenizer.encode("".join(TURN.format(**message) for message in messages) + ANSWER)

    def answer(self, prompt: list, max_new_tokens: int):
        """Yields (token, logits) of the answer. The first prompt finds what loading did not look at."""
        first_prompt.check(self.model, self.torch_npu, self.dtype)
        if self.engine is None:
            self.engine = answers.make(self.model)
        self.prompts += 1
        yield from answers.generate(self.engine, self.tokenizer, prompt, max_new_tokens)

    def capture_graph(self) -> None:
        self.captured = True
        startup.check_switches(True)
        print(f"[rank:{self.rank}]------------- NPU Graph Capture Begin -------------", flush=True)
        first_prompt.check_graph(self.runtime)
        print(f"[rank:{self.rank}]------------- NPU Graph Capture Finish -------------", flush=True)

    def destroy_graph(self) -> None:
        for word in ("Begin", "Finish"):
            print(f"[rank:{self.rank}]------------- NPU Graph Destroy {word} -------------", flush=True)

    def profile(self) -> None:
        """PROF_PREFILL and PROF_DECODE leave folders in the working directory, from the second prompt on."""
        for variable, folder in (("PROF_PREFILL", "prefill_prof"), ("PROF_DECODE", "decode_prof")):
            if os.environ.get(variable) == "1" and self.prompts > 1:
                os.makedirs(folder, exist_ok=True)
