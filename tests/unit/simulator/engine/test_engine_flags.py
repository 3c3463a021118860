"""Flags as fire 0.7.1 reads them: the table was recorded with fire itself, over a function of these three arguments."""

from __future__ import annotations

import pytest

from tests.simulator.engine import flags

DEFAULTS = {"a": None, "b": True, "tp": 1}


@pytest.mark.parametrize("line, values", [
    ("", (None, True, 1)),
    ("--a", (True, True, 1)),
    ("--b false --tp abc", (None, "false", "abc")),
    ("--nob", (None, False, 1)),
    ("--a=3 --tp 2 --b False", (3, False, 2)),
    ("pos", ("pos", True, 1)),
    ("--a None", (None, True, 1)),
    ("-a 1", (1, True, 1)),
    ("--a x,y", (("x", "y"), True, 1)),
    ("--a ./p/q.yaml", ("./p/q.yaml", True, 1)),
    ("--a /mnt/weights/DeepSeek-R1-q4km-w8a8", ("/mnt/weights/DeepSeek-R1-q4km-w8a8", True, 1)),
    ("--a -1", (-1, True, 1)),
])
def test_values(line, values):
    assert tuple(flags.parse(line.split(), DEFAULTS).values()) == values


@pytest.mark.parametrize("line, named", [
    pytest.param("--x 1", "--x", id="unknown"),
    pytest.param("--max-tokens=2", "--max-tokens", id="unknown-with-equals"),
    pytest.param("1 2 3 4", "4", id="too-many"),
])
def test_what_cannot_be_consumed(line, named, capsys):
    with pytest.raises(SystemExit) as ended:
        flags.parse(line.split(), DEFAULTS)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(f"ERROR: Could not consume arg: {named}\n")
