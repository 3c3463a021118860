# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Simulated: `torchrun -m ktransformers.server.main --model_path …`, or `python -m ktransformers.server.main`."""

import sys
from pathlib import Path

from ktransformers.simulated import server, startup

PACKAGE = Path(__file__).resolve().parent.parent

if __name__ == "__main__":
    startup.announce("server")

torch_npu = startup.import_engine(PACKAGE, guarded=True)


def main():
    """The console script `ktransformers`: it takes the CUDA path, and no CUDA is built in."""
    startup.announce("server by its console script")
    raise AssertionError("Torch not compiled with CUDA enabled")


if __name__ == "__main__":
    server.run(PACKAGE, torch_npu, sys.argv[1:])
