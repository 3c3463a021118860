"""What has to be true of a tarball before it is published. Each check returns sentences; none means that it is well."""

from __future__ import annotations

import json
import re
import subprocess
import tarfile
from pathlib import Path

import yaml

CHECKOUT = Path(__file__).resolve().parents[2]

# Anything else at the top is a mistake, tests and caches above all.
BELONGS = {
    "CHANGELOG.rst", "FILES.json", "LICENSE", "MANIFEST.json", "README.md", "README.zh-CN.md",
    "changelogs", "docs", "inventories", "meta", "playbooks", "plugins", "roles",
}  # fmt: skip
# What no folder of the collection holds, wherever it lies.
LITTER = re.compile(r"(^|/)(__pycache__|tests?/output|\.[^/]+|node_modules)(/|$)|\.(pyc|orig|rej|swp|retry|log)$|~$")
# plugins/test is Ansible's name for Jinja tests; a folder `tests` is not.
TESTS = re.compile(r"(^|/)(tests|molecule)/|(^|/)(test_[^/]*|conftest)\.py$")
LARGEST = 1_000_000  # bytes; the largest file of ours has some 60,000

# Headings of the template of certified collections, with those that other collections use for the same:
# https://docs.ansible.com/projects/partner-certification-requirements/readmes/ asks for the first five at least.
SECTIONS = [
    "Description", "Requirements", "Installation", "Release Notes", "License Information",
    "Use Cases", "Testing", "Contributing", "Support", "Related Information",
]  # fmt: skip


def misplaced(members: list[tarfile.TarInfo]) -> list[str]:
    """Members that do not belong into the tarball, each with the reason."""
    told = []
    for member in members:
        name = member.name
        if name.split("/")[0] not in BELONGS:
            told.append(f"{name}: not on the list of what belongs to the collection; add it to build_ignore of galaxy.yml, or to BELONGS")
        elif LITTER.search(name):
            told.append(f"{name}: left over by a tool; remove it, or add it to build_ignore of galaxy.yml")
        elif TESTS.search(name):
            told.append(f"{name}: a test; tests stay in the repository")
        elif member.issym() or member.islnk():
            told.append(f"{name}: a link to {member.linkname}; lay the file itself there")
        elif not (member.isfile() or member.isdir()):
            told.append(f"{name}: neither file nor folder")
        elif member.isfile() and member.mode & 0o111:
            told.append(f"{name}: executable ({member.mode:o}); nothing here is started by its name: chmod -x")
        elif member.size > LARGEST:
            told.append(f"{name}: {member.size} bytes, at most {LARGEST} are wanted")
    return told


def tracked() -> set[str]:
    """Files of the repository below the folders that are published."""
    folders = sorted(BELONGS - {"FILES.json", "MANIFEST.json"})
    listed = subprocess.run(["git", "ls-files", "-z", "--", *folders], cwd=CHECKOUT, capture_output=True, check=True).stdout.decode()
    return {name for name in listed.split("\0") if name and (CHECKOUT / name).is_file()}


def unlike(names: set[str], repository: set[str]) -> list[str]:
    """Differences between the files of the tarball and those of the repository."""
    inside = names - {"FILES.json", "MANIFEST.json"}
    return [f"{name}: in the repository, not in the tarball; look at build_ignore of galaxy.yml" for name in sorted(repository - inside)] + [
        f"{name}: in the tarball, not in the repository; remove it, or `git add` it" for name in sorted(inside - repository)
    ]


def unlisted(manifest: dict, galaxy: dict, tarball: str) -> list[str]:
    """Where name and version differ between galaxy.yml, the manifest and the tarball's name."""
    info = manifest["collection_info"]
    wanted = f"{galaxy['namespace']}-{galaxy['name']}-{galaxy['version']}.tar.gz"
    told = [
        f"{key}: {info[key]} in MANIFEST.json, {galaxy[key]} in galaxy.yml" for key in ("namespace", "name", "version") if str(info[key]) != str(galaxy[key])
    ]
    if tarball != wanted:
        told.append(f"{tarball}: {wanted} is the name that galaxy.yml asks for")
    return told


def newer(version: str, documented: dict[str, str]) -> list[str]:
    """Plugins whose version_added is later than this release."""

    def key(text: str) -> tuple[int, ...]:
        return tuple(int(part) for part in re.findall(r"\d+", text.split("-")[0])[:3])

    return [f"{name}: version_added {added}, this is {version}" for name, added in sorted(documented.items()) if key(added) > key(version)]


def changelog(version: str, released: dict, rst: str, fragments: list[str], final: bool) -> list[str]:
    """Whether the changelog has this version.

    The rule: while a version is worked on, its fragments lie in changelogs/fragments and become its entry. On the day of the release
    (`final`) the entry is there and no fragment is left. A fragment beside a released entry belongs to the next version.
    """
    entry = version in (released.get("releases") or {})
    if entry and fragments:
        return [f"{version} is released in changelogs/changelog.yaml, and {', '.join(fragments)} came later: raise the version in galaxy.yml"]
    if entry and not re.search(rf"^v{re.escape(version)}\n=+$", rst, re.MULTILINE):
        return [f"CHANGELOG.rst has no section v{version}: antsibull-changelog generate"]
    if not entry and final:
        return [f"changelogs/changelog.yaml has no entry {version}: antsibull-changelog release"]
    if not entry and not fragments:
        return [f"neither an entry {version} in changelogs/changelog.yaml nor a fragment for it in changelogs/fragments"]
    return []


def front_page(text: str, version: str) -> list[str]:
    """What Automation Hub's rules for a README miss: sections, full addresses, no `pip install` of Ansible."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^## (.+)$", prose, re.MULTILINE)
    told = [f"README.md has no section {wanted}" for wanted in SECTIONS if not any(heading.startswith(wanted) for heading in headings)]
    links = re.findall(r"\]\(([^)]+)\)", prose) + re.findall(r"^\[[^\]]+\]: (\S+)", prose, re.MULTILINE)
    told += [f"README.md: {link} is no full address; the page is read away from the repository" for link in links if not re.match(r"https://|#", link)]
    installation = re.search(r"^## Installation\n(.*?)(?=^## )", text, re.MULTILINE | re.DOTALL)
    if installation and re.search(r"pip3? install.*ansible", installation[1]):
        told.append("README.md: Installation names pip for Ansible; execution environments bring it")
    named = set(re.findall(r"npuops-ktransformers-(\d\S*)\.tar\.gz", text))
    told += [f"README.md: npuops-ktransformers-{other}.tar.gz, this is {version}" for other in sorted(named - {version})]
    # An address into our own repository is only as good as the file that it names.
    ours = re.findall(r"https://github\.com/npuops/ktransformers/blob/main/([^\s)#]+)", text)
    return told + [f"README.md: {name} is not in the repository" for name in sorted(set(ours)) if not (CHECKOUT / name).exists()]


def execution_environment(metadata: dict, names: set[str], python: list[str]) -> list[str]:
    """What ansible-builder, or the rules for it, would not take: missing files, other keys, pinned or Ansible's own packages.

    https://docs.ansible.com/projects/builder/en/latest/collection_metadata/ and
    https://docs.ansible.com/projects/partner-certification-requirements/dependencies/
    """
    told = []
    if metadata.get("version") != 1:
        told.append(f"meta/execution-environment.yml: version {metadata.get('version')}, 1 is the only one")
    dependencies = metadata.get("dependencies") or {}
    told += [f"meta/execution-environment.yml: {key} means nothing there" for key in sorted(set(dependencies) - {"python", "system", "exclude"})]
    told += [
        f"meta/execution-environment.yml: {dependencies[key]} is not in the tarball"
        for key in ("python", "system")
        if key in dependencies and dependencies[key] not in names
    ]
    for line in python:
        if re.match(r"ansible(-core)?\b(?!-)", line):
            told.append(f"{line}: an execution environment has its own")
        if re.search(r"==|<|~=", line):
            told.append(f"{line}: a pin or an upper bound; only >= is allowed")
    return told


def load(tarball: Path, name: str):
    """A YAML or JSON file of the tarball."""
    with tarfile.open(tarball) as archive:
        text = archive.extractfile(name).read().decode()
    return json.loads(text) if name.endswith(".json") else yaml.safe_load(text)
