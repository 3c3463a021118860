# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the log of a command tells."""

from __future__ import annotations

import pytest
import yaml
from ansible_collections.npuops.ktransformers.plugins.module_utils import command_job
from ansible_collections.npuops.ktransformers.plugins.modules import job


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "log"

    def write(text):
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


@pytest.mark.parametrize(
    "text, lines, first",
    [
        pytest.param(
            "one\n[1/9] g++ -Werror=return-type -c a.cpp\na.cpp:3:1: error: expected ';'\n  3 | x\n    ^\nb.cpp:1: error: later\n",
            ["one", "[1/9] g++ -Werror=return-type -c a.cpp", "a.cpp:3:1: error: expected ';'", "  3 | x", "    ^"],
            "a.cpp:3:1: error: expected ';'",
            id="compiler",
        ),
        pytest.param("a.c:1:2: fatal error: acl/acl.h: No such file\n", ["a.c:1:2: fatal error: acl/acl.h: No such file"],
                     "a.c:1:2: fatal error: acl/acl.h: No such file", id="fatal-error"),
        pytest.param(
            "Traceback\n  File x\nModuleNotFoundError: No module named 'torch'\n",
            ["Traceback", "  File x", "ModuleNotFoundError: No module named 'torch'"], "ModuleNotFoundError: No module named 'torch'", id="python",
        ),
        pytest.param("CMake Error at CMakeLists.txt:3 (find_package):\n", ["CMake Error at CMakeLists.txt:3 (find_package):"],
                     "CMake Error at CMakeLists.txt:3 (find_package):", id="cmake"),
        pytest.param("fatal: not a git repository\n", ["fatal: not a git repository"], "fatal: not a git repository", id="git"),
        pytest.param("\x1b[31mERROR: Could not build wheels\x1b[0m\n", ["ERROR: Could not build wheels"], "ERROR: Could not build wheels", id="colour"),
        pytest.param("0 errors\nerrors: none\nErrorHandler ok\n", [], None, id="none"),
        pytest.param("+ python -c 'error: x'\n+ sh -x error:\nall well\n", [], None, id="echoed-commands"),
        pytest.param(b"\xff\xfe\nx: error: \xff\n", ["��", "x: error: �"], "x: error: �", id="no-utf8"),
    ],
)  # fmt: skip
def test_first_error(log, text, lines, first):
    assert command_job.first_error(log(text), command_job.SHOW_ERRORS) == (lines, first)


def test_an_endless_line_is_cut(log):
    lines, first = command_job.first_error(log("x" * 5_000_000 + " error: at its end"), command_job.SHOW_ERRORS)
    assert first.endswith("error: at its end") and max(map(len, [first, *lines])) <= 2000


def test_documented_patterns_are_the_real_ones():


    assert yaml.safe_load(job.DOCUMENTATION)["options"]["show_errors"]["default"] == command_job.SHOW_ERRORS


@pytest.mark.parametrize(
    "text, tail",
    [
        ("", []),
        ("a\nb", ["a", "b"]),
        ("a\n\nb\n", ["a", "b"]),
        (" 1 %\r 50 %\r100 %\r\nend\n", ["100 %", "end"]),
        ("\n".join(str(number) for number in range(100_000)) + "\n", [str(number) for number in range(99_980, 100_000)]),
    ],
    ids=["empty", "no-newline", "blank-lines", "carriage-returns", "long"],
)
def test_log_tail(log, text, tail):
    assert command_job.log_tail(log(text)) == tail


def test_no_log(tmp_path):
    assert command_job.log_tail(str(tmp_path / "log")) == []
    assert command_job.first_error(str(tmp_path / "log"), [".*"]) == ([], None)


@pytest.mark.parametrize(
    "lines, percent",
    [
        (["[12/48] cc"], 25.0), (["[ 42%] Building"], 42.0), (["[1/4] a", "warning"], 25.0), (["[3/0] x"], None), (["see [1/4]"], None), ([], None),
        (["[100%] Built", "[1/9] next"], 11.1),
    ],
)  # fmt: skip
def test_percent_in(lines, percent):
    assert command_job.percent_in(lines) == percent


def params(**changed):
    return dict({"command": ["a"], "chdir": None, "environment": {"X": "1"}, "digest": ["v1"]}, **changed)


@pytest.mark.parametrize("changed", [{"command": ["b"]}, {"chdir": "/x"}, {"environment": {}}, {"digest": ["v2"]}, {"digest": ["v", "1"]}])
def test_digest(changed):
    assert command_job.digest_of(params()) == command_job.digest_of(params())
    assert command_job.digest_of(params()) != command_job.digest_of(params(**changed))
