"""How do pinned files get from the internet into a cache, whole or not at all?  Download, check, unpack, rename.

Knows nothing of Kubernetes.  A failure of whatever sort leaves the cache as it was.
"""

import contextlib
import hashlib
import http.client
import shutil
import tarfile
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

CONNECT_SECONDS = 5.0
TOTAL_SECONDS = 600.0
CHUNK = 1 << 20  # bytes


class FetchError(Exception):
    """Nothing was fetched, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """A tarball, and the members of it that are executables we want."""

    url: str
    sha512: str
    members: tuple[str, ...]


def fetch(archive: Archive, directory: Path, *, seconds: float = CONNECT_SECONDS, total_seconds: float = TOTAL_SECONDS) -> None:
    """Make `directory` hold the members by their last names; FetchError if the server is silent for `seconds`, or lies."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=directory.parent) as work:
        downloaded = Path(work, "archive")
        try:
            _download(archive.url, downloaded, seconds=seconds, total_seconds=total_seconds)
        except (OSError, http.client.HTTPException) as error:
            raise FetchError(f"{archive.url}: {error or type(error).__name__}") from error
        with downloaded.open("rb") as content:
            if (found := hashlib.file_digest(content, "sha512").hexdigest()) != archive.sha512:
                raise FetchError(f"{archive.url}: SHA-512 is {found}, not {archive.sha512}; refused")
        unpacked = Path(work, "unpacked")
        unpacked.mkdir()
        _unpack(downloaded, archive.members, unpacked)
        put(unpacked, directory)


def put(made: Path, directory: Path) -> None:
    """Rename a finished directory into its place in one step; what another run put there first is as good and stays."""
    try:
        made.rename(directory)
    except OSError:
        if not directory.is_dir():
            raise


def _download(url: str, target: Path, *, seconds: float, total_seconds: float) -> None:
    end = time.monotonic() + total_seconds
    # `seconds` bounds the connection and each read; the end, a server that sends a byte now and then.
    with urllib.request.urlopen(url, timeout=seconds) as response, target.open("wb") as file:  # noqa: S310 - a pinned URL
        while chunk := response.read1(CHUNK):  # read() would wait for a whole chunk, and we for ever
            file.write(chunk)
            if time.monotonic() > end:
                raise TimeoutError(f"not whole after {total_seconds:g} s")


def _unpack(archive: Path, members: tuple[str, ...], into: Path) -> None:
    with tarfile.open(archive) as tar:
        for member in members:
            with contextlib.closing(_member(tar, member)) as content, (into / Path(member).name).open("wb") as file:
                shutil.copyfileobj(content, file)
            (into / Path(member).name).chmod(0o755)


def _member(tar: tarfile.TarFile, name: str) -> BinaryIO:
    try:
        content = tar.extractfile(name)
    except KeyError:
        content = None
    if content is None:
        raise FetchError(f"the archive has no file {name}")
    return content  # type: ignore[return-value]  # typeshed's IO[bytes]
