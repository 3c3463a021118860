#!/usr/bin/env python3
# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Build a CANN toolkit of the media's version that the vendor built again: the same name, other libraries. Each call is another build.

    python tests/simulator/respin.py --root DIR [--arch ARCH] [--system | --privileged]

Arguments as build.py's. The package lies in DIR/node/ then, for somebody who installs it by hand; its path is printed.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from build import arguments, world_of  # noqa: E402
from cann import CANN_8_1_AGAIN, toolkit_package  # noqa: E402


def main(argv: list[str] | None = None) -> int:
    options = arguments(argv)
    options.root = options.root.resolve()
    again = replace(CANN_8_1_AGAIN, timestamp=time.strftime("%Y%m%d_%H%M%S000"))
    name, content = toolkit_package(again, options.arch, world_of(options))
    path = options.root / "node" / name
    path.write_bytes(content)
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
