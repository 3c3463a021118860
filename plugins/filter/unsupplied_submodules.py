# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: unsupplied_submodules
author: npuops contributors (@npuops)
version_added: 1.0.0
short_description: Say which submodules an engine's archive needs and would not get
description:
  - Goes by what the media's manifest tells, before anything is on a node. What a bundle holds is seen only when it is laid.
positional: _input
options:
  _input:
    description: Paths of the submodules that the archive has no files of (RV(npuops.ktransformers.media#module:files[].lacks)).
    type: list
    elements: str
    required: true
  only:
    description: The submodules that will be laid, path to commit.
    type: dict
    required: true
  files:
    description: The files of the folder of the source's submodules, as M(npuops.ktransformers.media) describes them.
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
- name: Show what a build would stop at
  ansible.builtin.debug:
    msg: "{{ ['third_party/llama.cpp', 'third_party/pybind11'] | npuops.ktransformers.unsupplied_submodules({'third_party/llama.cpp': 'a94e6ff'}, files) }}"
  vars:
    files: [{name: source/engine.submodules/llama.cpp-a94e6ff.tar.gz, commit: a94e6ff8774b7c9f950d9545baf0ce35e8d1ed2f}]
  # ['third_party/pybind11']
"""

RETURN = r"""
_value:
  description: Those that are missing.
  type: list
  elements: str
"""

import typing as t

from ansible_collections.npuops.ktransformers.plugins.module_utils.engine_source import SUBMODULES
from ansible_collections.npuops.ktransformers.plugins.module_utils.source_parts import unsupplied


def unsupplied_submodules(lacks: t.Sequence[str], only: t.Mapping[str, str], files: t.Sequence[t.Mapping[str, t.Any]]) -> t.List[str]:
    return unsupplied(lacks, SUBMODULES, only, files)


class FilterModule:
    def filters(self) -> t.Dict[str, t.Callable[..., t.Any]]:
        return {"unsupplied_submodules": unsupplied_submodules}
