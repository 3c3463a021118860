# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From what was seen of a node to its known failures, in the order in which to repair them. Pure: nothing here looks at a node.

The table itself is doctor_table.py. What an info module or a stage complains of and no entry of the table explains becomes a finding
all the same, so that the doctor never calls a node well that `verify` would not.
"""
from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterable, List, Optional, Pattern, Sequence, Tuple, Union

from ansible_collections.npuops.ktransformers.plugins.module_utils import engine_output

Finding = Dict[str, Any]
# after=ANY: what comes of any other error. It is noticed first and repaired last.
ANY = ("*",)


@dataclass(frozen=True)
class Sign:
    """What shows that a failure is there; remedy and severity where the info module knows better than the table."""

    observed: str
    remedy: Optional[str] = None
    severity: Optional[str] = None


Signs = Union[None, str, Sign, Iterable[Union[str, Sign]]]


@dataclass(frozen=True)
class Known:
    """One entry of the table. Its place in the table is the order in which to repair.

    stage: the role that repairs it. signs: what in the data shows it, nothing when it is not there. after: failures that it mostly comes
    from; while one of them is there, this one is told as its consequence. explains: ids of the info modules' problems that it stands for.
    """

    id: str
    stage: str
    cause: str
    remedy: str
    signs: Callable[[Seen], Signs]
    source: str
    after: Tuple[str, ...] = ()
    explains: Tuple[str, ...] = ()
    severity: str = "error"


class Seen:
    """What was gathered: {node, environment, python, torch_npu, weights, sources, runtime, engine, stages, wanted, facts, errors}.

    Any part may be missing: a question about it is then answered by the default, so that no sign is seen where nothing was looked at.
    """

    def __init__(self, data: Dict[str, Any]) -> None:
        self.data = data

    def __call__(self, path: str, default: Any = None) -> Any:
        """seen("node.driver.version"): the value, or the default where it or a part of the way is missing or null."""
        value: Any = self.data
        for name in path.split("."):
            value = value.get(name) if isinstance(value, dict) else None
            if value is None:
                return default
        return value

    def looked(self, part: str) -> bool:
        """Whether a part was looked at at all."""
        return bool(self(part))

    def problems(self, part: str, *names: str) -> List[Sign]:
        """What an info module says under these ids (all without names)."""
        return [Sign(expected(item), item.get("repair"), item.get("severity")) for item in self(part, []) if not names or item.get("id") in names]

    def logs(self) -> Dict[str, str]:
        """The texts that count: of what failed last, and is not repaired since. Also what import torch_npu and npu-smi said."""
        texts = dict(self("facts.logs", {}))
        for name, text in (("import torch_npu", self("torch_npu.seen.error")), ("npu-smi", self("node.smi.reason"))):
            if text:
                texts[name] = str(text)
        return texts

    def said(self, pattern: str) -> Optional[str]:
        """The first line of a log that matches, with the name of the log."""
        for name, text in sorted(self.logs().items()):
            for line in text.splitlines():
                if re.search(pattern, line):
                    return f"{name} says: {line.strip()[:300]}"
        return None


def expected(problem: Dict[str, Any]) -> str:
    """What an info module observed, and what it expected."""
    words = str(problem.get("observed") or problem.get("id"))
    return words + (f"; expected {problem['expected']}" if problem.get("expected") else "")


def _as_signs(found: Signs) -> List[Sign]:
    if not found:
        return []
    items = [found] if isinstance(found, (str, Sign)) else list(found)
    return [item if isinstance(item, Sign) else Sign(item) for item in items]


def _signs_of(known: Known, seen: Seen) -> List[Sign]:
    """A sign that cannot be looked for hides no other: it is told itself."""
    try:
        return _as_signs(known.signs(seen))
    except (TypeError, ValueError, KeyError, AttributeError, IndexError) as exc:
        return [Sign(f"could not be looked for: {type(exc).__name__}: {exc}", "report this with the output of -vvv")]


def _finding(name: str, stage: str, observed: str, cause: str, remedy: str, source: str, severity: str = "error",
             follows: Optional[str] = None) -> Finding:
    return {"id": name, "stage": stage, "severity": severity, "observed": _line(observed), "cause": _line(cause), "remedy": _line(remedy),
            "source": source, "follows": follows}


def _follows(known: Known, found: Sequence[Finding]) -> Optional[str]:
    """What it comes from, as far back as that is known."""
    if known.after == ANY:
        return next((item["id"] for item in found if item["severity"] == "error" and item["id"] != known.id), None)
    by_id = {item["id"]: item for item in found}
    name = next((name for name in known.after if name in by_id and name != known.id), None)
    return by_id[name]["follows"] or name if name else None


def _first(found: Sequence[Finding]) -> Optional[str]:
    return next((item["id"] for item in found if item["severity"] == "error"), None)


def _line(text: Any) -> str:
    return " ".join(str(text).split())


def judge(data: Dict[str, Any], table: Sequence[Known]) -> List[Finding]:
    """The findings, in the order in which to repair them: {id, stage, severity, observed, cause, remedy, source, follows}."""
    seen = Seen(data)
    if seen("errors.connection"):
        return [_finding("unreachable", "-", seen("errors.connection"), "the node does not answer, so nothing is known of it",
                         "look at the network, the SSH service and the host's entry in the inventory, then run the doctor again", "this run")]
    found: List[Finding] = []
    _look_for([known for known in table if known.after != ANY], seen, found)
    found += _unexplained(seen, table, found)
    found += _logs(seen, found)
    _look_for([known for known in table if known.after == ANY], seen, found)
    return found + _rows(seen, found)


def _look_for(table: Sequence[Known], seen: Seen, found: List[Finding]) -> None:
    """Add to `found` what these entries see."""
    for known in table:
        for sign in _signs_of(known, seen):
            found.append(_finding(known.id, known.stage, sign.observed, known.cause, sign.remedy or known.remedy, known.source,
                                  sign.severity or known.severity, _follows(known, found)))


def _unexplained(seen: Seen, table: Sequence[Known], found: Sequence[Finding]) -> List[Finding]:
    """Problems of the info modules that no entry stands for."""
    explained = {name for known in table for name in known.explains}
    parts = (("node.problems", "hdk"), ("environment.problems", "cann"), ("torch_npu.problems", "torch_npu_opplugin"),
             ("weights.engine_problems", "weights_merge"), ("engine.problems", "ktransformers"))
    more = []
    told = {item["observed"] for item in found}
    for part, stage in parts:
        for item in seen(part, []):
            # Of the weights the table tells all errors, by remedy.
            if part.startswith("weights.") and item.get("severity") == "error":
                continue
            if item.get("id") not in explained and _line(expected(item)) not in told:
                more.append(_finding(str(item.get("id")), stage, str(item.get("observed")), f"expected {item.get('expected')}",
                                     item.get("repair") or f"run the playbook with --tags {stage}", "what the node itself says",
                                     str(item.get("severity") or "error")))
    return more


def _logs(seen: Seen, found: Sequence[Finding]) -> List[Finding]:
    """A log whose cause engine_output knows, where the table saw nothing in that log."""
    more = []
    for name, text in sorted(seen("facts.logs", {}).items()):
        if any(item["observed"].startswith(f"{name} says: ") for item in found):
            continue
        pattern, cause = next(((pattern, cause) for pattern, cause in engine_output.CAUSES if pattern.search(text)), (None, None))
        if pattern and cause and not any(pattern.search(item["observed"]) for item in found):
            more.append(_finding("engine-log", "ktransformers", f"{name} says: {_matching(text, pattern)}", cause.cause, cause.remedy,
                                 "module_utils/engine_output.py", follows=_first(found)))
    return more


def _matching(text: str, pattern: Pattern[str]) -> str:
    return next((line.strip()[:300] for line in text.splitlines() if pattern.search(line)), "see the log")


def _rows(seen: Seen, found: Sequence[Finding]) -> List[Finding]:
    """Stages that are not as wanted, or could not be asked, where no finding says why."""
    explained = {item["stage"] for item in found if item["severity"] == "error"}
    more = []
    for stage, words in sorted(seen("errors", {}).items()):
        more.append(_finding("not-looked-at", stage, words, "this stage could not be looked at", "correct what the message says, then run the doctor again",
                             "this run"))
    for stage, row in seen("stages", {}).items():
        if row.get("state") in ("ok", "skipped") or stage in explained or stage in seen("errors", {}):
            continue
        observed = f"{row.get('label')}: {row.get('state')}, wanted {row.get('wanted')}, found {row.get('found')}"
        more.append(_finding(f"stage-{stage}", stage, observed, row.get("note") or "it is not as the inventory wants it",
                             f"run the playbook with --tags {stage}", "what the stage says of itself", follows=_first(found)))
    return more


def well(findings: Iterable[Finding]) -> bool:
    """Whether nothing but warnings was found."""
    return not any(item["severity"] == "error" for item in findings)
