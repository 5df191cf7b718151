"""Downloads from a local server that misbehaves in the ways servers do."""

import gzip
import resource
import shutil
import ssl
import subprocess
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from data_files import assert_dataset_equals, make_contents, make_file_set, write_idx

from mnist_jax.data import Dataset, catalog, download, idx, load_dataset, loading, resolve_dataset
from mnist_jax.data.catalog import FILES
from mnist_jax.errors import Failure

TINY = make_contents(0)
OTHER = make_contents(1)
PATIENCE = 1.0

Mirrors = Callable[..., None]


class Handler(BaseHTTPRequestHandler):
    """Serves `/BEHAVIOUR/FILE.gz` in the way that BEHAVIOUR names."""

    server: "Server"

    def do_GET(self) -> None:
        _, behaviour, file = self.path.split("/")
        self.server.requests.append(self.path)
        body = gzip.compress(TINY[file.removesuffix(".gz")])
        match behaviour:
            case "good":
                self.answer(body)
            case "uncompressed":
                self.answer(gzip.decompress(body))
            case "labels_only" if "labels" in file:
                self.answer(body)
            case "truncated":
                self.answer(body[:-5])
            case "connection_closed":
                self.answer(body[:-5], length=len(body))
            case "other":
                self.answer(gzip.compress(OTHER[file.removesuffix(".gz")]))
            case "html":
                self.answer(b"<html>Please log in</html>")
            case "bomb":
                self.answer(gzip.compress(bytes(4 * 2**20)))
            case "redirect":
                self.redirect(f"/good/{file}")
            case "redirect_loop":
                self.redirect(self.path)
            case "redirect_to_file":
                self.redirect("file:///etc/hostname")
            case "redirect_to_ftp":
                self.redirect("ftp://127.0.0.1:1/file")
            case "redirect_to_invalid_url":
                self.redirect("http://[::1/file")
            case "length_too_short":
                self.answer(body, length=len(body) - 1)
            case "length_too_long":
                self.answer(body, length=len(body) + 1)
            case "length_huge":
                self.answer(body, length=10**30)
            case "length_negative":
                self.answer(body, length=-5)
            case "length_not_a_number":
                self.answer(body, length="many")
            case "length_of_5000_digits":
                self.answer(body, length="9" * 5000)
            case "chunk_truncated":
                self.answer_in_chunks(b"%x\r\n%b" % (len(body), body[:-1]))
            case "chunk_size_invalid":
                self.answer_in_chunks(b"zz\r\n" + body)
            case "chunk_size_negative":
                self.answer_in_chunks(b"-5\r\n" + body)
            case "not_http":
                self.wfile.write(b"\x1b[31mHello\r\n\0" + b"and so on" * 100 + b"\r\n\r\n")
            case "headers_only":
                self.answer(b"", length=len(body))
                self.server.closing.wait()
            case "trickling_headers":
                self.wfile.write(b"HTTP/1.0 200 OK\r\n")
                while not self.server.closing.wait(PATIENCE / 8):
                    self.wfile.write(b"Name: value\r\n")
            case "endless_headers":
                self.wfile.write(b"HTTP/1.0 200 OK\r\n" + b"Name: value\r\n" * 200)
            case "endless_continue":
                while not self.server.closing.is_set():
                    self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            case status if status.isdigit():
                self.send_error(int(status))
            case "endless":
                self.answer(b"")
                while True:
                    self.wfile.write(bytes(2**16))
            case "stalled":
                self.server.closing.wait()
            case "stalls_later":
                self.answer(body[:100], length=len(body))
                self.server.closing.wait()
            case "trickling":
                self.answer(b"", length=len(body))
                for byte in body:
                    self.wfile.write(bytes([byte]))
                    self.server.closing.wait(PATIENCE / 8)
            case _:
                self.send_error(404)

    def redirect(self, place: str) -> None:
        self.send_response(302)
        self.send_header("Location", place)
        self.end_headers()

    def answer_in_chunks(self, body: bytes) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body)

    def answer(self, body: bytes, length: int | str | None = None) -> None:
        self.send_response(200)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: object) -> None:
        """Keeps the server silent."""


class Server(ThreadingHTTPServer):
    request_queue_size = 64
    requests: list[str]
    closing: threading.Event

    def handle_error(self, *_args: object) -> None:
        """Ignores the connections that the client closes."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        server.requests, server.closing = [], threading.Event()
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.closing.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def mirrors(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mirrors:
    """A function that sets up mirrors of the dataset `tiny` that behave as given."""
    for variable in ("MNIST_JAX_DATA_DIR", "TFDS_DATA_DIR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(download, "PATIENCE_SECONDS", PATIENCE)
    monkeypatch.setattr(download, "GRACE_SECONDS", PATIENCE)
    monkeypatch.setattr(idx, "MAX_BYTES", 2**20)

    def use(*behaviours: str) -> None:
        urls = tuple(
            behaviour
            if "://" in behaviour
            else f"http://127.0.0.1:{server.server_port}/{behaviour}"
            for behaviour in behaviours
        )
        files = make_file_set("tiny", TINY, urls)
        other = make_file_set("other", OTHER)
        for module in (catalog, loading):
            monkeypatch.setattr(module, "FILE_SETS", {"tiny": files, "other": other})

    return use


def cached(tmp_path: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (tmp_path / "cache/mnist_jax/tiny").iterdir()}


# The content counts, not its headers.
GOOD = [
    *("good", "uncompressed", "redirect", "length_too_long", "length_huge", "length_negative"),
    *("length_not_a_number", "length_of_5000_digits"),
]


@pytest.mark.parametrize("behaviour", GOOD)
def test_download_is_verified_and_kept(
    mirrors: Mirrors, server: Server, tmp_path: Path, behaviour: str
) -> None:
    mirrors(behaviour)
    assert_dataset_equals(load_dataset("tiny"), TINY)
    assert cached(tmp_path) == TINY
    server.requests.clear()
    assert_dataset_equals(load_dataset("tiny"), TINY)
    assert not server.requests


PROBLEMS = {
    "truncated": "is truncated gzip",
    "connection_closed": "is truncated gzip",
    "other": "is a file of other, not of tiny",
    "html": "is damaged",
    "bomb": "holds more than 1 MiB",
    "absent": "got HTTP status 404",
    "500": "got HTTP status 500",
    "503": "got HTTP status 503",
    "redirect_loop": "got HTTP status 302",
    "redirect_to_file": "got HTTP status 302",
    "redirect_to_ftp": "can't be reached (Connection refused)",
    "redirect_to_invalid_url": "broke off (ValueError: Invalid IPv6 URL)",
    "length_too_short": "is truncated gzip",
    "chunk_truncated": "broke off (IncompleteRead",
    "chunk_size_invalid": "broke off (IncompleteRead",
    "chunk_size_negative": "broke off (IncompleteRead",
    "not_http": "broke off (BadStatusLine: [31mHello)",
    "headers_only": "got no answer within 1 s",
    "trickling_headers": "got no answer within 1 s",
    "endless_headers": "broke off (HTTPException: got more than 100 headers)",
    "endless_continue": "got no answer within 1 s",
    "endless": "sent more than 1,048,576 bytes",
    "stalled": "got no answer within 1 s",
    "stalls_later": "got no answer within 1 s",
    "trickling": "is too slow",
    "http://127.0.0.1:1": "can't be reached (Connection refused)",
    "nonsense://somewhere": "can't be reached (unknown url type: nonsense)",
}


@pytest.mark.parametrize("behaviour", PROBLEMS)
def test_bad_mirror_is_named_and_the_next_one_used(
    mirrors: Mirrors, tmp_path: Path, behaviour: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirrors(behaviour, "good")
    assert_dataset_equals(load_dataset("tiny"), TINY)
    assert cached(tmp_path) == TINY

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    mirrors(behaviour)
    with pytest.raises(loading.DatasetNotFound) as caught:
        load_dataset("tiny")
    assert f": train-images-idx3-ubyte.gz {PROBLEMS[behaviour]}" in str(caught.value)
    assert "tiny" in str(caught.value).splitlines()[0]
    assert not (tmp_path / "empty").exists()


def test_bad_mirror_gets_one_request_only(mirrors: Mirrors, server: Server) -> None:
    mirrors("absent", "good")
    load_dataset("tiny")
    assert [path for path in server.requests if "absent" in path] == [
        "/absent/train-images-idx3-ubyte.gz"
    ]


def test_files_of_an_incomplete_mirror_are_kept(
    mirrors: Mirrors, server: Server, tmp_path: Path
) -> None:
    images, labels, *_ = FILES
    write_idx(tmp_path / "cache/mnist_jax/tiny", {images: TINY[images]}, compressed=False)
    mirrors("labels_only")
    with pytest.raises(loading.DatasetNotFound, match=r"t10k-images.* got HTTP status"):
        load_dataset("tiny")
    assert cached(tmp_path) == {images: TINY[images], labels: TINY[labels]}
    server.requests.clear()
    mirrors("good")
    assert_dataset_equals(load_dataset("tiny"), TINY)
    assert len(server.requests) == 2


def test_damaged_file_in_the_cache_is_named_rather_than_replaced(
    mirrors: Mirrors, tmp_path: Path
) -> None:
    mirrors("good")
    load_dataset("tiny")
    path = tmp_path / "cache/mnist_jax/tiny/train-labels-idx1-ubyte"
    path.write_bytes(TINY[path.name][:-1] + b"\0")
    with pytest.raises(Failure, match=f"{path} is damaged"):
        resolve_dataset("tiny")


def test_unwritable_cache_does_not_lose_the_download(mirrors: Mirrors, tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    mirrors("good")
    assert_dataset_equals(load_dataset("tiny"), TINY)


def test_files_that_fit_into_a_full_cache_are_kept(
    mirrors: Mirrors, server: Server, tmp_path: Path
) -> None:
    mirrors("good")
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, unlimited[1]))
    try:
        assert_dataset_equals(load_dataset("tiny"), TINY)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert cached(tmp_path) == {file: TINY[file] for file in FILES if "labels" in file}
    server.requests.clear()
    assert_dataset_equals(load_dataset("tiny"), TINY)
    assert len(server.requests) == 2


def test_decompression_bomb_takes_no_more_memory_than_a_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(idx, "MAX_BYTES", 2**20)
    bomb = gzip.compress(bytes(2**26), 1)
    tracemalloc.start()
    try:
        with pytest.raises(idx.DamagedFile, match="holds more than 1 MiB"):
            idx.gunzip(bomb, "bomb")
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    finally:
        tracemalloc.stop()


def test_auto_downloads_before_it_falls_back(mirrors: Mirrors) -> None:
    mirrors("good")
    assert_dataset_equals(resolve_dataset("tiny"), TINY)


def test_simultaneous_downloads_do_not_disturb_each_other(mirrors: Mirrors, tmp_path: Path) -> None:
    mirrors("good")
    datasets: list[Dataset] = []
    threads = [
        threading.Thread(target=lambda: datasets.append(load_dataset("tiny"))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(datasets) == 8
    for dataset in datasets:
        assert_dataset_equals(dataset, TINY)
    assert cached(tmp_path) == TINY


def test_server_with_an_untrusted_certificate_is_refused(
    mirrors: Mirrors, server: Server, tmp_path: Path
) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the openssl program to make a certificate")
    command = f"{openssl} req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -keyout k -out c"
    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "c", tmp_path / "k")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    mirrors(f"https://127.0.0.1:{server.server_port}/good")
    with pytest.raises(loading.DatasetNotFound, match=r"can't be reached .*(?i:certificate)"):
        load_dataset("tiny")


def test_all_published_mirrors_time_out_within_fifteen_seconds() -> None:
    for files in (catalog.MNIST, catalog.FASHION_MNIST):
        assert len(files.mirrors) >= 2
        assert len(files.mirrors) * download.PATIENCE_SECONDS < 15
        assert all(mirror.startswith("https://") for mirror in files.mirrors)
