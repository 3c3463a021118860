"""SSH, with a line in a file for each remote call."""

from __future__ import annotations

from ansible.plugins.connection import ssh
from counting import Counted  # tests/benchmarks is in PYTHONPATH

# The options are those of ssh: Ansible reads them from here when the plugin is loaded.
DOCUMENTATION = ssh.DOCUMENTATION


class Connection(Counted, ssh.Connection):
    transport = "ssh"

    def _address(self) -> str:
        return self.get_option("host")
