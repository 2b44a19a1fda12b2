"""A download is whole, checked and in its place, or there is nothing: against an HTTP server on loopback.

And where a kube-apiserver is looked for before anything is downloaded or built.
"""

import contextlib
import hashlib
import io
import os
import shutil
import socket
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.lab.api import kube_binary
from tests.lab.api.fetch import Archive, FetchError, fetch, put

MEMBERS = ("kubebuilder/bin/etcd", "kubebuilder/bin/kube-apiserver")
SECONDS = 0.3  # that a server may be silent here


def tarball(*names: str) -> bytes:
    """A gzipped tar whose files contain their own names."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w:gz") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(name)
            tar.addfile(member, io.BytesIO(name.encode()))
    return written.getvalue()


GOOD = tarball("kubebuilder/bin/kubectl", *MEMBERS)
Serve = Callable[[bytes], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serve some bytes, though their length is announced as that of GOOD; the URL."""
    content = [b""]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(GOOD)))
            self.end_headers()
            self.wfile.write(content[0])

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()

        def serve(some: bytes) -> str:
            content[0] = some
            return f"http://127.0.0.1:{server.server_port}/envtest.tar.gz"

        yield serve
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


def archive(url: str, *, of: bytes = GOOD, members: tuple[str, ...] = MEMBERS) -> Archive:
    return Archive(url=url, sha512=hashlib.sha512(of).hexdigest(), members=members)


def test_a_good_archive_leaves_its_executables_and_nothing_else(serve: Serve, tmp_path: Path) -> None:
    fetch(archive(serve(GOOD)), tmp_path / "cache" / "envtest", seconds=SECONDS)
    assert [one.name for one in (tmp_path / "cache").iterdir()] == ["envtest"]
    assert {one.name: one.read_text() for one in (tmp_path / "cache" / "envtest").iterdir()} == {
        "etcd": "kubebuilder/bin/etcd",
        "kube-apiserver": "kubebuilder/bin/kube-apiserver",
    }
    assert (tmp_path / "cache" / "envtest" / "etcd").stat().st_mode & 0o777 == 0o755


def test_an_archive_with_another_checksum_is_refused_and_leaves_nothing(serve: Serve, tmp_path: Path) -> None:
    forged = archive(serve(GOOD), of=b"what was pinned")
    with pytest.raises(FetchError, match=r"SHA-512 is [0-9a-f]{128}, not [0-9a-f]{128}; refused"):
        fetch(forged, tmp_path / "envtest", seconds=SECONDS)
    assert list(tmp_path.iterdir()) == []


def test_a_truncated_archive_leaves_nothing(serve: Serve, tmp_path: Path) -> None:
    with pytest.raises(FetchError):
        fetch(archive(serve(GOOD[:-10])), tmp_path / "envtest", seconds=SECONDS)
    assert list(tmp_path.iterdir()) == []


def test_an_archive_without_the_executables_leaves_nothing(serve: Serve, tmp_path: Path) -> None:
    url = serve(GOOD)
    with pytest.raises(FetchError, match="the archive has no file kubebuilder/bin/kube-scheduler"):
        fetch(archive(url, members=("kubebuilder/bin/kube-scheduler",)), tmp_path / "envtest", seconds=SECONDS)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_accepts_and_says_nothing_is_given_up_in_time(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.monotonic()
        with pytest.raises(FetchError, match="timed out"):
            fetch(archive(f"http://127.0.0.1:{silent.getsockname()[1]}/"), tmp_path / "envtest", seconds=SECONDS)
    assert SECONDS <= time.monotonic() - start < SECONDS + 2
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_dribbles_is_given_up_in_time(tmp_path: Path) -> None:
    def dribble(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection, contextlib.suppress(OSError):
            connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
            for _ in range(200):
                connection.sendall(b"x")
                time.sleep(0.02)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=dribble, args=(listening,))
        thread.start()
        with pytest.raises(FetchError, match=r"not whole after 0\.5 s"):
            fetch(archive(f"http://127.0.0.1:{listening.getsockname()[1]}/"), tmp_path / "envtest", total_seconds=0.5)
        thread.join()
    assert list(tmp_path.iterdir()) == []


def test_nobody_who_listens_is_a_fetch_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    with pytest.raises(FetchError, match="refused"):
        fetch(archive(f"http://127.0.0.1:{port}/"), tmp_path / "envtest", seconds=SECONDS)


def test_what_another_run_put_there_first_stays(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for made in (first, second):
        made.mkdir()
        (made / "etcd").write_text(made.name)
    put(first, tmp_path / "envtest")
    put(second, tmp_path / "envtest")
    assert (tmp_path / "envtest" / "etcd").read_text() == "first"


# Where it is looked for


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with nothing: no assets, an empty PATH, an empty cache below the returned directory."""
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def install(directory: Path) -> None:
    directory.mkdir(parents=True)
    for name in ("etcd", "kube-apiserver"):
        (directory / name).touch(0o755)


def test_a_bare_machine_has_none_and_nothing_is_made_to_find_out(bare: Path) -> None:
    assert not kube_binary.locally_available()
    assert list(bare.iterdir()) == []


def test_assets_come_before_path_and_path_before_the_cache(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(kube_binary, "ARCHIVES", {"x86_64": archive("http://unused.invalid/")})
    install(bare / "cache/wigglenet-operator" / f"envtest-{hashlib.sha512(GOOD).hexdigest()[:16]}")
    assert kube_binary.locally_available()
    assert "cache" in kube_binary.find_kube_apiserver().parts
    install(bare / "bin")
    assert kube_binary.find_kube_apiserver() == bare / "bin/kube-apiserver"
    install(bare / "assets")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(bare / "assets"))
    assert kube_binary.find_kube_apiserver() == bare / "assets/kube-apiserver"
    assert kube_binary.find_etcd() == bare / "assets/etcd"


def test_two_runs_side_by_side_download_once(bare: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[Path] = []

    def counting(wanted: Archive, directory: Path) -> None:
        fetched.append(directory)
        time.sleep(0.2)
        fetch(wanted, directory)

    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(kube_binary, "ARCHIVES", {"x86_64": archive(serve(GOOD))})
    monkeypatch.setattr(kube_binary, "fetch", counting)
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(kube_binary.find_kube_apiserver())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fetched) == 1
    assert found == [fetched[0] / "kube-apiserver"] * 2
    assert found[0].is_relative_to(bare / "cache")


def test_a_failed_download_of_etcd_says_what_to_install(bare: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(kube_binary, "ARCHIVES", {"x86_64": archive(serve(GOOD), of=b"what was pinned")})
    with pytest.raises(kube_binary.NoBinaryError, match="apt-get install etcd-server"):
        kube_binary.find_etcd()
    assert [one.name for one in (bare / "cache/wigglenet-operator").iterdir()] == ["lock"]


def test_a_failed_download_of_the_server_leads_to_a_build(bare: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(kube_binary, "ARCHIVES", {"x86_64": archive(serve(GOOD[:-10]))})
    go = bare / "bin/go"
    tools = {tool: shutil.which(tool, path=os.defpath) for tool in ("chmod", "mkdir", "nice")}
    go.parent.mkdir()
    for tool, where in tools.items():
        (go.parent / tool).symlink_to(str(where))
    # Stands in for Go: tells a version that is new enough, and "builds" by writing the file after -o.
    go.write_text(
        "#!/bin/sh\n"
        'if [ "$1" = env ]; then echo go99.0; exit; fi\n'
        'while [ "$1" != -o ]; do shift; done\n'
        'mkdir -p "${2%/*}"; echo built > "$2"; chmod 755 "$2"; echo compiled >&2\n'
    )
    go.chmod(0o755)
    found = kube_binary.find_kube_apiserver()
    assert found.read_text() == "built\n"
    assert found.parent.name.startswith("kube-apiserver-")
    assert kube_binary.find_kube_apiserver() == found
