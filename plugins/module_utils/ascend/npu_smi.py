# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading what npu-smi prints, whatever its version.

No version documents its tables as a format, so each column is found by its heading and not by its place. Recordings of
drivers 20.2 to 26.0 with their origin: tests/fixtures/npu-smi. Numbers are megabytes, watts, degrees Celsius and percent;
None stands for what the output doesn't say ("NA", "-", or no such column).
"""
from __future__ import annotations

import re

# The column's heading as printed -> our name. Where a cell reads "used / total", the names are <name>_used… and <name>_total….
_SCALARS = {"power(w)": "power_w", "temp(c)": "temp_c", "aicore(%)": "aicore_pct", "npu util(%)": "aicore_pct"}
_PAIRS = {
    "hugepages-usage(page)": ("hugepages_used", "hugepages_total"),
    "memory-usage(mb)": ("memory_used_mb", "memory_total_mb"),
    "hbm-usage(mb)": ("hbm_used_mb", "hbm_total_mb"),
}
_MEASURED = re.compile(r"(?:NPU )?[^\s(]+\([^)\s]*\)", re.IGNORECASE)
_DEVICE_KEYS = (
    "npu_id", "chip_id", "phy_id", "name", "health", "bus_id", "power_w", "temp_c", "hugepages_used", "hugepages_total",
    "aicore_pct", "memory_used_mb", "memory_total_mb", "hbm_used_mb", "hbm_total_mb",
)
_VERSIONS = re.compile(r"npu-smi\s+(\S+)\s+Version:\s*(\S+)")
_VALUE = re.compile(r"[^\s/]+\s*/\s*[^\s/]+|[^\s/]+")
_INTEGER = re.compile(r"-?\d{1,18}")
_DECIMAL = re.compile(r"-?\d{1,18}\.\d{1,18}")
_BUS_ID = re.compile(r"[0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-9A-Fa-f]")
_LOOKS_LIKE_AN_ERROR = re.compile(r"ret is|error|fail|denied|cannot|not found|no such|unable|invalid", re.IGNORECASE)
_ABSENT = ("", "-", "--", "NA", "N/A", "na", "n/a", "None")


def number(text: str) -> int | float | None:
    """The number that a cell holds, or None."""
    text = text.strip()
    if _INTEGER.fullmatch(text) and text.isascii():
        return int(text)
    if _DECIMAL.fullmatch(text) and text.isascii():
        return float(text)
    return None


def _integer(text: str) -> int | None:
    value = number(text)
    return value if isinstance(value, int) else None


def _text(cell: str) -> str | None:
    cell = cell.strip()
    return None if cell in _ABSENT else cell


def _cells(line: str) -> list[str] | None:
    """The cells of a table's row, or None for any other line. Blanks are kept: columns are told by their offset."""
    line = line.strip()
    if len(line) < 2 or not line.startswith("|"):
        return None
    return line[1:].rstrip("|").split("|")


def _label(cell: str) -> str:
    return " ".join(cell.lower().split())


def _measurements(heading: str, cell: str) -> dict:
    """What stands in a cell under each of its headings: {"power_w": 93.6, "temp_c": 32, "hugepages_used": 0, …}.

    By order where there is a value for each heading, else by the nearest heading: long values shift their neighbours a little.
    """
    columns = [(match.group(0).lower(), match.start()) for match in _MEASURED.finditer(heading)]
    found = [(match.group(0), match.start()) for match in _VALUE.finditer(cell)]
    if len(found) == len(columns):
        pairs = [(column[0], value[0]) for column, value in zip(columns, found)]
    else:
        pairs = [(min(columns, key=lambda column: abs(column[1] - offset))[0], value) for value, offset in found if columns]
    values = {}
    for column, value in pairs:
        if column in _SCALARS:
            values[_SCALARS[column]] = number(value)
        elif column in _PAIRS:
            used, unused_slash, total = value.partition("/")
            values[_PAIRS[column][0]], values[_PAIRS[column][1]] = number(used), number(total)
    return values


class _Devices:
    """The device table. Two lines of headings, then two lines for each chip."""

    def __init__(self) -> None:
        self.headings: list[list[str]] = []
        self.devices: list[dict] = []
        self._open: dict | None = None

    def heading(self, cells: list[str]) -> None:
        if _label(cells[0]).startswith("npu"):
            self.headings = []
        self.headings.append(cells)
        self._open = None

    def row(self, cells: list[str]) -> None:
        line = 0 if self._open is None else 1
        if len(self.headings) <= line:
            return
        values: dict = {}
        for heading, cell in zip(self.headings[line], cells):
            values.update(self._cell(heading, cell))
        if self._open is not None:
            self._open.update(values)
            self._open = None
        elif values.get("npu_id") is not None and "health" in values:
            self._open = dict.fromkeys(_DEVICE_KEYS)
            self._open.update(values)
            self.devices.append(self._open)

    def rule(self) -> None:
        """A horizontal line ends a chip, also one whose second line was cut out."""
        self._open = None

    @staticmethod
    def _cell(heading: str, cell: str) -> dict:
        label, words = _label(heading), cell.split(None, 1)
        if label in ("npu name", "npu id name"):
            return {"npu_id": _integer(words[0]) if words else None, "name": _text(words[1]) if len(words) > 1 else None}
        if label in ("npu", "npu id"):
            return {"npu_id": _integer(cell)}
        if label in ("name", "health"):
            return {label: _text(cell)}
        if label == "chip":
            return {"chip_id": _integer(cell)}
        if label in ("chip phy-id", "chip device"):
            return {"chip_id": _integer(words[0]) if words else None, "phy_id": _integer(words[1]) if len(words) > 1 else None}
        if label in ("phy-id", "device"):
            return {"phy_id": _integer(cell)}
        if label == "bus-id":
            return {"bus_id": cell.strip() if _BUS_ID.fullmatch(cell.strip()) else None}
        return _measurements(heading, cell)


class _Processes:
    """The rows of the process table: four columns (NPU and chip share one), or five with the id inside a container."""

    def __init__(self) -> None:
        self.labels: list[str] = []
        self.processes: list[dict] = []

    def heading(self, cells: list[str]) -> None:
        self.labels = [_label(cell) for cell in cells]

    def row(self, cells: list[str]) -> None:
        if len(cells) != len(self.labels):
            return
        row = dict(zip(self.labels, cells))
        ids = cells[0].split()
        pid = _integer(row.get("process id", ""))
        if pid is None or not ids or _integer(ids[0]) is None:
            return
        chip = ids[1] if len(ids) > 1 else row.get("chip", "")
        self.processes.append({
            "npu_id": _integer(ids[0]),
            "chip_id": _integer(chip),
            "pid": pid,
            "name": _text(row.get("process name", "")),
            "memory_mb": number(row.get("process memory(mb)", "")),
        })


def _error(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if _LOOKS_LIKE_AN_ERROR.search(line)]
    return (telling or lines or ["npu-smi printed nothing"])[-1]


def parse_info(text: str) -> dict:
    """Read `npu-smi info`.

    Returns npu_smi_version, driver_version, devices (one dict for each chip, keys as in _DEVICE_KEYS) and processes
    (npu_id, chip_id, pid, name, memory_mb), or only `error` (the telling line) when there is no table. Takes any text,
    also one that lost lines: the versions are None where their line is missing.
    """
    versions = None
    devices, processes = _Devices(), _Processes()
    into: _Devices | _Processes = devices
    for line in text.splitlines():
        if line.lstrip().startswith("+"):
            devices.rule()
            continue
        cells = _cells(line)
        if not cells:
            continue
        found = _VERSIONS.search(line)
        if found:
            versions = versions or found
        elif "process id" in [_label(cell) for cell in cells]:
            into = processes
            into.heading(cells)
        elif _label(cells[0]).startswith("npu") or "bus-id" in [_label(cell) for cell in cells]:
            into = devices
            into.heading(cells)
        else:
            into.row(cells)
    if versions is None and not devices.devices:
        return {"error": _error(text)}
    return {
        "npu_smi_version": versions.group(1) if versions else None,
        "driver_version": versions.group(2) if versions else None,
        "devices": devices.devices,
        "processes": processes.processes,
    }


_CARD_KEYS = ("npu_id", "chip_count", "total_count")
_UNITS = (
    (re.compile(r"rate\(%\)$"), "pct"),
    (re.compile(r"\(%\)$"), " pct"),
    (re.compile(r"speed\(mhz\)$"), "mhz"),
    (re.compile(r"\(page\)$"), ""),
    (re.compile(r"\(([a-z]+)\)$"), r" \1"),
)


def _key(label: str) -> str:
    """Our name for a label: "DDR Usage Rate(%)" is ddr_usage_pct, "HBM Clock Speed(MHz)" is hbm_clock_mhz."""
    label = " ".join(label.lower().split())
    for pattern, unit in _UNITS:
        if pattern.search(label):
            label = pattern.sub(unit, label)
            break
    return re.sub(r"[^a-z0-9]+", "_", label).strip("_")


def _fields(text: str) -> list[tuple[str, str]]:
    fields = []
    for line in text.splitlines():
        label, colon, value = line.partition(":")
        key = _key(label)
        if colon and key:
            fields.append((key, value.strip()))
    return fields


def _number_or_text(value: str) -> int | float | str | None:
    known = number(value)
    return _text(value) if known is None else known


def parse_board(text: str) -> dict:
    """Read `npu-smi info -t board`: texts as printed (ids may be hexadecimal), but npu_id, chip_id and chip_count are numbers."""
    return {
        key: _integer(value) if key in ("npu_id", "chip_id", "chip_count") else _text(value)
        for key, value in _fields(text)
    }


def _sections(text: str) -> list[list[tuple[str, str]]]:
    """The fields in sections, one for each chip. Blank lines separate them; where those got lost, the ids do.

    The line "Chip ID" opens a section in -t common, and closes it in -t usages, power, temp, health and memory.
    """
    sections = []
    for paragraph in re.split(r"\n\s*\n", text.replace("\r", "")):
        fields = _fields(paragraph)
        marks = [index for index, (key, unused_value) in enumerate(fields) if key in ("chip_id", "chip_name")]
        if len(marks) < 2:
            sections.append(fields)
            continue
        own = [index for index, (key, unused_value) in enumerate(fields) if key not in _CARD_KEYS]
        opens = fields[own[0]][0] in ("chip_id", "chip_name")
        cuts = [0] + (marks[1:] if opens else [mark + 1 for mark in marks]) + [len(fields)]
        sections += [fields[start:end] for start, end in zip(cuts, cuts[1:])]
    return sections


def parse_sections(text: str) -> dict:
    """Read what `npu-smi info -t usages|memory|power|temp|health|common|…` prints.

    Returns the fields of the NPU (npu_id, chip_count), `chips` with those of each chip, and `mcu` with those of the card's
    controller. Output for one chip alone (-c) names no chip: its fields stand beside npu_id. Keys carry their unit.
    """
    result: dict = {}
    chips: list[dict] = []
    for fields in _sections(text):
        section: dict = {}
        for key, value in fields:
            if key in _CARD_KEYS:
                result[key] = _integer(value)
            else:
                section[key] = _integer(value) if key == "chip_id" else _number_or_text(value)
        if "chip_id" in section:
            chips.append({"chip_id": section.pop("chip_id"), **section})
        elif str(section.get("chip_name", "")).lower() == "mcu":
            section.pop("chip_name")
            result["mcu"] = section
        else:
            result.update(section)
    if chips:
        result["chips"] = chips
    return result


parse_usages = parse_memory = parse_sections


def parse_list(text: str) -> dict:
    """Read `npu-smi info -l`: total_count, and `npus` with npu_id, chip_count and what else is told of each (texts)."""
    result: dict = {"total_count": None, "npus": []}
    for key, value in _fields(text):
        if key == "total_count":
            result[key] = _integer(value)
        elif key == "npu_id":
            result["npus"].append({key: _integer(value)})
        elif result["npus"]:
            result["npus"][-1][key] = _integer(value) if key == "chip_count" else _text(value)
    return result


def parse_map(text: str) -> list[dict]:
    """Read `npu-smi info -m`: npu_id, chip_id, chip_logic_id (None for a card's controller), chip_phy_id where there is one, chip_name."""
    labels: list[str] = []
    chips = []
    for line in text.splitlines():
        cells = re.split(r"\s{2,}|\t", line.strip())
        if "Chip Name" in cells and "NPU ID" in cells:
            labels = [_key(cell) for cell in cells]
        elif labels and len(cells) == len(labels) and _integer(cells[0]) is not None:
            chips.append({label: _text(cell) if label == "chip_name" else _integer(cell) for label, cell in zip(labels, cells)})
    return chips
