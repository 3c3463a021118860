"""Settings, terms, channels and the choice of packages of the conda that npuops SIMULATES."""

import json
import os
import platform
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KNOWN = json.loads((ROOT / "simulator" / "packages.json").read_text())
NODE_ROOT = KNOWN["node_root"]
PLATFORM = {"x86_64": "linux-64", "aarch64": "linux-aarch64"}.get(platform.machine(), "linux-64")
DEFAULT_CHANNELS = ("pkgs/main", "pkgs/r")
TERMS = ROOT / "simulator" / "accepted-terms.json"


class CondaError(Exception):
    """A message for stderr; the exit code is 1."""

    name = "CondaError"

    def __str__(self):
        return "\n%s: %s\n" % (self.name, self.args[0])


def error(kind, text):
    return type(kind, (CondaError,), {"name": kind})(text)


def read_condarc(path):
    """The few shapes of .condarc that matter: `key: value` and `key:` with a list below."""
    settings, key = {}, None
    if not path.is_file():
        return settings
    for line in path.read_text().splitlines():
        text = line.split("#")[0].rstrip()
        if not text.strip() or text.strip() == "---":
            continue
        if text.lstrip().startswith("- ") and key:
            settings.setdefault(key, [])
            settings[key].append(text.strip()[2:].strip().strip("'\""))
        elif ":" in text:
            key, value = text.strip().split(":", 1)
            value = value.strip().strip("'\"")
            settings[key] = [] if value in ("", "[]") else {"true": True, "false": False}.get(value, value)
    return settings


def write_condarc(path, settings):
    lines = []
    for key, value in settings.items():
        if isinstance(value, list):
            lines += [key + ":"] + ["  - " + item for item in value]
        else:
            lines.append("%s: %s" % (key, str(value).lower() if isinstance(value, bool) else value))
    path.write_text("\n".join(lines) + "\n")


def settings():
    merged = read_condarc(ROOT / ".condarc")
    if os.environ.get("CONDARC"):
        merged.update(read_condarc(Path(os.environ["CONDARC"])))
    return merged


def channels_of(options):
    asked = list(options.channel or [])
    if not options.override_channels:
        asked += settings().get("channels") or ["defaults"]
    expanded = []
    for channel in asked:
        for item in DEFAULT_CHANNELS if channel == "defaults" else (channel,):
            if item not in expanded:
                expanded.append(item)
    return expanded


def check_terms(channels):
    accepted = json.loads(TERMS.read_text()) if TERMS.is_file() else []
    missing = [item for item in channels if item in DEFAULT_CHANNELS and item not in accepted]
    if missing:
        raise error(
            "CondaToSNonInteractiveError",
            "Terms of Service have not been accepted for the following channels. "
            "Please accept or remove them before proceeding:\n"
            + "".join("    - %s\n" % item for item in missing)
            + "\nTo accept these channels' Terms of Service, run the following commands:\n"
            + "".join("    conda tos accept --override-channels --channel %s\n" % item for item in missing),
        )


def repodata(channel, offline):
    """Packages of a channel: name → record. A folder, file:// or http(s):// is read; known names answer from memory."""
    if channel in DEFAULT_CHANNELS or channel in ("conda-forge", "anaconda", "defaults"):
        return {} if offline else {record["name"]: record for record in KNOWN["packages"] if channel in DEFAULT_CHANNELS or record["forge"]}
    records = {}
    found = False
    for subdir in (PLATFORM, "noarch"):
        if channel.startswith(("http://", "https://")):
            if offline:
                continue
            try:
                with urllib.request.urlopen("%s/%s/repodata.json" % (channel.rstrip("/"), subdir), timeout=20) as answer:
                    data = json.loads(answer.read().decode())
            except (urllib.error.URLError, OSError):
                continue
        else:
            folder = Path(channel[7:] if channel.startswith("file://") else channel)
            if not (folder / subdir / "repodata.json").is_file():
                continue
            data = json.loads((folder / subdir / "repodata.json").read_text())
        found = True
        for name, record in list(data.get("packages", {}).items()) + list(data.get("packages.conda", {}).items()):
            records.setdefault(record["name"], dict(record, fn=name, channel=channel, subdir=subdir))
    if not found:
        if offline and channel.startswith("http"):
            return {}
        raise error(
            "UnavailableInvalidChannel",
            "HTTP 404 NOT FOUND for channel %s <%s>\n\nThe channel is not accessible or is invalid.\n\n"
            "You will need to adjust your conda configuration to proceed." % (channel.rstrip("/").split("/")[-1], channel),
        )
    return records


def parse_spec(text):
    text = text.split("::")[-1].strip()
    for mark in ("==", ">=", "<=", "=", ">", "<", "!="):
        if mark in text:
            name, version = text.split(mark, 1)
            return name.strip().lower(), mark, version.split("=")[0].strip()
    return text.lower(), "", ""


def matches(record, mark, version):
    """Whether a record fits. Beside = and == every comparison is taken to hold: the simulator has one version of each package."""
    if mark == "=":
        return (record["version"] + ".").startswith(version.rstrip("*").rstrip(".") + ".")
    return mark != "==" or record["version"] == version


def resolve(specs, options):
    channels = channels_of(options)
    check_terms(channels)
    offered, tried = {}, []
    for channel in channels:
        tried.append(channel)
        for name, record in repodata(channel, options.offline).items():
            offered.setdefault(name, dict(record, channel=record.get("channel", channel)))
    chosen, missing = [], []
    for spec in specs:
        name, mark, version = parse_spec(spec)
        record = offered.get(name)
        if record is None or not matches(record, mark, version):
            missing.append(spec if record is None else "%s (simulated: only %s is here)" % (spec, record["version"]))
        else:
            chosen.append(record)
    if missing:
        raise error(
            "PackagesNotFoundError",
            "The following packages are not available from current channels:\n\n"
            + "".join("  - %s\n" % item for item in missing)
            + "\nCurrent channels:\n\n"
            + "".join("  - %s\n" % item for item in tried)
            + "\nTo search for alternate channels that may provide the conda package you're\nlooking for, "
            "navigate to the channel index and use the search bar at the top of the page.\n",
        )
    names = [record["name"] for record in chosen]
    queue = list(chosen)
    while queue:
        for dependency in queue.pop().get("depends", []):
            name = parse_spec(dependency.split(" ")[0])[0]
            if name in offered and name not in names:
                names.append(name)
                chosen.append(offered[name])
                queue.append(offered[name])
    return chosen
