# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The verdict of verify and doctor for machines: {ok, failures, hosts}."""

from __future__ import annotations

import json
import os
import tempfile
import typing as t


def content(failures: t.Sequence[t.Dict[str, t.Any]], hosts: t.Mapping[str, t.Dict[str, t.Any]]) -> t.Dict[str, t.Any]:
    """ok: no failures at all. Each failure names its host; each host says for itself whether it is ok."""
    bad = {failure["host"] for failure in failures}
    return {"ok": not failures, "failures": list(failures), "hosts": {name: dict(value, ok=name not in bad) for name, value in hosts.items()}}


def write(path: str, value: t.Dict[str, t.Any]) -> None:
    """Write JSON in one step: who reads meanwhile gets the old file or the new one. Raises OSError."""
    path = os.path.abspath(path)
    handle, draft = tempfile.mkstemp(prefix=f".{os.path.basename(path)}.", dir=os.path.dirname(path))
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(value, stream, indent=2, ensure_ascii=False)
            stream.write("\n")
        os.chmod(draft, 0o644)
        os.replace(draft, path)
    except BaseException:
        os.unlink(draft)
        raise
