"""A Debian kernel to boot: fetched by apt, unpacked into our cache, never installed on this machine."""

import re
import subprocess
import tempfile
from pathlib import Path

from tests.lab.api.kube_binary import cache

SERIES = {"6.12": r"linux-image-6\.12\.[0-9]+\+deb12-amd64", "6.1": r"linux-image-6\.1\.[0-9]+-[0-9]+-amd64"}
"""Kernels of Debian 12's archive, by what `--kernel` calls them."""


class KernelMissingError(Exception):
    """There is no such kernel, and what to do."""


def kernel(wanted: str) -> Path:
    """The image of a series or of a path, with its modules in `../lib/modules`; KernelMissingError if it cannot be had."""
    if wanted not in SERIES:
        image = Path(wanted).resolve()
        modules = image.parents[1] / "lib/modules" / image.name.removeprefix("vmlinuz-")
        if not (image.is_file() and modules.is_dir()):
            text = f"{wanted}: no vmlinuz-VERSION with ../lib/modules/VERSION"
            raise KernelMissingError(f"{text}; say {' or '.join(SERIES)}, or unpack a kernel package and name its image")
        return image
    directory = cache() / f"linux-{wanted}"
    if not directory.exists():
        _unpack(_newest(wanted), directory)
    return next((directory / "boot").glob("vmlinuz-*"))


def _newest(series: str) -> str:
    """The newest package of a series, after asking the archive for its list where there is none."""
    for update in (False, True):
        if update:
            _run("apt-get", "update", "-qq")
        found = [name for name in _run("apt-cache", "pkgnames", "linux-image-6").split() if re.fullmatch(SERIES[series], name)]
        if found:
            return max(found, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])
    raise KernelMissingError(f"Debian's archive has no kernel {series} for this machine; name an image: --kernel PATH")


def _unpack(package: str, directory: Path) -> None:
    directory.parent.mkdir(parents=True, exist_ok=True)
    print(f"vm: fetching {package}, once", flush=True)
    with tempfile.TemporaryDirectory(prefix=".linux-", dir=directory.parent) as work:
        _run("apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", package, cwd=work)
        (archive,) = Path(work).glob("*.deb")
        unpacked = Path(work, "unpacked")
        _run("dpkg", "-x", str(archive), str(unpacked))
        (modules,) = (unpacked / "lib/modules").iterdir()
        _run("depmod", "-b", str(unpacked), modules.name)
        unpacked.rename(directory)


def _run(*command: str, cwd: str | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise KernelMissingError(f"{' '.join(command)} failed: {(done.stdout + done.stderr).strip()}")
    return done.stdout
