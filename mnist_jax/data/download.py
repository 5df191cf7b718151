"""Fetching the four IDX files from public mirrors, with every wait and every size bounded."""

import http.client
import queue
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit

from absl import logging

from mnist_jax.data import idx
from mnist_jax.data.catalog import Content, FileSet

# Timeout of a wait. Three mirrors that do not answer at all cost 12 seconds.
PATIENCE_SECONDS = 4.0
# A very slow mirror would never reach that timeout, so it must also keep up this average.
GRACE_SECONDS = 15.0
MIN_BYTES_PER_SECOND = 4_000

_CHUNK = 64 * 1024
_LONGEST_QUOTE = 120  # Characters.


class DownloadError(Exception):
    """No mirror delivered a file; the message says what each of them did."""


class MirrorError(Exception):
    """One mirror did not deliver a file."""

    def __init__(self, problem: str):
        super().__init__(problem)
        self.problem = problem


def fetch(files: FileSet, names: Iterable[str]) -> Iterator[tuple[str, Content]]:
    """Fetches the named files of a dataset from its mirrors and verifies each.

    A mirror that fails once is not tried again, so that each can cost only one timeout.

    Yields:
        The name and the uncompressed content of each file, verified.

    Raises:
        DownloadError: If no mirror delivered a file.
    """
    missing = list(names)
    reasons = []
    for mirror in files.mirrors:
        while missing:
            url = f"{mirror}/{missing[0]}.gz"
            try:
                content = Content(idx.gunzip(get(url, idx.MAX_BYTES), url), url)
                files.verify(missing[0], content)
            except (MirrorError, idx.DamagedFile) as error:
                reasons.append(f"{urlsplit(mirror).netloc}: {missing[0]}.gz {error.problem}")
                break
            yield missing.pop(0), content
    if missing:
        raise DownloadError("; ".join(reasons) or "no mirror is known")


def get(url: str, most: int) -> bytes:
    """Downloads one file of at most `most` bytes.

    The transfer runs in a thread of its own because name resolution and TLS have no usable
    timeout; a thread that gets stuck is left behind, and the program may end without it.

    Raises:
        MirrorError: If it could not be downloaded.
    """
    news: queue.SimpleQueue[bytes | str] = queue.SimpleQueue()
    stop = threading.Event()
    threading.Thread(target=_transfer, args=(url, news, stop), daemon=True).start()
    started = reported = time.monotonic()
    received = bytearray()
    logging.info("Downloading %s", url)
    try:
        while True:
            try:
                item = news.get(timeout=PATIENCE_SECONDS)
            except queue.Empty:
                raise MirrorError(f"got no answer within {PATIENCE_SECONDS:g} s") from None
            if isinstance(item, str):
                # It may quote what the mirror sent, which could contain control characters.
                raise MirrorError("".join(filter(str.isprintable, item[:_LONGEST_QUOTE])))
            if not item:
                return bytes(received)
            received += item
            if len(received) > most:
                raise MirrorError(f"sent more than {most:,} bytes")
            now = time.monotonic()
            if len(received) < MIN_BYTES_PER_SECOND * (now - started - GRACE_SECONDS):
                raise MirrorError(f"is too slow ({len(received)} bytes in {now - started:.0f} s)")
            if now - reported >= 2:
                logging.info("Downloading %s: %.1f MB", url, len(received) / 1e6)
                reported = now
    finally:
        stop.set()


def _transfer(url: str, news: "queue.SimpleQueue[bytes | str]", stop: threading.Event) -> None:
    """Puts chunks of the body into `news`, then empty bytes; or a description of the error."""
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "mnist_jax"})
        # This timeout only ends a thread that was left behind.
        with urllib.request.urlopen(request, timeout=2 * PATIENCE_SECONDS) as response:
            while not stop.is_set():
                chunk = response.read1(_CHUNK)
                news.put(chunk)
                if not chunk:
                    return
    except urllib.error.HTTPError as error:
        with error:
            news.put(f"got HTTP status {error.code}")
    except urllib.error.URLError as error:
        reason = error.reason
        why = reason.strerror if isinstance(reason, OSError) else reason
        news.put(f"can't be reached ({why or reason})")
    except (OSError, http.client.HTTPException, ValueError) as error:
        news.put(f"broke off ({type(error).__name__}: {error})")
