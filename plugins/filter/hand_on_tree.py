# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: hand_on_tree
author: npuops contributors (@npuops)
version_added: 1.0.0
short_description: Say which hosts fetch merged weights from which
description:
  - Lays the hosts that wait for weights in a tree below those that have merged, so that no host serves all the others.
positional: _input
options:
  _input:
    description: Hosts that wait; for each one the list of hosts that have merged for it.
    type: dict
    required: true
  fanout:
    description: Number of hosts that one host serves first of all; V(1) makes a chain.
    type: int
    default: 2
"""

EXAMPLES = r"""
- name: Show who fetches from whom
  ansible.builtin.debug:
    msg: "{{ {'node-2': ['node-1'], 'node-3': ['node-1'], 'node-4': ['node-1']} | npuops.ktransformers.hand_on_tree }}"
  # node-2: [node-1], node-3: [node-1], node-4: [node-2, node-1]
"""

RETURN = r"""
_value:
  description: For each host that waits the hosts to fetch from, in order of preference - parent, its parent, and last those that have merged.
  type: dict
"""

import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.npuops.ktransformers.plugins.module_utils.hand_on import order


def hand_on_tree(waiting: t.Mapping[str, t.Sequence[str]], fanout: int = 2) -> t.Dict[str, t.List[str]]:
    if not isinstance(waiting, t.Mapping):
        raise AnsibleFilterError(f"hand_on_tree was given {type(waiting).__name__}; a dictionary of hosts that wait was expected")
    try:
        return order.tree(waiting, int(fanout))
    except ValueError as exc:
        raise AnsibleFilterError(f"hand_on_tree: {exc}")


class FilterModule:
    def filters(self) -> t.Dict[str, t.Callable[..., t.Any]]:
        return {"hand_on_tree": hand_on_tree}
