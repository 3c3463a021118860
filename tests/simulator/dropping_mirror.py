#!/usr/bin/env python3
# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A simulated mirror of the media that drops its connections in the middle of a file.

    python tests/simulator/dropping_mirror.py --directory MEDIA --port-file FILE [--log FILE] [--above BYTES] [--pieces N]

Each answer carries a part of 1/N of the file at most and ends without the rest, as a connection that is lost does; it announces all the rest, and
answers requests for a range (RFC 9110, 14). Small files come whole; the manifest, which is never asked for in parts, is cut the first time.
A line of the log is a request: path, first byte, bytes announced and sent.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Handler(BaseHTTPRequestHandler):
    directory: Path
    above = 0
    pieces = 3
    cut_manifest = threading.Event()

    def do_GET(self) -> None:
        path = (self.directory / unquote(urlsplit(self.path).path).lstrip("/")).resolve()
        if not path.is_relative_to(self.directory) or not path.is_file():
            self.send_error(404)
            return
        content = path.read_bytes()
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        start = int(match.group(1)) if match else 0
        if start >= len(content) > 0:
            self.send_error(416)
            return
        rest = content[start:]
        sent = rest if len(content) <= self.above else rest[: -(-len(content) // self.pieces)]
        if path.name == "manifest.yml":
            sent = rest if self.cut_manifest.is_set() else rest[: len(rest) // 2]
            self.cut_manifest.set()
        self.send_response(206 if match else 200)
        self.send_header("Content-Length", str(len(rest)))
        if match:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        self.wfile.write(sent)
        self.close_connection = True
        print(f"{path.relative_to(self.directory)} from={start} announced={len(rest)} sent={len(sent)}", flush=True)

    def log_message(self, format: str, *args: object) -> None:
        """Its own line above says more."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Serve simulated media over connections that drop.")
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--port-file", type=Path, required=True, help="gets the port when the server answers")
    parser.add_argument("--log", type=Path, help="in place of stdout")
    parser.add_argument("--above", type=int, default=8192, help="files up to this many bytes come whole")
    parser.add_argument("--pieces", type=int, default=3, help="connections that a larger file takes")
    options = parser.parse_args()
    Handler.directory, Handler.above, Handler.pieces = options.directory.resolve(), options.above, options.pieces
    if options.log:
        os.dup2(os.open(options.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), 1)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        options.port_file.with_suffix(".new").write_text(f"{server.server_address[1]}\n")
        options.port_file.with_suffix(".new").rename(options.port_file)
        server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
