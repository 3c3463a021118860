#!/usr/bin/env python3
# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A simulated internet that nobody should ask: who calls 127.0.0.1:8099 leaves a line in /var/log/decoys, and gets nothing.

Runs on a node whose network is cut, with the node's own Python.
"""

from __future__ import annotations

import http.server


class Handler(http.server.BaseHTTPRequestHandler):
    def handle_one_request(self) -> None:
        with open("/var/log/decoys", "ab") as log:
            log.write(self.rfile.readline() or b"(nothing was asked)\n")
        self.close_connection = True


if __name__ == "__main__":
    http.server.ThreadingHTTPServer(("127.0.0.1", 8099), Handler).serve_forever()
