"""Make the checkout importable as ansible_collections.npuops.ktransformers, wherever it lies."""

from __future__ import annotations

import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent

# The committed link collections/ansible_collections/npuops/ktransformers points back at the checkout.
sys.path.insert(0, str(CHECKOUT / "collections"))
# The simulator is a package of the tests: `from tests.simulator import …`.
sys.path.insert(1, str(CHECKOUT))
