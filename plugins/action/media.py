# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask the node which files of the media it lacks, then send those."""

from __future__ import annotations

import os
import typing as t

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.npuops.ktransformers.plugins.module_utils.media import MANIFEST, MediaError
from ansible_collections.npuops.ktransformers.plugins.modules.media import ARGUMENT_SPEC
from ansible_collections.npuops.ktransformers.plugins.plugin_utils import manifest as manifests
from ansible_collections.npuops.ktransformers.plugins.plugin_utils import media_source

Args = t.Dict[str, t.Any]
# A path on the node is not expanded here.
SPEC = dict(ARGUMENT_SPEC, dest={"type": "str"})


class ActionModule(ActionBase):
    TRANSFERS_FILES = False  # a temporary directory is made where it is needed, not for every question
    _VALID_ARGS = frozenset(ARGUMENT_SPEC) - {"step", "entries"}

    def run(self, tmp: t.Optional[str] = None, task_vars: t.Optional[t.Dict[str, t.Any]] = None) -> t.Dict[str, t.Any]:
        result = super().run(tmp, task_vars)
        args = self.validate_argument_spec(argument_spec=SPEC)[1]
        result.update(changed=False, files=[], problems=[])
        try:
            if args["state"] == "indexed":
                self._index(args, result)
            elif args["names"]:
                self._files(args, result, task_vars or {})
        except MediaError as exc:
            result.update(failed=True, msg=str(exc))
        return result

    def _source(self, args: Args) -> media_source.Source:
        folders = [os.getcwd(), self._loader.get_basedir()]
        return media_source.find(args["source"], folders, args["validate_certs"])

    def _files(self, args: Args, result: t.Dict[str, t.Any], task_vars: t.Dict[str, t.Any]) -> None:
        reports = args["state"] == "described" and args["missing"] == "report"
        try:
            source = self._source(args)
            manifest = source.manifest()
        except MediaError as exc:
            if not reports:
                raise
            result["problems"] = [media_source.problem("media", str(exc), "a directory or mirror with the media", "set media_source")]
            return
        entries, unknown = manifests.select(manifest, args["names"])
        problems = [media_source.not_listed(manifest, name) for name in unknown]
        if unknown and not reports:
            raise MediaError(media_source.words(problems))
        absent = source.problems(entries)
        if args["state"] == "described":
            result.update(files=[_described(entry, args["dest"]) for entry in entries], problems=problems + list(absent.values()))
            return
        if not args["dest"]:
            raise MediaError("dest is missing: say in which directory on the node the files shall be")
        answer = self._bring(source, entries, args, task_vars, absent)
        files = [dict(_described(entry, None), **answer[entry["path"]]) for entry in entries]
        result.update(files=files, changed=any(file["changed"] for file in files))
        changes = "".join(f"{file['path']}: {file['reason']}\n" for file in files if file["changed"])
        if changes and self._task.diff:
            result["diff"] = {"before_header": "media", "after_header": "media", "before": "", "after": changes}

    def _bring(
        self, source: media_source.Source, entries: t.List[manifests.Entry], args: Args, task_vars: t.Dict[str, t.Any], absent: t.Dict[str, t.Any]
    ) -> t.Dict[str, t.Any]:
        """Ask, and send what is needed; what the node said of each file."""
        common = {key: args[key] for key in ("dest", "mode", "validate_certs")}
        files = [manifests.file_of(entry)._asdict() for entry in entries]
        if not source.is_directory:
            answer = self._module(dict(common, source=source.full, step="download", entries=files), task_vars)["entries"]
        else:
            answer = self._module(dict(common, step="look", entries=files), task_vars)["entries"]
            needed = [file for file in files if answer[file["name"]]["send"]]
            in_the_way = [absent[file["name"]] for file in needed if file["name"] in absent]
            if in_the_way:
                raise MediaError(media_source.words(in_the_way))
            if needed and not self._task.check_mode:
                for file in needed:
                    file["arrived"] = self._send(source.path(file["name"]), answer[file["name"]]["partial"])
                self._module(dict(common, step="place", entries=needed), task_vars)
        return {
            name: {"path": one["path"], "reason": one["reason"], "changed": one["reason"] is not None} for name, one in answer.items()
        }

    def _module(self, args: Args, task_vars: t.Dict[str, t.Any]) -> t.Dict[str, t.Any]:
        answer = self._execute_module(module_name="npuops.ktransformers.media", module_args=args, task_vars=task_vars)
        if answer.get("failed"):
            raise MediaError(answer.get("msg") or "the module media failed without a word")
        return answer

    def _send(self, local: str, partial: str) -> str:
        """Copy a file to the node; where it arrived. Beside its place where the connection's user may write there."""
        if self._becomes_another():
            tmpdir = self._connection._shell.tmpdir or self._make_tmp_path()
            target = self._connection._shell.join_path(tmpdir, os.path.basename(partial).lstrip("."))
            self._connection.put_file(local, target)
            self._fixup_perms2((tmpdir, target), execute=False)
            return target
        try:
            self._connection.put_file(local, partial)
        except AnsibleError as exc:
            raise MediaError(f"{local} can't be sent to {partial}: {exc}") from exc
        return partial

    def _becomes_another(self) -> bool:
        if not self._connection.become:
            return False
        return (self.get_become_option("become_user") or "root") != self._get_remote_user()

    def _index(self, args: Args, result: t.Dict[str, t.Any]) -> None:
        source = self._source(args)
        if not source.is_directory:
            raise MediaError(f"{source.base} is a mirror: index its directory on the computer that has it")
        path = os.path.join(source.base, MANIFEST)
        try:
            old = None
            if os.path.exists(path):
                with open(path, encoding="utf-8") as file:
                    old = file.read()
            found = manifests.index(source.base, old)
            result.update(changed=found.text != old, manifest=path, added=found.added, updated=found.updated, removed=found.removed)
            if self._task.diff and found.text != old:
                result["diff"] = {"before_header": path, "after_header": path, "before": old or "", "after": found.text}
            if found.text != old and not self._task.check_mode:
                with open(path + ".new", "w", encoding="utf-8") as file:
                    file.write(found.text)
                os.replace(path + ".new", path)
        except OSError as exc:
            raise MediaError(f"the media in {source.base} can't be indexed: {exc}") from exc


def _described(entry: manifests.Entry, dest: t.Optional[str]) -> t.Dict[str, t.Any]:
    answer = {key: entry.get(key) for key in ("sha256", "size", "version", "arch", "origin", "commit", "lacks")}
    path = os.path.join(dest, *entry["path"].split("/")) if dest else None
    return dict(answer, name=entry["path"], path=path, changed=False, reason=None)
