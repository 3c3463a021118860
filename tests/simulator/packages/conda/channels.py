"""Settings, terms and channels of the conda that npuops SIMULATES."""

import json
import os
import platform
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KNOWN = json.loads((ROOT / "simulator" / "known.json").read_text())
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


def reach(channel, offline):
    """The address at which the solver finds a channel, None when it's left out. Names of the internet answer from the media that they were built with."""
    known = channel in DEFAULT_CHANNELS or channel in ("conda-forge", "anaconda", "defaults")
    if offline and (known or channel.startswith(("http://", "https://"))):
        return None
    if channel.startswith(("http://", "https://")):
        return channel
    folder = Path(KNOWN["internet"] if known else channel[7:] if channel.startswith("file://") else channel)
    if any((folder / subdir / "repodata.json").is_file() for subdir in (PLATFORM, "noarch")):
        return "file://%s" % folder
    if known:
        raise error("CondaHTTPError", "HTTP 000 CONNECTION FAILED for url <https://conda.anaconda.org/%s/%s/repodata.json>" % (channel, PLATFORM))
    raise error(
        "UnavailableInvalidChannel",
        "HTTP 404 NOT FOUND for channel %s <%s>\n\nThe channel is not accessible or is invalid.\n\n"
        "You will need to adjust your conda configuration to proceed." % (channel.rstrip("/").split("/")[-1], channel),
    )
