# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Command-line flags as python-fire reads them (tried with fire 0.7.1), for the one function that local_chat is."""

from __future__ import annotations

import ast
import sys

LOCAL_CHAT = {
    "model_path": None,
    "optimize_config_path": None,
    "gguf_path": None,
    "max_new_tokens": 1000,
    "cpu_infer": None,
    "use_cuda_graph": False,
    "prompt_file": None,
    "mode": "normal",
    "force_think": False,
    "chunk_size": 4096,
    "q4_gguf_path": None,
    "tp": 1,
}


class _BareWords(ast.NodeTransformer):
    """fire turns bare words into strings: `--a x,y` is ('x', 'y')."""

    def visit_Name(self, node):
        return ast.copy_location(ast.Constant(node.id), node)


def value_of(text: str):
    """A flag's value: a Python literal where it is one, else the text. So 'false' is a string, and a string is true."""
    try:
        tree = _BareWords().visit(ast.parse(text, mode="eval"))
        return ast.literal_eval(ast.fix_missing_locations(tree))
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return text


def parse(argv: list, defaults: dict) -> dict:
    """The values of all flags; positional arguments fill the flags in their order.

    Raises SystemExit(2) on an unknown flag. fire itself complains only after the function has returned, that is after the
    last prompt (and local_chat never returns): refusing at once is stricter on purpose, so that a wrong flag is noticed.
    """
    values, given, rest = dict(defaults), set(), []
    position = 0
    while position < len(argv):
        argument = argv[position]
        position += 1
        if not argument.startswith("-") or argument.lstrip("-")[:1].isdigit():
            rest.append(argument)
            continue
        name, equals, text = argument.lstrip("-").partition("=")
        name = name.replace("-", "_")
        key = _known(name, defaults)
        negated = key is None and name.startswith("no") and name[2:] in defaults and not equals
        if negated:
            values[name[2:]] = False
            given.add(name[2:])
        elif key is None:
            _refuse(argument.partition("=")[0])
        elif equals:
            values[key] = value_of(text)
            given.add(key)
        elif position < len(argv) and not (argv[position].startswith("-") and not argv[position].lstrip("-")[:1].isdigit()):
            values[key] = value_of(argv[position])
            given.add(key)
            position += 1
        else:
            values[key] = True
            given.add(key)
    free = [name for name in defaults if name not in given]
    if len(rest) > len(free):
        _refuse(rest[len(free)])
    values.update({name: value_of(text) for name, text in zip(free, rest)})
    return values


def _known(name: str, defaults: dict):
    if name in defaults:
        return name
    if len(name) == 1:
        matches = [key for key in defaults if key.startswith(name)]
        return matches[0] if len(matches) == 1 else None
    return None


def _refuse(argument: str) -> None:
    print(f"ERROR: Could not consume arg: {argument}\nUsage: local_chat.py -\n\n"
          "For detailed information on this command, run:\n  local_chat.py - --help", file=sys.stderr)
    raise SystemExit(2)
