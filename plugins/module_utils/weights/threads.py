# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The same work on many things, by several threads: what waits for a disk or hashes does not hold Python's lock."""

from __future__ import annotations

import threading
from typing import Callable, List, Optional, Sequence, TypeVar

T = TypeVar("T")


def in_threads(items: Sequence[T], work: Callable[[T, Optional[T], Callable[[], bool]], None], count: int) -> None:
    """Call work(item, following, given_up) for every item, in order, with up to `count` threads; this one is one of them.

    following: the item that comes next, None for the last one.
    given_up(): whether another item has failed, so that long work may end early.
    The first error ends the others, and is raised when the last thread has ended.
    """
    queue = list(reversed(items))
    lock = threading.Lock()
    failures: List[BaseException] = []

    def given_up() -> bool:
        return bool(failures)

    def run() -> None:
        while True:
            with lock:
                if failures or not queue:
                    return
                item = queue.pop()
                following = queue[-1] if queue else None
            try:
                work(item, following, given_up)
            except BaseException as exc:  # pylint: disable=broad-except
                failures.append(exc)
                return

    threads: List[threading.Thread] = []
    try:
        for _index in range(min(count, len(items)) - 1):
            thread = threading.Thread(target=run, daemon=True)
            thread.start()
            threads.append(thread)
        run()
    finally:
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]
