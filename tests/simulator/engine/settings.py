# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""~/.ktransformers/config.yaml, read without a YAML library: sections of `key: value` lines are all it has."""

from __future__ import annotations

import re
from pathlib import Path


def read(path: Path) -> dict:
    """{section: {key: value}}; numbers, booleans and empty values are Python's."""
    sections: dict = {}
    current: dict = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        text = re.sub(r"(^|\s)#.*$", "", line).rstrip()
        if not text or text == "---":
            continue
        key, _, value = text.strip().partition(":")
        if not text.startswith(" "):
            current = sections.setdefault(key, {})
        else:
            current[key] = _value(value.strip())
    return sections


def _value(text: str):
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1]
    if text in ("", "~", "null"):
        return None
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
