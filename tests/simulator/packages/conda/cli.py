#!/usr/bin/env python3
"""conda as SIMULATED by npuops: the calls a deployment makes, their messages and exit codes, over a real solver and real environments.

Nothing is downloaded. A channel is a folder or URL with repodata.json; conda-forge and the default channels are known by name, and
answered by the channel of the media that this conda came with, as if the internet were there.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "simulator"))

from channels import (  # noqa: E402
    DEFAULT_CHANNELS,
    NODE_ROOT,
    PLATFORM,
    ROOT,
    TERMS,
    CondaError,
    channels_of,
    check_terms,
    error,
    read_condarc,
    settings,
    write_condarc,
)
from solver import installed, link, shown, solve, unlink, without  # noqa: E402

VERSION = "24.9.2"
ENVIRONMENTS = ROOT / "simulator" / "environments.txt"


def prefix_of(options, must_exist=True):
    if options.prefix:
        prefix = Path(os.path.abspath(os.path.expanduser(options.prefix)))
    elif options.name:
        prefix = ROOT if options.name == "base" else ROOT / "envs" / options.name
    elif os.environ.get("CONDA_PREFIX"):
        prefix = Path(os.environ["CONDA_PREFIX"])
    else:
        prefix = ROOT
    if NODE_ROOT and not (str(prefix) + "/").startswith(NODE_ROOT + "/"):
        raise CondaError("[npuops simulator] refused: %s lies outside the simulated node %s" % (prefix, NODE_ROOT))
    if must_exist and not (prefix / "conda-meta").is_dir():
        raise error("EnvironmentLocationNotFound", "Not a conda environment: %s" % prefix)
    return prefix


def records_of(prefix):
    return sorted((json.loads(path.read_text()) for path in (prefix / "conda-meta").glob("*.json")), key=lambda record: record["name"])


def choose(options, have, update=False):
    """What the environment would hold with what is asked for."""
    channels = channels_of(options)
    check_terms(channels)
    return solve(specs_of(options), have, channels, options.offline, update)


def remember(prefix):
    known = ENVIRONMENTS.read_text().splitlines() if ENVIRONMENTS.is_file() else []
    if str(prefix) not in known:
        ENVIRONMENTS.write_text("\n".join(known + [str(prefix)]) + "\n")


def environments():
    known = ENVIRONMENTS.read_text().splitlines() if ENVIRONMENTS.is_file() else []
    found = [str(ROOT)] + [item for item in known if (Path(item) / "conda-meta").is_dir()]
    return found + [str(path) for path in sorted((ROOT / "envs").glob("*")) if (path / "conda-meta").is_dir() and str(path) not in found]


def specs_of(options):
    specs = list(options.packages)
    for name in options.file or []:
        specs += [line.strip() for line in Path(name).read_text().splitlines() if line.strip() and not line.startswith(("#", "@"))]
    return specs


def plan(prefix, records, options):
    if not options.json and not options.quiet:
        print("Channels:\n" + "".join(" - %s\n" % item for item in channels_of(options)) + "Platform: %s" % PLATFORM)
        print("Collecting package metadata (repodata.json): done\nSolving environment: done\n")
        print("\n## Package Plan ##\n\n  environment location: %s\n\nThe following NEW packages will be INSTALLED:\n" % prefix)
        for record in map(shown, records):
            print("  %-18s %s/%s::%s-%s" % (record["name"], record["channel"], record["subdir"], record["name"], record["version"]))
    if options.dry_run:
        if options.json:
            print(json.dumps({"success": True, "dry_run": True, "prefix": str(prefix), "actions": {"LINK": [shown(record) for record in records]}}))
        else:
            print("\nDryRunExit: Dry run. Exiting.")
        return False
    if not options.yes:
        answer = input("\nProceed ([y]/n)? ") if sys.stdin.isatty() else sys.stdin.readline()
        if answer.strip().lower() not in ("y", "yes", ""):
            raise error("CondaSystemExit", "Exiting.")
        if answer == "":
            raise error("EOFError", "EOF when reading a line")
    return True


def create(options):
    prefix = prefix_of(options, must_exist=False)
    if not (options.prefix or options.name):
        raise error("ArgumentError", "one of the arguments -n/--name -p/--prefix is required")
    if prefix == ROOT:
        raise error("CondaValueError", "The target prefix is the base prefix. Aborting.")
    records = choose(options, [])
    if (prefix / "conda-meta").is_dir():
        if not options.json:
            print("WARNING: A conda environment already exists at '%s'" % prefix)
        if not options.yes:
            raise error("CondaSystemExit", "Exiting.")
        if not options.dry_run:
            unlink(prefix)
    elif prefix.exists() and any(prefix.iterdir()):
        raise error("CondaValueError", "Target prefix is a directory and not a conda environment: %s" % prefix)
    if not plan(prefix, records, options):
        return
    (prefix / "conda-meta").mkdir(parents=True, exist_ok=True)
    link(prefix, records, [])
    (prefix / "conda-meta" / "history").write_text("==> simulated by npuops <==\n# cmd: %s\n" % " ".join(sys.argv))
    remember(prefix)
    finish(prefix, options)
    if not options.json and not options.quiet:
        print("#\n# To activate this environment, use\n#\n#     $ conda activate %s\n" % (options.name or prefix))


def install(options, update=False):
    prefix = prefix_of(options)
    if prefix == ROOT:
        raise CondaError("[npuops simulator] the base environment holds nothing that could be changed")
    have = installed(prefix)
    records = choose(options, have, update)
    if {(record.name.normalized, str(record.version), record.build) for record in records} == {
        (record.name.normalized, str(record.version), record.build) for record in have
    }:
        print(
            json.dumps({"success": True, "message": "All requested packages already installed."})
            if options.json
            else "# All requested packages already installed.\n"
        )
        return
    if plan(prefix, records, options):
        link(prefix, records, have)
        finish(prefix, options)


def finish(prefix, options):
    if options.json:
        print(json.dumps({"success": True, "prefix": str(prefix), "simulated": "by npuops"}))
    else:
        print("\nPreparing transaction: done\nVerifying transaction: done\nExecuting transaction: done\n[npuops simulator] simulated: %s" % prefix)


def remove(options):
    prefix = prefix_of(options)
    if options.all:
        if prefix == ROOT:
            raise error("CondaEnvironmentError", "cannot remove root environment, add -n NAME or -p PREFIX option")
        if not options.dry_run:
            unlink(prefix)
        print("\nRemove all packages in environment %s:\n" % prefix)
        return
    have = installed(prefix)
    missing = [name for name in options.packages if name not in {record.name.normalized for record in have}]
    if missing:
        raise error(
            "PackagesNotFoundError", "The following packages are missing from the target environment:\n" + "".join("  - %s\n" % name for name in missing)
        )
    records = without(options.packages, have)
    if plan(prefix, records, options):
        link(prefix, records, have)
        finish(prefix, options)


def list_packages(options):
    prefix = prefix_of(options)
    keys = ("name", "version", "channel", "build_number", "subdir", "fn")
    records = [record for record in records_of(prefix) if not options.packages or record["name"] in options.packages]
    if options.json:
        print(
            json.dumps(
                [
                    dict(
                        {key: record.get(key) for key in keys},
                        build_string=record.get("build"),
                        platform=record.get("subdir"),
                        dist_name="%s-%s-%s" % (record["name"], record["version"], record.get("build")),
                        base_url=None,
                    )
                    for record in records
                ],
                indent=2,
            )
        )
        return
    print("# packages in environment at %s:\n#\n# Name                    Version                   Build  Channel" % prefix)
    for record in records:
        print("%-25s %-25s %s  %s" % (record["name"], record["version"], record.get("build"), record.get("channel")))


def info(options):
    data = {
        "conda_version": VERSION,
        "root_prefix": str(ROOT),
        "conda_prefix": str(ROOT),
        "default_prefix": os.environ.get("CONDA_PREFIX", str(ROOT)),
        "active_prefix": os.environ.get("CONDA_PREFIX"),
        "envs": environments(),
        "envs_dirs": [str(ROOT / "envs")],
        "pkgs_dirs": [str(ROOT / "pkgs")],
        "channels": settings().get("channels") or list(DEFAULT_CHANNELS),
        "platform": PLATFORM,
        "python_version": platform.python_version() + ".final.0",
        "root_writable": os.access(str(ROOT), os.W_OK),
        "offline": False,
        "rc_path": str(ROOT / ".condarc"),
        "simulated": "by npuops",
    }
    if options.json:
        print(json.dumps(data, indent=2))
    else:
        print(
            "\n     active environment : None\n          conda version : %s (simulated by npuops)\n       base environment : %s\n               platform : %s\n"
            % (VERSION, ROOT, PLATFORM)
        )


def env(options):
    action = (options.packages or ["list"])[0]
    if action == "list":
        if options.json:
            print(json.dumps({"envs": environments()}, indent=2))
        else:
            print("# conda environments:\n#")
            for path in environments():
                print("%-20s     %s" % ("base" if path == str(ROOT) else Path(path).name if str(ROOT / "envs") in path else "", path))
    elif action == "remove":
        options.all, options.packages = True, []
        remove(options)
    else:
        raise error("ArgumentError", "conda env %s is not simulated" % action)


def config(options):
    path = Path(options.file[0]) if options.file else ROOT / ".condarc"
    current = read_condarc(path)
    for key, value in options.set or []:
        current[key] = {"true": True, "false": False}.get(value.lower(), value)
    for pairs, where in ((options.add, 0), (options.prepend, 0), (options.append, None)):
        for key, value in pairs or []:
            items = [item for item in current.get(key, []) if item != value]
            items.insert(len(items) if where is None else where, value)
            current[key] = items
    for key, value in options.remove or []:
        if value not in current.get(key, []):
            raise error("CondaKeyError", "'%s': value '%s' not present in config" % (key, value))
        current[key].remove(value)
    for key in options.remove_key or []:
        if key not in current:
            raise error("CondaKeyError", "'%s': undefined in config" % key)
        del current[key]
    if options.set or options.add or options.prepend or options.append or options.remove or options.remove_key:
        write_condarc(path, current)
    elif options.show is not None:
        data = dict({"channels": ["defaults"], "auto_update_conda": True}, **settings())
        data = {key: value for key, value in data.items() if not options.show or key in options.show}
        print(json.dumps(data, indent=2) if options.json else "\n".join("%s: %s" % item for item in data.items()))
    elif options.show_sources:
        print(json.dumps({str(path): current}, indent=2) if options.json else "==> %s <==\n%s" % (path, path.read_text() if path.is_file() else ""))


def tos(options):
    action = (options.packages or ["view"])[0]
    accepted = json.loads(TERMS.read_text()) if TERMS.is_file() else []
    asked = options.channel or list(DEFAULT_CHANNELS)
    wanted = [
        item
        for name in asked
        for item in (DEFAULT_CHANNELS if name == "defaults" else [short for short in DEFAULT_CHANNELS if name.rstrip("/").endswith(short)] or [name])
    ]
    if action == "accept":
        TERMS.write_text(json.dumps(sorted(set(accepted) | set(wanted))) + "\n")
        for item in wanted:
            print("accepted Terms of Service for %s (simulated by npuops)" % item)
    elif action in ("reject", "interactive"):
        TERMS.write_text(json.dumps([item for item in accepted if item not in wanted]) + "\n")
    elif options.json:
        print(json.dumps({item: {"tos_accepted": item in accepted} for item in wanted}))
    else:
        for item in wanted:
            print("viewing Terms of Service for %s: simulated by npuops, %s" % (item, "accepted" if item in accepted else "not accepted"))


def run(arguments):
    """conda run [-n NAME | -p PREFIX] [--no-capture-output] [--live-stream] [--cwd DIR] COMMAND…"""
    parser = argparse.ArgumentParser(prog="conda run")
    for flags in (("-n", "--name"), ("-p", "--prefix"), ("--cwd",)):
        parser.add_argument(*flags)
    for flag in ("--no-capture-output", "--live-stream", "-v", "--dev"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args(arguments)
    prefix = prefix_of(options)
    environment = dict(
        os.environ,
        CONDA_PREFIX=str(prefix),
        CONDA_DEFAULT_ENV=options.name or str(prefix),
        PATH="%s/bin:%s" % (prefix, os.environ.get("PATH", "/usr/bin:/bin")),
    )
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    try:
        return subprocess.run(command, env=environment, cwd=options.cwd).returncode
    except FileNotFoundError:
        sys.stderr.write(
            "%s: command not found\nERROR conda.cli.main_run:execute(125): `conda run %s` failed. (See above for error)\n" % (command[0], " ".join(command))
        )
        return 127


COMMANDS = {
    "create": create,
    "install": install,
    "update": lambda options: install(options, update=True),
    "remove": remove,
    "uninstall": remove,
    "list": list_packages,
    "info": info,
    "env": env,
    "config": config,
    "tos": tos,
    "clean": lambda options: print("[npuops simulator] nothing to clean"),
}


def main(arguments):
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: conda [-h] [-V] command ...\n\nconda is simulated by npuops. Commands: %s" % ", ".join(sorted(list(COMMANDS) + ["run"])))
        return 0
    if arguments[0] in ("-V", "--version"):
        print("conda " + VERSION)
        return 0
    if arguments[0] == "run":
        return run(arguments[1:])
    if arguments[0] not in COMMANDS:
        sys.stderr.write("usage: conda [-h] [-v] [--no-plugins] [-V] COMMAND ...\nconda: error: argument COMMAND: invalid choice: '%s'\n" % arguments[0])
        return 2
    parser = argparse.ArgumentParser(prog="conda " + arguments[0])
    for flags in (("-n", "--name"), ("-p", "--prefix")):
        parser.add_argument(*flags)
    parser.add_argument("-c", "--channel", action="append")
    parser.add_argument("--file", action="append")
    for flags in (
        ("-y", "--yes"),
        ("-q", "--quiet"),
        ("-d", "--dry-run"),
        ("-a", "--all"),
        ("--json",),
        ("--offline",),
        ("--override-channels",),
        ("--freeze-installed", "--no-update-deps"),
        ("--strict-channel-priority",),
        ("--no-default-packages",),
        ("--system",),
        ("--env",),
        ("--show-sources",),
        ("-v", "--verbose"),
        ("--copy",),
        ("--no-deps",),
        ("--use-index-cache",),
        ("-k", "--insecure"),
        ("-e", "--envs"),
        ("--force-reinstall",),
        ("--update-all",),
    ):
        parser.add_argument(*flags, action="store_true")
    for flag in ("--set", "--add", "--append", "--prepend", "--remove"):
        parser.add_argument(flag, nargs=2, action="append")
    parser.add_argument("--remove-key", action="append")
    parser.add_argument("--solver")
    parser.add_argument("--show", nargs="*")
    parser.add_argument("packages", nargs="*")
    options = parser.parse_intermixed_args(arguments[1:])
    try:
        COMMANDS[arguments[0]](options)
    except CondaError as problem:
        if options.json:
            print(json.dumps({"error": str(problem).strip(), "exception_name": problem.name, "message": problem.args[0]}))
        sys.stderr.write(str(problem))
        return 1
    return 0


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: the solver's own threads are still there, and now and then crash an interpreter that takes itself apart.
    os._exit(status)
