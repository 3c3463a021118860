# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who hands merged weights to whom. Pure.

Hosts that wait are laid in a tree below the hosts that have merged, breadth first, in the order in which they are given.
"""

from __future__ import annotations

import typing as t

_ANCESTORS = 3  # parent, its parent and one more: whoever fails above them, the first hosts are the last resort


def tree(waiting: t.Mapping[str, t.Sequence[str]], fanout: int = 2) -> t.Dict[str, t.List[str]]:
    """For each host that waits, the hosts to fetch from, in order of preference: parent, parent's parent, …, and those that have merged.

    waiting: host → hosts that have merged for it; hosts with the same ones share a tree.
    fanout: hosts that one host serves first of all; 1 makes a chain.
    Raises ValueError for a fanout below 1.
    """
    if fanout < 1:
        raise ValueError(f"the fan-out is {fanout}; a number from 1 on was expected")
    groups: t.Dict[t.Tuple[str, ...], t.List[str]] = {}
    for host, merged in waiting.items():
        roots = tuple(dict.fromkeys(name for name in merged if name != host))
        if roots:
            groups.setdefault(roots, []).append(host)
    found: t.Dict[str, t.List[str]] = {}
    for roots, hosts in groups.items():
        line = [*roots, *(host for host in hosts if host not in roots)]
        for place in range(len(roots), len(line)):
            found[line[place]] = _above(line, place, len(roots), fanout)
    return {host: found[host] for host in waiting if host in found}


def _above(line: t.List[str], place: int, roots: int, fanout: int) -> t.List[str]:
    ancestors = []
    while place >= roots:
        place = (place - roots) // fanout
        ancestors.append(line[place])
    others = line[:place] + line[place + 1 : roots]
    return [*dict.fromkeys([*ancestors[:_ANCESTORS], ancestors[-1], *others])]
