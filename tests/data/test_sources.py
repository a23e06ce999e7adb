# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Fetching files: from a server of our own."""

from __future__ import annotations

import hashlib
import http.server
import threading

import pytest

from pyro_spvae.data.sources import Source, SourceFile, fetch

CONTENT = bytes(range(256)) * 1000


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/absent":
            self.send_error(404)
            return
        if self.path == "/garbage":
            self.wfile.write(b"no HTTP at all\r\n")
            return
        self.send_response(200)
        if self.path == "/chunks":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"ffff\r\nfewer than that")
            return
        if self.path != "/unknown-length":
            self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[:1000] if self.path == "/cut" else CONTENT)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def address():
    server = http.server.HTTPServer(("localhost", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://localhost:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("page", ["whole", "unknown-length"])
@pytest.mark.parametrize("digest", [None, hashlib.sha256(CONTENT).hexdigest()])
def test_a_file_is_fetched_where_it_belongs(tmp_path, address, page, digest):
    source = Source("set", (SourceFile("file.bin", f"{address}/{page}", digest),))
    (path,) = source.locate(tmp_path / "data", download=True)
    assert path == tmp_path / "data" / "set" / "file.bin" and path.read_bytes() == CONTENT
    assert [p.name for p in path.parent.iterdir()] == ["file.bin"]
    path.write_bytes(b"mine")
    assert source.locate(tmp_path / "data", download=True)[0].read_bytes() == b"mine", "what is there is not fetched"


@pytest.mark.parametrize(
    ("page", "digest", "reason"),
    [
        ("absent", None, "Not Found"),
        ("cut", None, "the connection ended after 1,000 of 256,000 bytes"),
        ("chunks", None, "."),
        ("garbage", None, "."),
        ("whole", "0" * 64, "its digest is .* was expected"),
    ],
)
def test_a_failure_says_what_to_put_where_and_leaves_nothing(tmp_path, address, page, digest, reason):
    file = SourceFile("file.bin", f"{address}/{page}", digest)
    path = tmp_path / "file.bin"
    with pytest.raises(
        ValueError, match=rf"^file.bin could not be downloaded from {address}/{page} \(.*{reason}"
    ) as caught:
        fetch(file, path)
    assert str(caught.value).endswith(f"put it to {path} yourself.") and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_an_address_that_nobody_answers(tmp_path):
    with pytest.raises(ValueError, match="^file.bin could not be downloaded"):
        fetch(SourceFile("file.bin", "http://localhost:9/x"), tmp_path / "file.bin")


@pytest.mark.parametrize("page", ["http://[/x", "nonsense", "http://localhost:0/a b", "ftp2://localhost/x"])
def test_addresses_that_are_none(tmp_path, page):
    with pytest.raises(ValueError, match="^file.bin could not be downloaded") as caught:
        fetch(SourceFile("file.bin", page), tmp_path / "file.bin")
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_to(tmp_path, address):
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(ValueError, match="^file.bin could not be downloaded .* put it to .*file.bin yourself"):
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
    with pytest.raises(ValueError, match="^set needs the file file.bin, and it is not there; put it to .*file.bin"):
        source.locate(tmp_path, download=False)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file.bin").write_bytes(b"mine")
    assert source.locate(tmp_path, download=False) == [tmp_path / "file.bin"]
