"""This computer as a node, with a line in a file for each remote call: what would cost a round trip over SSH."""

from __future__ import annotations

import os
import time
import typing as t

from ansible.plugins.connection import local

DOCUMENTATION = """
name: counted_local
short_description: Run tasks here, and count the calls
description:
  - As M(ansible.builtin.local); each command and each file transfer adds a line to the file that E(NPUOPS_CALLS) names.
options:
  become_success_timeout:
    type: int
    default: 10
    description: Seconds to wait for become.
  become_strip_preamble:
    type: bool
    default: true
    description: Whether what become prints is stripped.
extends_documentation_fragment:
  - connection_pipelining
"""


class Connection(local.Connection):
    transport = "counted_local"

    def _count(self, what: str) -> None:
        with open(os.environ["NPUOPS_CALLS"], "a", encoding="utf-8") as file:  # short lines, appended: whole in any order
            file.write(f"{time.time():.6f}\t{self._play_context.remote_addr}\t{what}\n")

    def exec_command(self, *args: t.Any, **kwargs: t.Any) -> t.Any:
        self._count("command")
        return super().exec_command(*args, **kwargs)

    def put_file(self, *args: t.Any, **kwargs: t.Any) -> None:
        self._count("file sent")
        super().put_file(*args, **kwargs)

    def fetch_file(self, *args: t.Any, **kwargs: t.Any) -> None:
        self._count("file fetched")
        super().fetch_file(*args, **kwargs)
