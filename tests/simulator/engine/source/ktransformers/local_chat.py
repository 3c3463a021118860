# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Simulated: `torchrun -m ktransformers.local_chat --model_path …`."""

import sys
from pathlib import Path

from ktransformers.simulated import chat, startup

PACKAGE = Path(__file__).resolve().parent

if __name__ == "__main__":
    startup.announce("local_chat")

torch_npu = startup.import_engine(PACKAGE, guarded=False)

if __name__ == "__main__":
    chat.run(PACKAGE, torch_npu, sys.argv[1:])
