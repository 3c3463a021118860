#!/usr/bin/python
# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: weights_info
short_description: Say what is in a folder of model weights
version_added: 1.0.0
description:
  - Reads the headers of a folder of GGUF or safetensors files, or of a folder that M(npuops.ktransformers.gguf_safetensors_merge) wrote, and
    says what they are - architecture, layers, experts, quantization and bytes per class of tensors, missing files.
  - With O(engine=ktransformers) it also says what KTransformers on NPU would stumble over in a merged folder.
  - Reads no tensor data, so that hundreds of GB take less than a second.
extends_documentation_fragment:
  - npuops.ktransformers.attributes
  - npuops.ktransformers.attributes.reads
options:
  path:
    description: Folder of the weights on the node (or one GGUF file).
    type: path
    required: true
  engine:
    description: The engine whose demands are checked.
    type: str
    choices: [none, ktransformers]
    default: none
  transformers_version:
    description: Version of transformers that the engine uses; it decides which C(tokenizer.json) and which C(config.json) can be read.
    type: str
    default: 4.43.2
seealso:
  - module: npuops.ktransformers.gguf_safetensors_merge
author:
  - npuops contributors (@npuops)
"""

EXAMPLES = r"""
- name: Look at the GGUF model
  npuops.ktransformers.weights_info:
    path: /mnt/weights/DeepSeek-R1-Q4_K_M
  register: gguf

- name: Check that the engine can load the merged folder
  npuops.ktransformers.weights_info:
    path: /mnt/weights/DeepSeek-R1-q4km-w8a8
    engine: ktransformers
  register: merged
  failed_when: merged.weights.engine_problems | selectattr('severity', 'eq', 'error') | length > 0
"""

RETURN = r"""
weights:
  description: What is in the folder.
  returned: always
  type: dict
  contains:
    path:
      description: The folder.
      type: str
      returned: always
    found:
      description: Whether there are weights that can be read.
      type: bool
      returned: always
    reason:
      description: Why there are none, or what is wrong with them; null when nothing is.
      type: str
      returned: always
    kind:
      description: What the folder is.
      type: str
      returned: always
      sample: merged
    architecture:
      description: Architecture of the model, as C(config.json) or the GGUF calls it.
      type: str
      returned: always
      sample: DeepseekV3ForCausalLM
    layers:
      description: Number of layers, the MTP layer not counted.
      type: int
      returned: always
      sample: 61
    experts:
      description: Routed experts in a layer.
      type: int
      returned: always
      sample: 256
    format:
      description: One of V(w8a8), V(fp8), V(bf16), V(gguf), V(merged); null when unknown.
      type: str
      returned: always
    quantization:
      description: For each class of tensors (embedding, head, norm, attention, router, dense, shared, experts, mtp, other) the number of tensors
        of each type. RV(weights.quantization.experts_ggml) tells the ggml types of a merged folder's experts.
      type: dict
      returned: always
      sample: {experts: {Q4_K: 145, Q6_K: 29}}
      contains:
        experts_ggml:
          description: Number of expert stacks of each ggml type.
          type: dict
          returned: for a merged folder
    bytes_by_class:
      description: Bytes of each class of tensors.
      type: dict
      returned: always
    tensors:
      description: Number of tensors.
      type: int
      returned: always
    bytes:
      description: Bytes of all weight files.
      type: int
      returned: always
    files:
      description: Number of weight files.
      type: int
      returned: always
    missing_shards:
      description: Files that an index or the numbering asks for and that are not there.
      type: list
      elements: str
      returned: always
    problems:
      description: What is wrong with the weights themselves, each with id, severity, observed, expected and repair.
      type: list
      elements: dict
      returned: always
    engine_problems:
      description: What the engine would stumble over, each with id, severity, observed, expected and repair.
      type: list
      elements: dict
      returned: always
    merged:
      description: For a merged folder, whether it is RV(weights.merged.complete), the reason why not, the path of its manifest, the plan's digest,
        the number of files, and what the merge took. Else null.
      type: dict
      returned: always
      contains:
        complete:
          description: Whether all the files of the manifest are there and unchanged, and no other safetensors file is.
          type: bool
          returned: for a merged folder
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.engine import ENGINES
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.info import describe


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "engine": {"type": "str", "choices": list(ENGINES), "default": "none"},
            "transformers_version": {"type": "str", "default": "4.43.2"},
        },
        supports_check_mode=True,
    )
    params = module.params
    module.exit_json(changed=False, weights=describe(params["path"], params["engine"], params["transformers_version"]))


if __name__ == "__main__":
    main()
