# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend import npu_smi
from hypothesis import given, settings
from hypothesis import strategies as st

RECORDINGS = sorted((Path(__file__).parents[4] / "fixtures/npu-smi").glob("*.txt"))
PARSERS = {"-t board": npu_smi.parse_board, "-t": npu_smi.parse_sections, "-l": npu_smi.parse_list, "-m": npu_smi.parse_map}
DEVICE_KEYS = {
    "npu_id",
    "chip_id",
    "phy_id",
    "name",
    "health",
    "bus_id",
    "power_w",
    "temp_c",
    "hugepages_used",
    "hugepages_total",
    "aicore_pct",
    "memory_used_mb",
    "memory_total_mb",
    "hbm_used_mb",
    "hbm_total_mb",
}


def text_of(name: str) -> str:
    return next(path for path in RECORDINGS if path.name.startswith(name)).read_text(encoding="utf-8")


def parser_of(subcommand: str):
    return next((parse for words, parse in PARSERS.items() if f" {words} " in f"{subcommand} "), npu_smi.parse_info)


def test_sections_whose_blank_lines_got_lost():
    for name in ("13-", "21-", "22-"):
        text = text_of(name)
        squeezed = "\n".join(line for line in text.splitlines() if line.strip())
        assert npu_smi.parse_sections(squeezed) == npu_smi.parse_sections(text), name


def test_a_card_with_two_chips_and_a_controller():
    chips = [f"Chip ID : {chip}\nTemperature(C) : 4{chip}" for chip in (0, 1)]
    text = "\n\n".join(["NPU ID : 2944\nChip Count : 2", *chips, "Chip Name : mcu\nTemperature(C) : 48"])
    expected = {
        "npu_id": 2944,
        "chip_count": 2,
        "chips": [{"chip_id": 0, "temperature_c": 40}, {"chip_id": 1, "temperature_c": 41}],
        "mcu": {"temperature_c": 48},
    }
    assert npu_smi.parse_sections(text) == expected
    assert npu_smi.parse_sections(text.replace("\n\n", "\n")) == expected


def test_a_table_that_lost_its_first_lines_keeps_its_chips():
    answer = npu_smi.parse_info("\n".join(text_of("06-").splitlines()[3:]))
    assert (answer["npu_smi_version"], answer["driver_version"], len(answer["devices"])) == (None, None, 8)


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_recordings(path):
    recording = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert parser_of(recording["subcommand"])(path.read_text(encoding="utf-8")) == recording["expect"]


def test_there_are_recordings():
    assert len(RECORDINGS) >= 24


def test_log_lines_around_the_table_do_no_harm():
    text = text_of("07-")
    noisy = "[WARNING] tsd: no log server\n" + text.replace("\n", "\r\n") + "Segmentation fault (core dumped)\n"
    assert npu_smi.parse_info(noisy) == npu_smi.parse_info(text)


def test_a_row_cut_in_the_middle_keeps_what_is_there():
    lines = text_of("06-").splitlines()
    answer = npu_smi.parse_info("\n".join(lines[:7]))  # the second line of the first NPU is missing
    assert [(device["npu_id"], device["health"], device["bus_id"], device["hbm_total_mb"]) for device in answer["devices"]] == [(0, "OK", None, None)]


def test_elided_rows_are_passed_over():
    lines = text_of("06-").splitlines()
    answer = npu_smi.parse_info("\n".join([*lines[:9], "| ...                       | ...           | ...                    |", *lines[-4:]]))
    assert [device["npu_id"] for device in answer["devices"]] == [0, 7]


@pytest.mark.parametrize(
    "text, error",
    [
        pytest.param("", "npu-smi printed nothing", id="empty"),
        pytest.param("bash: npu-smi: command not found\n", "bash: npu-smi: command not found", id="missing"),
        pytest.param("This device is not permitted.\nbye\n", "bye", id="last-line-where-none-is-telling"),
        pytest.param(
            "dcmi model initialized failed, because the device is used. ret is -8020\n\n",
            "dcmi model initialized failed, because the device is used. ret is -8020",
            id="used-by-a-container",
        ),
    ],
)
def test_errors(text, error):
    assert npu_smi.parse_info(text) == {"error": error}


@pytest.mark.parametrize(
    "text, value", [("93.6", 93.6), (" 32 ", 32), ("NA", None), ("-", None), ("", None), ("-5", -5), ("1e9", None), ("٣", None), ("9" * 30, None)]
)
def test_numbers(text, value):
    assert npu_smi.number(text) == value


# Text that looks enough like the real thing to reach every branch.
CELLS = st.sampled_from(
    [
        "NPU",
        "NPU ID",
        "Name",
        "NPU   Name",
        "Chip",
        "Chip  Phy-ID",
        "Device",
        "Health",
        "Bus-Id",
        "Power(W)    Temp(C)",
        "AICore(%)  Memory-Usage(MB)",
        "HBM-Usage(MB)",
        "NPU Util(%)",
        "Process id",
        "Process name",
        "npu-smi 1 Version: 2",
        "0  910B",
        "0 0",
        "OK",
        "NA",
        "-",
        "12 / 34",
        "/",
        "0000:C1:00.0",
        "7",
        "",
        " ",
        "٤",
        "\x00",
    ]
)
LINES = st.one_of(
    st.lists(st.one_of(CELLS, st.text(max_size=12)), max_size=6).map(lambda cells: "|" + "|".join(cells) + "|"),
    st.sampled_from(["+---+", "+===+"]),
    st.text(max_size=60),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(LINES, max_size=12).map("\n".join))
def test_any_text_gives_an_answer_of_one_shape(text):
    answer = npu_smi.parse_info(text)
    if "error" in answer:
        assert list(answer) == ["error"] and isinstance(answer["error"], str) and answer["error"]
    else:
        assert list(answer) == ["npu_smi_version", "driver_version", "devices", "processes"]
        assert all(set(device) == DEVICE_KEYS and isinstance(device["npu_id"], int) for device in answer["devices"])
        assert all(isinstance(process["pid"], int) for process in answer["processes"])
    json.dumps(answer)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(RECORDINGS), st.data())
def test_a_recording_with_a_piece_cut_out_gives_an_answer(path, data):
    text = path.read_text(encoding="utf-8")
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    for parse in (npu_smi.parse_info, *PARSERS.values()):
        json.dumps(parse(text[:start] + text[end:]))
