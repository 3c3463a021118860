#!/usr/bin/python
# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
---
module: source_tree
version_added: 1.0.0
short_description: Lay a source tree from an archive, a git bundle or a git repository
description:
  - Unpacks or clones into a folder of O(store) that is named by what is in it, and points the link O(dest) at it.
    A new archive never mixes with the files of an old one, and the old tree stays for going back.
  - An interrupted run leaves nothing that looks complete. The folder gets its name after its last file.
  - Answers from the names alone when nothing is needed, so that O(src) has to be fetched only when RV(needs_src) is true.
extends_documentation_fragment:
  - npuops.ktransformers.attributes
options:
  src:
    description:
      - Path on the node of an archive (C(.tar.gz), C(.tgz), C(.tar), C(.tar.xz)) with one top-level folder, or of a git bundle (C(.bundle)).
      - Anything with a scheme or with the form C(user@host:path) is the URL of a git repository.
      - Required to lay a tree. An archive or bundle does not have to be on the node when the tree is there already, and in check mode.
    type: str
  name:
    description: What the folders in O(store) are called, before their digest. Default is the last part of O(dest).
    type: str
  digest:
    description: SHA-256 of the archive or bundle, as in the manifest of the media. Computed from the file when not given.
    type: str
  version:
    description:
      - Branch, tag or commit to check out, of a repository or a bundle.
      - Only a full commit of 40 digits needs no network once the tree is there.
    type: str
    default: HEAD
  submodules:
    description:
      - Lay the submodules too, from O(parts), and with O(src) the URL of a repository from their own URLs where O(parts) does not have them.
      - A folder of an archive that has files in it is taken as it is.
    type: bool
    default: true
  only:
    description:
      - The submodules to lay, nested ones too, as their path in the tree. Empty lays all of them.
      - The value is the commit, for a tree from an archive, which records none. A git tree says itself which commit it wants. Empty is unknown.
    type: dict
    default: {}
  clones:
    description: Repositories that the build of the tree would clone by itself, laid on their branch with all their submodules, from bundles of O(parts).
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Where in the tree. One that has files in it is taken as it is.
        type: str
        required: true
      url:
        description: Where the build would clone it from.
        type: str
        required: true
      version:
        description: The branch.
        type: str
        required: true
  parts:
    description:
      - Archives and git bundles, one for each submodule and each of O(clones). An archive is known by the commit that C(git archive) noted in it
        (GitHub's downloads have it), else by the commit in its name; a bundle by what is in it.
      - They have to be on the node when a tree is laid. Another set of them is another tree.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Path on the node.
        type: path
        required: true
      sha256:
        description: SHA-256 of the file.
        type: str
        required: true
  parts_folder:
    description: Where a missing part is to be put, for the message that says so.
    type: str
    default: parts
  dest:
    description: The link that always points at the current tree.
    type: path
    required: true
  store:
    description: Folder on the node that holds the trees.
    type: path
    required: true
  state:
    description: V(absent) removes the link and the trees that this module laid for it.
    type: str
    choices: [present, absent]
    default: present
attributes:
  check_mode:
    support: full
    description: Says what would be done. The commit of an archive that is not unpacked yet is unknown.
  diff_mode:
    support: full
    description: Shows which tree the link points at, before and after.
notes:
  - A bundle or a repository needs C(git) on the node.
author:
  - npuops contributors (@npuops)
"""

EXAMPLES = r"""
- name: Lay the source of KTransformers from an archive
  npuops.ktransformers.source_tree:
    src: /var/lib/npuops/media/source/ktransformers-v0.2.4-npu.tar.gz
    digest: 3f1b0d6a0f4f8ad4b1f0b4b4a3f3b8b6f6f9f0c0d0e0f000102030405060708a
    dest: /opt/ktransformers
    store: /var/lib/npuops/sources

- name: Lay it from a repository, at a tag
  npuops.ktransformers.source_tree:
    src: https://github.com/kvcache-ai/ktransformers.git
    version: v0.2.4
    dest: /opt/ktransformers
    store: /var/lib/npuops/sources
"""

RETURN = r"""
reason:
  description: Why something is done, in words, or null when the node has the tree.
  returned: success
  type: str
  sample: /opt/ktransformers does not exist
kind:
  description: What O(src) is.
  returned: O(state=present)
  type: str
  sample: archive
needs_src:
  description: Whether the file O(src) has to be on the node to do it.
  returned: success
  type: bool
needs_parts:
  description: Whether the files of O(parts) have to be on the node to do it.
  returned: O(state=present)
  type: bool
tree:
  description: Real path of the tree that O(dest) points at.
  returned: O(state=present)
  type: str
  sample: /var/lib/npuops/sources/ktransformers-3f1b0d6a0f4f
digest:
  description: What the tree is known by. The SHA-256 of the archive or bundle, or the commit of a repository; with parts, a SHA-256 over all.
  returned: O(state=present)
  type: str
left_out:
  description: Links of an archive that was laid by this call, to absolute paths of the computer that it was made on. The tree does not have them.
  returned: O(state=present)
  type: list
  elements: str
  sample: [ktransformers/ktransformers -> /home/somebody/ktransformers]
commit:
  description: Commit of the tree, or null where an archive does not tell. C(git archive) writes it into the archive.
  returned: O(state=present)
  type: str
"""

import hashlib
import json
import os
import re
import shutil
import tarfile

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.npuops.ktransformers.plugins.module_utils.file_digest import sha256_of
from ansible_collections.npuops.ktransformers.plugins.module_utils.source_parts import ARCHIVES, COMMIT, Filler, PartsError

URL = re.compile(r"^[a-z][a-z0-9+.-]*://|^[^/@]+@[^/:]+:")


class SourceError(Exception):
    """What cannot be done, what was expected, and the next step, in one sentence."""


def kind_of(src):
    """'git', 'bundle' or 'archive'. Raises SourceError for a name that is none of them."""
    if URL.match(src):
        return "git"
    if src.endswith(".bundle"):
        return "bundle"
    if src.endswith(ARCHIVES):
        return "archive"
    raise SourceError(f"{src} is no source that can be laid: expected a git URL, a .bundle, or an archive named {', '.join(ARCHIVES)}.")


def inside(base, path):
    return path == base or path.startswith(base + os.sep)


def link_stays(name, member):
    """Whether a link in an archive, read without following other links, ends below the archive's top level folder."""
    top = "/" + name.split("/")[0]
    target = os.path.join(os.path.dirname("/" + name), member.linkname) if member.issym() else os.path.join("/", member.linkname)
    return not os.path.isabs(member.linkname) and "/" in name and inside(top, os.path.normpath(target))


def checked_members(archive, source):
    """Members of an open tar file, refused as a whole when one of them could write outside the folder it is unpacked into.

    Returns (top level folder, members, links left out). A symbolic link to an absolute path means a place of somebody else's computer, and
    is left out: KTransformers c007d40b has ktransformers/ktransformers -> /home/djw/py311_717/ktransformers/ktransformers. Raises SourceError."""
    members, tops, left_out = [], set(), []
    for member in archive:
        name = os.path.normpath(member.name)
        if os.path.isabs(name) or name == ".." or name.startswith("../"):
            raise SourceError(f"{source} holds {member.name}, which lies outside its own folder; get the archive again from its supplier.")
        if not (member.isfile() or member.isdir() or member.issym() or member.islnk()):
            raise SourceError(f"{source} holds {member.name}, which is a device or a pipe; get the archive again from its supplier.")
        if member.issym() and os.path.isabs(member.linkname) and "/" in name:
            left_out.append(f"{name} -> {member.linkname}")
            continue
        if (member.issym() or member.islnk()) and not link_stays(name, member):
            raise SourceError(f"{source} holds the link {member.name} -> {member.linkname}, which leaves the tree; get the archive again from its supplier.")
        if name == ".":
            continue
        # Set-user-id bits and foreign owners are of no use in a source tree.
        member.mode = (member.mode & 0o755) | (0o700 if member.isdir() else 0o600)
        member.uid, member.gid, member.uname, member.gname = os.geteuid(), os.getegid(), "", ""
        members.append(member)
        tops.add(name.split("/")[0])
    if len(tops) != 1:
        raise SourceError(f"{source} holds {len(tops)} top-level entries ({', '.join(sorted(tops)[:3])}…), expected one folder; pack the folder itself.")
    return tops.pop(), members, left_out


def unpack(source, folder):
    """Unpack the archive `source` into the new folder `folder`; (its folder, the commit that git archive noted or None, links left out)."""
    os.makedirs(folder)
    try:
        with tarfile.open(source) as archive:
            top, members, left_out = checked_members(archive, source)
            commit = archive.pax_headers.get("comment")
            base = os.path.realpath(folder)
            for member in members:
                # A link may lead through another one: what counts is where the file would land.
                if not inside(base, os.path.realpath(os.path.join(folder, os.path.dirname(member.name)))):
                    raise SourceError(f"{source} holds {member.name}, which lies outside its own folder; get the archive again from its supplier.")
                try:
                    archive.extract(member, folder, numeric_owner=True, filter="fully_trusted")
                except TypeError:  # a tarfile module older than filters (Python 3.8.16 and before)
                    archive.extract(member, folder, numeric_owner=True)
    except (tarfile.TarError, EOFError, OSError) as exc:
        raise SourceError(f"{source} cannot be unpacked: {exc}; compare its sha256 with the media's manifest and the free space of {folder}.")
    if not os.path.isdir(os.path.join(folder, top)):
        raise SourceError(f"{source} holds the file {top}, expected one folder; pack the folder itself.")
    return top, commit if commit and COMMIT.match(commit) else None, left_out


class Sources:
    """The trees of one link. `run` is AnsibleModule.run_command."""

    def __init__(self, params, run):
        self.dest = os.path.abspath(params["dest"])
        self.store = os.path.abspath(params["store"])
        self.name = params["name"] or os.path.basename(self.dest)
        self.src = params["src"] or ""
        self.version = params["version"]
        self.digest = params["digest"]
        self.submodules = params["submodules"]
        self.only = params["only"]
        self.clones = params["clones"]
        self.parts = params["parts"]
        self.parts_folder = params["parts_folder"]
        self.run = run
        self.left_out = []  # links of the archive that was laid

    # -- what is there

    def current(self):
        """Real path of the tree that the link points at, None without one. Raises SourceError for a folder that is not ours."""
        if not os.path.lexists(self.dest):
            return None
        if not os.path.islink(self.dest):
            raise SourceError(f"{self.dest} is a folder that was not laid by this collection; expected a link or nothing: move it away or choose another path.")
        return os.path.join(os.path.dirname(self.dest), os.readlink(self.dest))

    def record_path(self, tree):
        return tree + ".json"

    def record(self, tree):
        """What was noted when the tree was laid, {} when it is not there or not complete."""
        try:
            with open(self.record_path(tree), encoding="utf-8") as stream:
                return json.load(stream) if os.path.isdir(tree) else {}
        except (OSError, ValueError):
            return {}

    def trees(self):
        """Every tree in the store that was laid for this link."""
        names = sorted(os.listdir(self.store)) if os.path.isdir(self.store) else []
        paths = [os.path.join(self.store, name[: -len(".json")]) for name in names if name.endswith(".json")]
        return [path for path in paths if self.record(path).get("dest") == self.dest]

    def wanted(self):
        """(digest of the tree that should be there, digest of its source alone). Asks the repository when `version` is no commit."""
        source = self.wanted_source()
        if not (self.parts or self.only or self.clones):
            return source, source
        more = [sorted(part["sha256"] for part in self.parts), self.only, self.clones]
        return hashlib.sha256(f"{source} {json.dumps(more, sort_keys=True)}".encode()).hexdigest(), source

    def wanted_source(self):
        kind = kind_of(self.src)
        if kind == "git":
            return self.version if COMMIT.match(self.version) else self.remote_commit()
        if self.digest:
            digest = self.digest
        elif os.path.exists(self.src):
            digest = sha256_of(self.src)
        else:
            raise SourceError(f"{self.src} does not exist and its digest is not given; fetch it from the media first.")
        if kind == "bundle" and self.version != "HEAD":
            digest = hashlib.sha256(f"{digest} {self.version}".encode()).hexdigest()
        return digest

    def remote_commit(self):
        out = self.git(None, "ls-remote", self.src, self.version, f"refs/tags/{self.version}^{{}}",
                       hint="check the URL and the network of the node, or set a full commit, which needs no network once it is laid")
        found = [line.split("\t")[0] for line in sorted(out.splitlines(), key=lambda line: not line.endswith("^{}"))]
        if not found:
            raise SourceError(f"{self.src} has no branch or tag {self.version}; correct the version.")
        return found[0]

    # -- what is done

    def git(self, folder, *arguments, **keywords):
        hint = keywords.get("hint", "see git's words")
        # Since 2.38.1 git takes no submodule from the disk. Who named a repository on the disk wants just that.
        local = ["-c", "protocol.file.allow=always"] if self.src.startswith("file://") else []
        command = ["git"] + local + (["-C", folder] if folder else []) + list(arguments)
        try:
            code, out, err = self.run(command, environ_update={"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"})
        except OSError:
            code, out, err = 127, "", "git is not installed"
        if code:
            last = (err.strip() or out.strip() or "no output").splitlines()[-1]
            raise SourceError(f"`{' '.join(command)}` ended with {code} ({last}); {hint}.")
        return out

    def clone(self, folder):
        """Clone the repository or bundle into `folder` and check the version out; returns the commit."""
        self.git(None, "clone", "--quiet", "--no-checkout", self.src, folder, hint="check the source and the network of the node")
        reference = "refs/remotes/origin/" + self.version
        branch = self.version != "HEAD" and reference in self.git(folder, "for-each-ref", "--format=%(refname)", reference).split()
        commit = self.git(folder, "rev-parse", "--verify", (reference if branch else self.version) + "^{commit}",
                          hint=f"{self.src} has no {self.version}: correct the version").strip()
        # Vendor builds ask for the branch's name, so a branch stays one.
        self.git(folder, "checkout", "--quiet", *(["-B", self.version] if branch else ["--detach"]), commit)
        return commit

    def unpack_part(self, archive, folder):
        return unpack(archive, folder)[0]

    def fill(self, tree):
        """Lay what belongs into the tree besides itself. Raises SourceError that names all that is missing."""
        filler = Filler([part["path"] for part in self.parts], self.git, self.unpack_part, self.only, kind_of(self.src) == "git")
        filler.clones(tree, self.clones)
        if self.submodules:
            filler.submodules(tree)
        if filler.missing:
            raise SourceError(f"{os.path.basename(self.src)} needs {len(filler.missing)} more repositories, which are not in {self.parts_folder} of the media: "
                              f"{'; '.join(filler.missing)}. Put them into {self.parts_folder} and index the media again; docs/air-gap.md has the commands.")

    def lay(self, tree, digest):
        """Unpack or clone into `tree`, complete or not at all; returns the commit or None."""
        partial = os.path.join(self.store, f".{os.path.basename(tree)}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        os.makedirs(self.store, mode=0o755, exist_ok=True)
        try:
            if kind_of(self.src) == "archive":
                top, commit, self.left_out = unpack(self.src, partial)
            else:
                os.makedirs(partial)
                top, commit = "tree", self.clone(os.path.join(partial, "tree"))
            self.fill(os.path.join(partial, top))
            record = {"dest": self.dest, "source": self.src, "version": self.version, "digest": digest, "commit": commit}
            with open(self.record_path(tree), "w", encoding="utf-8") as stream:
                json.dump(record, stream, indent=1, sort_keys=True)
            os.rename(os.path.join(partial, top), tree)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return commit

    def point(self, tree):
        """Swap the link in one step: who reads through it sees the old tree or the new one."""
        os.makedirs(os.path.dirname(self.dest), exist_ok=True)
        fresh = self.dest + ".npuops-new"
        if os.path.lexists(fresh):
            os.unlink(fresh)
        os.symlink(tree, fresh)
        os.replace(fresh, self.dest)


def present(sources, check):
    kind = kind_of(sources.src)
    digest, source = sources.wanted()
    tree = os.path.join(sources.store, f"{sources.name}-{digest[:12]}")
    current, record = sources.current(), sources.record(tree)
    needs_tree = record.get("digest") != digest
    if needs_tree:
        reason = f"{sources.dest} does not exist" if current is None else f"{sources.dest} is {current}, {tree} is wanted"
    elif current != tree:
        reason = f"{sources.dest} points at {current or 'nothing'}, {tree} is wanted"
    else:
        reason = None
    commit = record.get("commit") or (source if kind == "git" else None)
    if reason and not check:
        if needs_tree:
            shutil.rmtree(tree, ignore_errors=True)
            commit = sources.lay(tree, digest)
        sources.point(tree)
    return {
        "changed": reason is not None, "reason": reason, "kind": kind, "needs_src": needs_tree and kind != "git",
        "needs_parts": needs_tree and bool(sources.parts),
        "tree": tree, "digest": digest, "commit": commit, "left_out": sources.left_out,
        "diff": {"before": f"{sources.dest} -> {current}\n" if current else "", "after": f"{sources.dest} -> {tree}\n"},
    }


def absent(sources, check):
    trees = sources.trees()
    linked = os.path.islink(sources.dest) and sources.current() in trees
    if not check:
        if linked:
            os.unlink(sources.dest)
        for tree in trees:
            shutil.rmtree(tree)
            os.unlink(sources.record_path(tree))
    gone = ([sources.dest] if linked else []) + trees
    return {"changed": bool(gone), "reason": f"{', '.join(gone)} to be removed" if gone else None, "needs_src": False,
            "diff": {"before": "".join(path + "\n" for path in gone), "after": ""}}


def main():
    module = AnsibleModule(
        argument_spec={
            "src": {"type": "str"},
            "name": {"type": "str"},
            "digest": {"type": "str"},
            "version": {"type": "str", "default": "HEAD"},
            "submodules": {"type": "bool", "default": True},
            "only": {"type": "dict", "default": {}},
            "clones": {"type": "list", "elements": "dict", "default": [], "options": {
                "path": {"type": "str", "required": True}, "url": {"type": "str", "required": True}, "version": {"type": "str", "required": True}}},
            "parts": {"type": "list", "elements": "dict", "default": [], "options": {
                "path": {"type": "path", "required": True}, "sha256": {"type": "str", "required": True}}},
            "parts_folder": {"type": "str", "default": "parts"},
            "dest": {"type": "path", "required": True},
            "store": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        required_if=[("state", "present", ["src"])],
        supports_check_mode=True,
    )
    os.umask(0o022)
    sources = Sources(module.params, module.run_command)
    try:
        result = (present if module.params["state"] == "present" else absent)(sources, module.check_mode)
    except (SourceError, PartsError, OSError) as exc:
        module.fail_json(msg=str(exc))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
