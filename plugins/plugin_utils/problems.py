# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How problems (role, id, severity, observed, expected, repair) are told to people. Pure functions."""

from __future__ import annotations

import typing as t

Problem = t.Dict[str, t.Any]


def without_twins(problems: t.Sequence[Problem]) -> t.List[Problem]:
    """The problems in their order, each once: roles that check the same thing twice, or play after play."""
    seen = set()
    unique = []
    for problem in problems:
        key = (problem.get("role"), problem.get("id"), problem.get("observed"))
        if key not in seen:
            seen.add(key)
            unique.append(problem)
    return unique


def sort(problems: t.Sequence[Problem], accepted: t.Collection[str]) -> t.Tuple[t.List[Problem], t.List[Problem]]:
    """Errors that stand in the way, and the rest: warnings and errors that the user accepts."""
    errors = [problem for problem in problems if problem.get("severity") != "warning" and problem.get("id") not in accepted]
    return errors, [problem for problem in problems if problem not in errors]


def line(problem: Problem, accepted: t.Collection[str] = ()) -> str:
    """One problem as one sentence."""
    text = f"{problem['id']}: {problem.get('observed') or 'not as expected'}"
    if problem.get("expected"):
        text += f"; expected {problem['expected']}"
    if problem.get("repair"):
        text += f"; {problem['repair']}"
    role = f"[{problem['role']}] " if problem.get("role") else ""
    return role + _one_line(text) + (" (accepted)" if _is_accepted(problem, accepted) else "")


def lines(problems: t.Sequence[Problem]) -> str:
    return "\n".join(line(problem) for problem in problems)


def table(host: str, errors: t.Sequence[Problem], others: t.Sequence[Problem], accepted: t.Collection[str]) -> str:
    """All problems of a host, those that stand in the way first."""
    count = f"{len(errors)} problem" + ("s" if len(errors) > 1 else "")
    rows = [f"{host} is not ready: {count} to repair" + (f", {len(others)} more to know of" if others else "") + "."]
    for number, problem in enumerate([*errors, *others], 1):
        kind = "accepted" if _is_accepted(problem, accepted) else problem.get("severity", "error")
        rows.append("")
        rows.append(f"{number:2}. {kind}  {problem.get('role') or '-'}  {problem['id']}")
        for key, label in (("observed", "found"), ("expected", "expected"), ("repair", "repair")):
            if problem.get(key):
                rows.append(f"    {label:8}  {_one_line(problem[key])}")
    rows.append("")
    rows.append(f"To go on in spite of one: -e '{{\"preflight_accept\": [\"{errors[0]['id']}\"]}}', or that list in the inventory.")
    return "\n".join(rows)


def _is_accepted(problem: Problem, accepted: t.Collection[str]) -> bool:
    return problem.get("severity") != "warning" and problem.get("id") in accepted


def _one_line(value: t.Any) -> str:
    return " ".join(str(value).split())
