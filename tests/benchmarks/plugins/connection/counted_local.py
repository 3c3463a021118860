"""This computer as a node, with a line in a file for each remote call: what would cost a round trip over SSH."""

from __future__ import annotations

from ansible.plugins.connection import local
from counting import Counted  # tests/benchmarks is in PYTHONPATH

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


class Connection(Counted, local.Connection):
    transport = "counted_local"
