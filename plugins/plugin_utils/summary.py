# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The summary table of stages per host. Pure functions."""

from __future__ import annotations

import typing as t

from ansible.utils.display import get_text_width

Row = t.Dict[str, t.Any]
COLUMNS = ("stage", "wanted", "found", "state")
GOOD = ("ok", "skipped")


class Host(t.NamedTuple):
    """A host of the report; failed: Ansible has given it up in this play."""

    name: str
    rows: t.List[Row]
    failed: bool


def rows(stages: t.Mapping[str, t.Mapping[str, t.Any]], labels: t.Sequence[str]) -> t.List[Row]:
    """Rows in the order of `labels`, what isn't among them at the end; a label that nobody reported is a row too.

    stages: {stage: {label, wanted, found, state, note}}; empty when the host has reported nothing: then there are no rows.
    """
    if not stages:
        return []
    reported = {str(value.get("label") or key): value for key, value in stages.items()}
    order = [*labels, *(label for label in reported if label not in labels)]
    return [_row(label, reported.get(label)) for label in order]


def _row(label: str, value: t.Optional[t.Mapping[str, t.Any]]) -> Row:
    if value is None:
        return {"stage": label, "wanted": "-", "found": "-", "state": "missing", "note": "this stage was not reached"}
    row = {key: _text(value.get(key)) for key in ("wanted", "found")}
    return dict(row, stage=label, state=str(value.get("state") or "failed"), note=_text(value.get("note"), ""))


def _text(value: t.Any, empty: str = "-") -> str:
    return " ".join(str(value).split()) if value not in (None, "", [], {}) else empty


def table(hosts: t.Sequence[Host]) -> t.List[t.Tuple[str, t.Optional[str]]]:
    """Lines to print, each with the state that colours it (None: no colour)."""
    heading = {column: column for column in COLUMNS}
    everything = [heading] + [row for host in hosts for row in host.rows]
    widths = {column: max(get_text_width(row[column]) for row in everything) for column in COLUMNS}
    lines: t.List[t.Tuple[str, t.Optional[str]]] = []
    for host in hosts:
        lines.append(("", None))
        lines.append((host.name + (" (failed, see above)" if host.failed else ""), "failed" if host.failed else None))
        if not host.rows:
            lines.append(("  no stage has reported: the host failed or could not be reached, see the messages above", "failed"))
            continue
        lines.append((_line(heading, widths), None))
        for row in host.rows:
            lines.append((_line(row, widths), row["state"]))
            if row["note"]:
                lines.append((f"  {' ' * widths['stage']}  {row['note']}", row["state"]))
    lines.append(("", None))
    return lines


def _line(row: Row, widths: t.Mapping[str, int]) -> str:
    cells = (row[column] + " " * (widths[column] - get_text_width(row[column])) for column in COLUMNS)
    return ("  " + "  ".join(cells)).rstrip()


def failures(hosts: t.Sequence[Host]) -> t.List[Row]:
    """Rows that are not as wanted, with their host; a host without rows, or given up, counts too."""
    found: t.List[Row] = []
    for host in hosts:
        bad = [row for row in host.rows if row["state"] not in GOOD]
        if not host.rows or (host.failed and not bad):
            bad = [{"stage": "-", "wanted": "-", "found": "-", "state": "failed", "note": "the host failed or could not be reached"}]
        found += [dict(row, host=host.name) for row in bad]
    return found
