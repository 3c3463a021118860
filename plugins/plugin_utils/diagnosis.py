# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the doctor's findings are told to people. Pure functions."""

from __future__ import annotations

import typing as t

Finding = t.Dict[str, t.Any]
Lines = t.List[t.Tuple[str, t.Optional[str]]]
NOTHING: Finding = {
    "id": "not-looked-at", "stage": "-", "severity": "error", "observed": "the doctor has said nothing of this host",
    "cause": "the host failed before it was looked at", "remedy": "see the messages above", "source": "this run", "follows": None,
}


def errors(findings: t.Sequence[Finding]) -> t.List[Finding]:
    return [item for item in findings if item["severity"] == "error"]


def text(host: str, findings: t.Sequence[Finding]) -> Lines:
    """Lines to print for one host, each with the state that colours it (None: no colour)."""
    count = len(errors(findings))
    if not findings:
        return [("", None), (f"{host}: no known failure was found", "ok")]
    words = {0: "no failure", 1: "1 failure"}.get(count, f"{count} failures, to be repaired in this order")
    warnings = len(findings) - count
    lines: Lines = [("", None), (f"{host}: {words}" + (f", {warnings} to know of" if warnings else ""), "failed" if count else "ok")]
    for number, item in enumerate(findings, 1):
        state = "failed" if item["severity"] == "error" else "skipped"
        kind = "" if item["severity"] == "error" else f" ({item['severity']})"
        goes = f": probably goes away with {item['follows']}" if item["follows"] else ""
        lines.append((f"  {number:2}. {item['id']}{kind}, {item['stage']}{goes}", state))
        lines.append((f"      found   {item['observed']}", None))
        lines.append((f"      cause   {item['cause']}", None))
        lines.append((f"      remedy  {item['remedy']}", None))
    return lines
