"""Downloads from a server on loopback that misbehaves in the ways servers do."""

import gzip
import shutil
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from data_files import make_contents, make_file_set, write_idx

from mnist_jax.data import Dataset, catalog, download, idx, load_dataset, loading, resolve_dataset
from mnist_jax.data.catalog import FILES
from mnist_jax.errors import Failure

TINY = make_contents(0)
OTHER = make_contents(1)
PATIENCE = 1.0


Mirrors = Callable[..., None]


class Handler(BaseHTTPRequestHandler):
    """Serves `/BEHAVIOUR/FILE.gz`."""

    server: "Server"

    def do_GET(self) -> None:
        _, behaviour, file = self.path.split("/")
        self.server.requests.append(self.path)
        body = gzip.compress(TINY[file.removesuffix(".gz")])
        match behaviour:
            case "good":
                self.answer(body)
            case "plain":
                self.answer(gzip.decompress(body))
            case "labels_only" if "labels" in file:
                self.answer(body)
            case "cut":
                self.answer(body[:-5])
            case "broken":
                self.answer(body[:-5], length=len(body))
            case "other":
                self.answer(gzip.compress(OTHER[file.removesuffix(".gz")]))
            case "page":
                self.answer(b"<html>Please log in</html>")
            case "bomb":
                self.answer(gzip.compress(bytes(4 * 2**20)))
            case "moved":
                self.send_response(302)
                self.send_header("Location", f"/good/{file}")
                self.end_headers()
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

    def answer(self, body: bytes, length: int | None = None) -> None:
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
        """The client hangs up on whoever misbehaves."""


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
    """Makes the dataset `tiny`, on mirrors that behave as given, and a home without it."""
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


def assert_is_tiny(dataset: Dataset) -> None:
    assert idx.encode_images(dataset.train.images) == TINY["train-images-idx3-ubyte"]
    assert idx.encode_labels(dataset.test.labels) == TINY["t10k-labels-idx1-ubyte"]


def cached(tmp_path: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (tmp_path / "cache/mnist_jax/tiny").iterdir()}


@pytest.mark.parametrize("behaviour", ["good", "plain", "moved"])
def test_download_is_verified_and_kept(
    mirrors: Mirrors, server: Server, tmp_path: Path, behaviour: str
) -> None:
    mirrors(behaviour)
    assert_is_tiny(load_dataset("tiny"))
    assert cached(tmp_path) == TINY
    server.requests.clear()
    assert_is_tiny(load_dataset("tiny"))
    assert not server.requests


PROBLEMS = {
    "cut": "is truncated gzip",
    "broken": "is truncated gzip",
    "other": "is a file of other, not of tiny",
    "page": "is damaged",
    "bomb": "holds more than 1 MiB",
    "absent": "got HTTP status 404",
    "endless": "went on after 1 MiB",
    "stalled": "got no answer within 1 s",
    "stalls_later": "got no answer within 1 s",
    "trickling": "came too slowly",
    "http://127.0.0.1:1": "can't be reached (Connection refused)",
    "nonsense://somewhere": "can't be reached (unknown url type: nonsense)",
}


@pytest.mark.parametrize("behaviour", PROBLEMS)
def test_bad_mirror_is_named_and_the_next_one_used(
    mirrors: Mirrors, tmp_path: Path, behaviour: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirrors(behaviour, "good")
    assert_is_tiny(load_dataset("tiny"))
    assert cached(tmp_path) == TINY

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    mirrors(behaviour)
    with pytest.raises(loading.DatasetNotFound) as caught:
        load_dataset("tiny")
    assert f": train-images-idx3-ubyte.gz {PROBLEMS[behaviour]}" in str(caught.value)
    assert "tiny" in str(caught.value).splitlines()[0]
    assert not (tmp_path / "empty").exists()


def test_bad_mirror_is_asked_once_only(mirrors: Mirrors, server: Server) -> None:
    mirrors("absent", "good")
    load_dataset("tiny")
    assert [path for path in server.requests if "absent" in path] == [
        "/absent/train-images-idx3-ubyte.gz"
    ]


def test_what_one_mirror_delivered_is_kept(
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
    assert_is_tiny(load_dataset("tiny"))
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
    assert_is_tiny(load_dataset("tiny"))


def test_auto_downloads_before_it_falls_back(mirrors: Mirrors) -> None:
    mirrors("good")
    assert_is_tiny(resolve_dataset("tiny"))


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
        assert_is_tiny(dataset)
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


def test_published_mirrors_can_all_be_given_up_in_fifteen_seconds() -> None:
    for files in (catalog.MNIST, catalog.FASHION_MNIST):
        assert len(files.mirrors) >= 2
        assert len(files.mirrors) * download.PATIENCE_SECONDS < 15
        assert all(mirror.startswith("https://") for mirror in files.mirrors)
