# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the progress of long work is told to people: a line a host, when enough has changed. Pure."""

from __future__ import annotations

import typing as t

State = t.Mapping[str, t.Any]

STEP = 5.0  # percent between two lines
QUIET = 30.0  # seconds without a line, then any change is worth one
_BYTES = ("B", "kB", "MB", "GB", "TB")
SILENCE = 120.0  # seconds without a line, then one is due anyway


def amount(value: float, unit: str) -> str:
    """1.2 GB, 340 files."""
    if unit != "B":
        return f"{value:.0f} {unit}" if value >= 10 or value == int(value) else f"{value:.1f} {unit}"
    steps = 0
    while value >= 999.5 and steps < len(_BYTES) - 1:
        value /= 1000.0
        steps += 1
    return f"{value:.1f} {_BYTES[steps]}" if value < 9.95 and steps else f"{value:.0f} {_BYTES[steps]}"


def span(seconds: float) -> str:
    """12 s, 3 min, 2 h 05 min."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"


def words(state: State) -> str:
    """What is known of running work: 42 % 1.2 GB/s 3 min left (message)."""
    parts = []
    if state.get("percent") is not None:
        parts.append(f"{state['percent']:.0f} %")
    if state.get("rate"):
        parts.append(amount(state["rate"], state.get("unit") or "B") + "/s")
    if state.get("eta_seconds") is not None:
        parts.append(f"{span(state['eta_seconds'])} left")
    elif state.get("seconds") is not None:
        parts.append(f"after {span(state['seconds'])}")
    if state.get("message"):
        parts.append(f"({' '.join(str(state['message']).split())[:80]})")
    return " ".join(parts) or "running"


class Reporter:
    """Decides which states of a job are worth a line."""

    def __init__(self, host: str) -> None:
        self.title = "the work"
        self._host = host
        self._said: t.Optional[State] = None
        self._when = 0.0

    def line(self, state: State, now: float) -> t.Optional[str]:
        """The line for a state that was seen at `now` (seconds), or None."""
        self.title = state.get("title") or self.title
        if state.get("state") != "running":
            return self._line(state, now, self._end(state))
        return self._line(state, now, words(state)) if self._is_news(state, now) else None

    def lost(self, patience: float) -> str:
        return f"{self._host}: {self.title}: connection lost; the work goes on, trying for {span(patience)} to reach the node again"

    def back(self) -> str:
        return f"{self._host}: {self.title}: connected again"

    def _line(self, state: State, now: float, text: str) -> str:
        self._said, self._when = state, now
        return f"{self._host}: {self.title} {text}"

    def _is_news(self, state: State, now: float) -> bool:
        said = self._said
        if said is None or now - self._when >= SILENCE:
            return True
        if abs((state.get("percent") or 0.0) - (said.get("percent") or 0.0)) >= STEP:
            return True
        return now - self._when >= QUIET and any(state.get(key) != said.get(key) for key in ("percent", "done", "message"))

    @staticmethod
    def _end(state: State) -> str:
        after = f" after {span(state['seconds'])}" if state.get("seconds") is not None else ""
        return f"{state.get('state')}{after}"
