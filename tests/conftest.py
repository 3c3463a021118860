"""Make the checkout importable as ansible_collections.npuops.ktransformers, wherever it lies."""

from __future__ import annotations

import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent

# The committed link collections/ansible_collections/npuops/ktransformers points back at the checkout.
sys.path.insert(0, str(CHECKOUT / "collections"))
# The simulator is a package of the tests: `from tests.simulator import …`.
sys.path.insert(1, str(CHECKOUT))

# The community package `ansible`, where it is installed, brings a regular package ansible_collections
# that would hide ours: one folder of a namespace more.
import ansible_collections  # noqa: E402

_ours = str(CHECKOUT / "collections" / "ansible_collections")
if _ours not in list(ansible_collections.__path__):
    ansible_collections.__path__ = [_ours, *ansible_collections.__path__]
