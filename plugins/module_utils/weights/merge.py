# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The merge as a whole: look, plan, check, write, verify, and the way back.

prepare() decides everything from headers and changes nothing; execute() does it. Both are without Ansible.
"""

from __future__ import annotations

import os
import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from ansible_collections.npuops.ktransformers.plugins.module_utils import job
from ansible_collections.npuops.ktransformers.plugins.module_utils.mounts import read_only_mount
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights import checks, engine, halves, manifest, verify
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights import copy as copying
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.errors import Problem, WeightsError, errors_of, problem, shortened
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.files import read_bounded
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.folder import Folder, inspect
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.gguf import GgufSet, read_set
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.model import Model, encode_config, parse_model, read_config, with_overrides
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.plan import Plan, expert_stacks, make_plan

# Bytes that side files, manifest and folders may take beyond the planned files.
_SLACK = 16 * 1024 * 1024


class Options(NamedTuple):
    """What the user wants; paths are absolute. reserve is in bytes."""

    safetensors_path: str
    gguf_path: str
    output_path: str
    safetensors_format: str = "w8a8"
    engine: str = "none"
    transformers_version: str = "4.43.2"
    config_overrides: Optional[Dict[str, Any]] = None
    halves: str = "strict"
    jobs: int = 1
    verify: str = "size"
    reserve: int = 1 << 30
    deq_scale_i64: str = "keep"


class Prepared(NamedTuple):
    """Everything decided. reasons: in words, why the folder is not (yet) the merge; empty when nothing is to be done.

    kept: records of finished files. needed and saved: bytes still to be written, bytes that are shared instead.
    """

    options: Options
    plan: Plan
    model: Model
    problems: List[Problem]
    engine_problems: List[Problem]
    halves: halves.Halves
    kept: Dict[str, manifest.Record]
    records: Dict[str, manifest.Record]
    reasons: List[str]
    share: bool
    block: int
    needed: int
    saved: int

    def errors(self) -> List[Problem]:
        return errors_of(self.problems) + errors_of(self.engine_problems)


class Progress:
    """What execute() tells about itself; the job's progress has the same two methods."""

    def update(self, done: float, total: Optional[float] = None, message: Optional[str] = None) -> None:
        """done and total in bytes."""

    def log(self, line: str) -> None:
        """A line for the log."""


def prepare(options: Options) -> Prepared:
    """Look at the sources and the output, make the plan, check it. Changes nothing.

    Raises WeightsError for what cannot be read at all; everything that can be read and is not right is a problem.
    """
    _check_folders(options)
    config = read_config(options.safetensors_path)
    written = with_overrides(config, options.config_overrides or {})
    model = parse_model(config, os.path.join(options.safetensors_path, "config.json"))
    parse_model(written, "config.json with config_overrides")
    folder = inspect(options.safetensors_path, model.num_hidden_layers)
    gguf = read_set(options.gguf_path)
    block = copying.block_size(copying.nearest_folder(options.output_path))
    sides = side_files(folder, written if options.config_overrides else None)
    plan = make_plan(model.num_hidden_layers, folder, gguf, sides, block, options.deq_scale_i64 == "restore")
    found = check_model(model, folder, gguf, options, bool(config.get("tie_word_embeddings")))
    compared = halves.Halves(0, 0, (), ())
    if not errors_of(found) and options.halves != "off":
        compared = halves.compare(folder, gguf)
        found += halves.check(compared, options.halves)
    asked: List[Problem] = []
    if options.engine == "ktransformers":
        asked = engine.check(_as_weights(plan, written, sides), model, options.transformers_version)
    return _with_disk(options, plan, model, found, asked, compared, block)


def _check_folders(options: Options) -> None:
    for label, path in (("safetensors_path", options.safetensors_path), ("gguf_path", options.gguf_path)):
        if not os.path.exists(path):
            raise WeightsError(f"{label} does not exist. Correct it, or bring the weights there", path)
    entries = os.listdir(options.safetensors_path) if os.access(options.safetensors_path, os.R_OK) and os.path.isdir(options.safetensors_path) else []
    if any(name.endswith(".gguf") for name in entries) and not any(name.endswith(".safetensors") for name in entries):
        raise WeightsError("holds GGUF files and no safetensors file. It looks as if safetensors_path and gguf_path were swapped: "
                           "safetensors_path takes the W8A8 folder, gguf_path the Q4_K_M folder", options.safetensors_path)


def side_files(folder: Folder, config: Optional[Dict[str, Any]]) -> Dict[str, bytes]:
    """Contents of the files that come along; config, where given, is written as config.json."""
    sides = {name: read_bounded(os.path.join(folder.path, name)) for name in folder.side_files}
    if config is not None:
        sides["config.json"] = encode_config(config)
    return sides


def check_model(model: Model, folder: Folder, gguf: GgufSet, options: Options, tied: bool) -> List[Problem]:
    found = checks.check_paths(options.safetensors_path, options.gguf_path, options.output_path)
    found += checks.check_format(folder, options.safetensors_format)
    found += checks.check_rotation(folder)
    found += checks.check_gguf(model, gguf, expert_stacks(gguf, model.num_hidden_layers))
    found += checks.check_folder(model, folder, tied)
    return found


def _as_weights(plan: Plan, config: Dict[str, Any], sides: Dict[str, bytes]) -> engine.Weights:
    tensors = {item.name: engine.Tensor(item.dtype, item.shape, item.ggml_type) for item in plan.tensors()}
    return engine.as_weights(tensors, config, sides)


def _with_disk(options: Options, plan: Plan, model: Model, found: List[Problem], asked: List[Problem],
               compared: halves.Halves, block: int) -> Prepared:
    output = options.output_path
    known = manifest.load(output)
    records = manifest.load_records(output)
    kept, reasons = manifest.compare(output, plan, records)
    if reasons:
        reasons = manifest.changed_sources(known, plan) + reasons
    elif known is None:
        reasons = ["the merge before this one was not finished"]
    elif known.plan != plan.digest or set(known.records) != set(kept):
        reasons = [f"{name} is of an earlier merge" for name in sorted(set(known.records) - set(kept))] or ["the plan is another one"]
    found = found + _foreign(output, plan, records)
    nearest = copying.nearest_folder(output)
    mount = read_only_mount(nearest) if reasons else None
    if mount:
        found.append(problem("output_read_only", f"{output} would be written to {mount}, which is mounted read-only", "a writable file system",
                             f"Type `mount -o remount,rw {mount}` on the node (see `dmesg` first: a damaged one is remounted by the kernel), "
                             "or choose another output_path"))
    elif reasons and not os.access(nearest, os.W_OK | os.X_OK):
        found.append(problem("output_not_writable", f"this user may not write to {nearest}", "a folder that it may write to",
                             "Choose another output_path, or run the task with become"))
    todo = [item for item in plan.files if item.name not in kept]
    first = next((plan.sources[tensor.pieces[0].source].path for item in todo for tensor in item.tensors if tensor.side == "gguf" and tensor.pieces), None)
    share = first is not None and copying.can_share(first, nearest, block)
    saved = sum(copying.shareable_of(item, block) for item in todo) if share else 0
    needed = sum(item.size for item in todo) - saved
    if reasons:
        needed += sum(len(item.data) for item in plan.side_files if item.name not in kept)
        outdated = 0 if share else sum(record.size for name, record in records.items() if name not in kept and os.path.exists(os.path.join(output, name)))
        free = copying.free_bytes(nearest)
        found += checks.check_room(output, needed + _SLACK, options.reserve, None if free is None else free + outdated, saved)
    return Prepared(options, plan, model, found, asked, compared, kept, records, reasons, share, block, needed, saved)


def _foreign(output: str, plan: Plan, records: Dict[str, manifest.Record]) -> List[Problem]:
    """Files in the output folder that are not ours; the engine would read weights among them."""
    if not os.path.isdir(output):
        return []
    foreign = manifest.foreign_files(output, plan, records)
    weights = [name for name in foreign if name.endswith(".safetensors")]
    found: List[Problem] = []
    if weights:
        found.append(problem("foreign_weights", f"{output} holds {len(weights)} safetensors files that this merge did not write: {shortened(weights)}",
                             "nothing but the merge; the engine reads every safetensors file in and below the folder",
                             "Move them away, or choose another output_path"))
    others = [name for name in foreign if not name.endswith(".safetensors")]
    if others:
        found.append(problem("foreign_files", f"{output} holds {len(others)} files that this merge did not write: {shortened(others)}",
                             "nothing but the merge", "Move them away if they do not belong there", "warning"))
    ours = set(records) | {item.name for item in plan.side_files}
    overwritten = [item.name for item in plan.side_files if item.name not in records and os.path.exists(os.path.join(output, item.name))]
    if overwritten and not any(name in records for name in ours):
        found.append(problem("foreign_overwritten", f"{output} holds {shortened(overwritten)} already, and no record says that this merge wrote it",
                             "an empty folder, or one of an earlier merge", "Move them away if they are needed; they are replaced", "warning"))
    return found


def summary(prepared: Prepared) -> Dict[str, Any]:
    """The plan in numbers."""
    plan = prepared.plan
    from_side = {"gguf": 0, "safetensors": 0}
    count = 0
    for tensor in plan.tensors():
        count += 1
        from_side[tensor.side] += tensor.size
    return {
        "digest": plan.digest, "files": len(plan.files) + len(plan.side_files), "tensors": count, "bytes": plan.size(),
        "bytes_from_gguf": from_side["gguf"], "bytes_from_safetensors": from_side["safetensors"],
        "disk_needed_mb": -(-prepared.needed // 1000000), "bytes_shareable": prepared.saved, "files_kept": len(prepared.kept),
        "left_out": dict(plan.left_out), "side_files": [item.name for item in plan.side_files],
    }


def listing(prepared: Prepared) -> List[str]:
    """The plan as lines, one a file."""
    lines = [f"{item.name}  {item.size} bytes, {len(item.tensors)} tensors" for item in prepared.plan.files]
    return lines + [f"{item.name}  {len(item.data)} bytes" for item in prepared.plan.side_files]


def execute(prepared: Prepared, progress: Any) -> Dict[str, Any]:
    """Write what is missing, verify as asked, leave a manifest. Returns copy_seconds, bytes_shared, bytes_copied, verified.

    Raises WeightsError; what was finished until then is kept for the next run.
    """
    output = prepared.options.output_path
    started = time.monotonic()
    try:
        os.makedirs(manifest.work_folder(output), exist_ok=True)
    except OSError as exc:
        raise copying.write_error(exc, output, 0)
    lock = manifest.lock(output)
    try:
        return _execute(prepared, progress, started)
    finally:
        if lock is not None:
            os.close(lock)


def _execute(prepared: Prepared, progress: Any, started: float) -> Dict[str, Any]:
    options, plan, output = prepared.options, prepared.plan, prepared.options.output_path
    counted = {True: 0, False: 0}
    records = dict(prepared.kept)
    todo = [item for item in plan.files if item.name not in records]
    _clear(output, plan, prepared)
    journal = manifest.Journal(output, records.values())
    total = sum(item.size for item in todo) + sum(len(item.data) for item in plan.side_files if item.name not in records)

    def moved(count: int, shared: bool) -> None:
        counted[shared] += count
        progress.update(counted[True] + counted[False], total, "merging")

    def finished(item: Any) -> None:
        records[item.name] = manifest.record_of(output, item.name, item.digest)
        journal.add(records[item.name])
        progress.log(f"{item.name} finished ({item.size} bytes)")

    try:
        progress.update(0, total or None, "merging")
        copying.copy_files(todo, output, plan, prepared.block, prepared.share, options.jobs, moved, finished)
        for side in plan.side_files:
            if side.name not in records:
                manifest.write_durably(os.path.join(output, side.name), side.data)
                moved(len(side.data), False)
                records[side.name] = manifest.record_of(output, side.name, side.digest, side.digest)
                journal.add(records[side.name])
        journal.flush()
        seconds = time.monotonic() - started
        checked: Dict[str, Any] = {}
        if options.verify != "size":
            bad, checked, sums = verify.verify(plan, output, options.verify, progress)
            if bad:
                for name in bad:
                    os.unlink(os.path.join(output, name))
                raise WeightsError(f"differs from its sources after the merge ({shortened(bad)}). Check disk and memory of this node, and run the merge again: "
                                   "the files that differ were removed", output)
            records = {name: record._replace(sha256=sums.get(name, record.sha256)) for name, record in records.items()}
    finally:
        journal.close()
    stats = {"copy_seconds": round(seconds, 3), "bytes_shared": counted[True], "bytes_copied": counted[False],
             "peak_rss_mb": job.peak_memory(),
             "halves": {"equal": prepared.halves.equal, "compared": prepared.halves.compared}}
    manifest.save(output, plan, records.values(), stats)
    return dict(stats, verified=checked)


def _clear(output: str, plan: Plan, prepared: Prepared) -> None:
    """Take away what an earlier merge of ours left and this one does not keep, and parts of files."""
    names = set(prepared.records) | {item.name for item in plan.files}
    names |= {"." + item.name + manifest.PARTIAL for item in plan.side_files}
    names |= {name for name in os.listdir(output) if manifest.is_partial(name)}
    for name in sorted(names - set(prepared.kept)):
        try:
            os.unlink(os.path.join(output, name))
        except FileNotFoundError:
            pass
        except OSError as exc:
            raise copying.write_error(exc, os.path.join(output, name), 0)


def check_finished(prepared: Prepared, progress: Any) -> Tuple[List[str], Dict[str, Any]]:
    """Verify a finished merge as asked: (names of files that differ from their sources, what was compared). Records new checksums."""
    options = prepared.options
    if options.verify == "size":
        return [], {}
    bad, checked, sums = verify.verify(prepared.plan, options.output_path, options.verify, progress)
    known = manifest.load(options.output_path)
    if sums and known is not None:
        records = [record._replace(sha256=sums.get(name, record.sha256)) for name, record in known.records.items()]
        manifest.save(options.output_path, prepared.plan, records, known.stats)
    return bad, checked


def without(prepared: Prepared, bad: List[str]) -> Prepared:
    """The same, with files that turned out to be damaged to be written again."""
    kept = {name: record for name, record in prepared.kept.items() if name not in bad}
    return prepared._replace(kept=kept, reasons=prepared.reasons + [f"{name} differs from its sources" for name in bad])


def remove(output: str, dry_run: bool, clean_job: Callable[[], None] = lambda: None) -> List[str]:
    """Remove what the manifest (or journal) lists, and our own folder; nothing else. Returns what was (or would be) removed.

    clean_job is called before our folder is emptied: it takes away what the job left in it.
    """
    records = manifest.load_records(output)
    work = manifest.work_folder(output)
    if not records and not os.path.isdir(work):
        return []
    names = sorted(name for name in records if os.path.lexists(os.path.join(output, name)))
    partials = sorted(name for name in os.listdir(output) if manifest.is_partial(name))
    if dry_run:
        return names + partials
    try:
        for name in names + partials:
            os.unlink(os.path.join(output, name))
        clean_job()
        for name in (manifest.MANIFEST, manifest.JOURNAL, "log", "log.previous"):
            if os.path.lexists(os.path.join(work, name)):
                os.unlink(os.path.join(work, name))
        for folder in (work, output):
            if os.path.isdir(folder) and not os.listdir(folder):
                os.rmdir(folder)
    except OSError as exc:
        raise WeightsError(f"cannot be removed: {exc.strerror}", exc.filename or output)
    return names + partials
