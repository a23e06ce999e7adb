# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Fetching files: from a server of our own."""

from __future__ import annotations

import hashlib
import http.server
import socket
import threading

import pytest

from pyro_spvae.data import sources
from pyro_spvae.data.sources import Source, SourceFile, fetch
from tests.data.cases import refused

CONTENT = bytes(range(256)) * 1000


class Handler(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        if self.path == "/not-announced":
            self.send_error(405)
        else:
            self.start()

    def do_GET(self):
        if not self.start():
            return
        if self.path == "/chunks":
            self.wfile.write(b"ffff\r\nfewer than that")
        else:
            self.wfile.write(CONTENT[:1000] if self.path in ("/cut", "/stalled") else CONTENT)
        if self.path == "/stalled":
            self.server.given_up.wait(60)

    def start(self):
        if self.path == "/absent":
            self.send_error(404)
        elif self.path == "/garbage":
            self.wfile.write(b"no HTTP at all\r\n")
        else:
            self.send_response(200)
            length = ("Transfer-Encoding", "chunked") if self.path == "/chunks" else ("Content-Length", len(CONTENT))
            if self.path != "/unknown-length":
                self.send_header(*map(str, length))
            self.end_headers()
            return True

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def server():
    server = http.server.ThreadingHTTPServer(("localhost", 0), Handler)
    server.given_up = threading.Event()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.given_up.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def address(server):
    return f"http://localhost:{server.server_port}"


@pytest.mark.parametrize("page", ["whole", "unknown-length", "not-announced"])
@pytest.mark.parametrize("digest", [None, f"sha256:{hashlib.sha256(CONTENT).hexdigest()}", "md5:0"])
def test_a_file_is_fetched_where_it_belongs(tmp_path, address, page, digest):
    source = Source("set", (SourceFile("file.bin", f"{address}/{page}", digest),))
    (path,) = source.locate(tmp_path / "data", download=True)
    assert path == tmp_path / "data" / "set" / "file.bin" and path.read_bytes() == CONTENT
    assert [p.name for p in path.parent.iterdir()] == ["file.bin"]
    path.write_bytes(b"mine")
    assert source.locate(tmp_path / "data", download=True)[0].read_bytes() == b"mine", "what is there is not fetched"
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize(
    ("page", "digest", "reason"),
    [
        ("{}/absent", None, "Not Found"),
        ("{}/cut", None, "the connection ended after 1,000 of 256,000 bytes"),
        ("{}/chunks", None, "."),
        ("{}/garbage", None, "."),
        ("{}/stalled", None, "timed out"),
        ("{}/whole", f"sha256:{'0' * 64}", "invalid hash value"),
        ("http://localhost:9/x", None, "refused"),
        *((page, None, ".") for page in ("http://[/x", "nonsense", "http://localhost:0/a b", "ftp2://localhost/x")),
    ],
)
def test_a_failure_says_what_to_put_where_and_leaves_nothing(tmp_path, address, monkeypatch, page, digest, reason):
    monkeypatch.setattr(sources, "_TIMEOUT", 1.0 if "stalled" in page else 60.0)
    file, path = SourceFile("file.bin", page.format(address), digest), tmp_path / "file.bin"
    with refused(
        r"^file.bin could not be downloaded from .* \(.*" + reason, file.address, f"put it to {path} yourself."
    ):
        fetch(file, path)
    assert not list(tmp_path.iterdir()) and socket.getdefaulttimeout() is None


def test_a_place_that_cannot_be_written_to(tmp_path, address):
    (tmp_path / "file").write_bytes(b"mine")
    with refused("^file.bin could not be downloaded .* put it to .*file.bin yourself"):
        fetch(SourceFile("file.bin", f"{address}/whole"), tmp_path / "file" / "set" / "file.bin")
    assert (tmp_path / "file").read_bytes() == b"mine"


def test_a_file_out_of_an_archive_is_as_good(tmp_path):
    source = Source("set", (SourceFile("file.bin.tar.gz", "http://localhost:9/x", packed="file.bin"),))
    (tmp_path / "file.bin.tar.gz").write_bytes(b"packed")
    assert source.locate(tmp_path, download=True) == [tmp_path / "file.bin.tar.gz"]
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "file.bin").write_bytes(b"unpacked")
    assert source.locate(tmp_path, download=True) == [tmp_path / "set" / "file.bin"]


def test_nothing_is_fetched_unasked(tmp_path, address):
    source = Source("set", (SourceFile("file.bin", f"{address}/whole"),))
    with refused("^set needs the file file.bin, and it is not there; put it to .*file.bin"):
        source.locate(tmp_path, download=False)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file.bin").write_bytes(b"mine")
    assert source.locate(tmp_path, download=False) == [tmp_path / "file.bin"]
