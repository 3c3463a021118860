"""This computer as if it were another one: a node that may be rebooted, which the collection refuses on its own computer."""

from __future__ import annotations

from ansible.plugins.connection import local

DOCUMENTATION = """
name: other_computer
short_description: Run tasks here, as on another computer
description:
  - As M(ansible.builtin.local), under another name.
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
    transport = "other_computer"

    def reset(self) -> None:
        """A reboot of the simulated hardware cuts no connection."""
