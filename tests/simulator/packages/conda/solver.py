"""The real solver and installer under the conda that npuops SIMULATES: py-rattler over channels in conda's format."""

import asyncio
import shutil
import sys
from pathlib import Path

from channels import KNOWN, PLATFORM, ROOT, CondaError, error, reach

# An installer for another machine brings the solver along, unpacked beside this file when conda was installed.
sys.path.insert(0, str(ROOT / "simulator" / "py-rattler"))


def rattler():
    try:
        import rattler as module
        import rattler.exceptions  # noqa: F401
    except ImportError as problem:
        raise CondaError("[npuops simulator] this conda has no solver: %s" % (KNOWN["no_solver"] or problem))
    return module


def installed(prefix):
    """Records of what an environment holds, sorted by name."""
    found = [rattler().PrefixRecord.from_path(path) for path in (prefix / "conda-meta").glob("*.json")]
    return sorted(found, key=lambda record: record.name.normalized)


def name_of(spec):
    try:
        return rattler().MatchSpec(spec).name.normalized
    except rattler().exceptions.InvalidMatchSpecError as problem:
        raise error("InvalidMatchSpec", "Invalid spec '%s': %s" % (spec, problem))


def pinned(record):
    """How a package that is not asked for again stays: Python in its minor version, as conda pins it."""
    name = record.name.normalized
    return "python %s.*" % ".".join(str(record.version).split(".")[:2]) if name == "python" else name


def solve(specs, have, channels, offline, update=False):
    """Records of the environment that has `specs` on top of `have`. What is there is asked for again: a name left out would be removed."""
    names = {name_of(spec) for spec in specs}
    keep = [pinned(record) for record in have if record.name.normalized not in names]
    locked = [record for record in have if not update or record.name.normalized not in names]
    sources = [source for source in (reach(channel, offline) for channel in channels) if source]
    try:
        return asyncio.run(
            # conda's own default: whoever asks for Python gets pip.
            rattler().solve(sources, [*specs, *keep], platforms=[PLATFORM, "noarch"], locked_packages=locked, add_pip_as_python_dependency=True)
        )
    except rattler().exceptions.SolverError as problem:
        raise error("LibMambaUnsatisfiableError", "Encountered problems while solving:\n%s" % problem)
    except (rattler().exceptions.GatewayError, rattler().exceptions.FetchRepoDataError) as problem:
        raise error("CondaHTTPError", "HTTP 000 CONNECTION FAILED: %s" % problem)


def without(names, have):
    """Records that stay when the packages `names` go, and what depends on them with them."""
    gone = set(names)
    while True:
        more = {record.name.normalized for record in have for need in record.depends if need.split(" ")[0] in gone} - gone
        if not more:
            return [record for record in have if record.name.normalized not in gone]
        gone |= more


def link(prefix, records, have):
    """Make the environment hold exactly `records`."""
    try:
        asyncio.run(rattler().install(records, str(prefix), cache_dir=str(ROOT / "pkgs"), installed_packages=have, show_progress=False))
    except Exception as problem:  # each kind of damage has a class of its own
        raise error("CondaVerificationError", "%s: %s" % (type(problem).__name__, problem))


def unlink(prefix):
    """Take every package out, then what nobody owns."""
    try:
        link(prefix, [], installed(prefix))
    finally:
        shutil.rmtree(str(prefix), ignore_errors=True)


def shown(record):
    """What conda's lists and plans say of a record."""
    return {
        "name": record.name.normalized,
        "version": str(record.version),
        "build": record.build,
        "build_number": record.build_number,
        "channel": Path(str(record.channel).rstrip("/")).name,
        "subdir": record.subdir,
        "fn": record.file_name,
    }
