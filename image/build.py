"""Builds the image with whichever engine is there, and tells what it is made of.

Standard library only.  Where the base cannot be pulled it is made from Debian's packages, under the same name.
"""

import json
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parents[1]
BASE = "docker.io/library/debian:bookworm-slim"
ENGINES = ("buildah", "podman", "docker")
PROBE = "wigglenet-probe:test"
PULL_SECONDS = 120
FORBIDDEN = re.compile(r"(^|/)(\w+-linux-gnu-)?(gcc|g\+\+|cc1?|ld|go|pip|make)[\d.-]*$")
"""Programs that build or install have no place in what runs."""
MIB = 1 << 20


class ImageError(Exception):
    """The image could not be built: what to do."""


def version() -> str:
    """The package's, which is the image's tag as well."""
    match = re.search(r'__version__ = "(.+)"', (HERE / "src/wigglenet_operator/__init__.py").read_text())
    assert match
    return match.group(1)


def name() -> str:
    """As the manifests say it."""
    return f"wigglenet-operator:{version()}"


class Engine:
    """One command line that builds images: buildah, podman or docker."""

    def __init__(self) -> None:
        """Take the first that is there; ImageError with what to install if none is."""
        found = [program for program in ENGINES if shutil.which(program)]
        if not found:
            raise ImageError("no buildah, podman or docker: apt-get install --no-install-recommends buildah")
        self.program = found[0]

    def run(self, *arguments: str, check: bool = True, quiet: bool = False) -> bool:
        """Whether the command succeeded; ImageError if it must and does not."""
        command = [self.program, *arguments]
        output = subprocess.DEVNULL if quiet else None
        failed = subprocess.run(command, cwd=HERE, stdout=output, stderr=output, check=False).returncode
        if failed and check:
            raise ImageError(f"{' '.join(command)} ended with {failed}")
        return not failed

    def build(self, tag: str, file: Path, context: Path, *arguments: str) -> None:
        """Build one image; the machine's own certificates and pip settings are lent to the build, and do not stay."""
        here = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
        arguments = (*arguments, "--build-arg", f"BUILDPLATFORM=linux/{here}", "--build-arg", f"TARGETARCH={here}")
        if self.program == "docker":
            self.run("build", "--tag", tag, "--file", str(file), *arguments, str(context))
            return
        lent = [(path, how) for path, how in (("/etc/ssl/certs", "O"), ("/etc/pip.conf", "ro")) if Path(path).exists()]
        volumes = [word for path, how in lent for word in ("--volume", f"{path}:{path}:{how}")]
        how = ("--layers", "--isolation", "chroot", "--network", "host", "--pull=never", *volumes)
        self.run("build", *how, "--tag", tag, "--file", str(file), *arguments, str(context))

    def save(self, archive: Path, tag: str) -> None:
        """Write an image into an archive that `docker load`, `kind load image-archive` and `ctr image import` take."""
        archive.parent.mkdir(exist_ok=True)
        archive.unlink(missing_ok=True)
        if self.program == "docker":
            self.run("save", "--output", str(archive), tag)
        else:  # Podman's own `save` would name it localhost/...
            self.run("push", "--quiet", tag, f"docker-archive:{archive}:{tag}")

    def has_base(self) -> bool:
        """Whether the base is here, or can be pulled."""
        inspect = ("inspect", "--type", "image") if self.program != "docker" else ("image", "inspect")
        if self.run(*inspect, BASE, check=False, quiet=True):
            return True
        print(f"pulling {BASE}", flush=True)
        command = ["timeout", str(PULL_SECONDS), self.program, "pull", "--quiet", BASE]
        return not subprocess.run(command, capture_output=True, check=False).returncode

    def make_base(self) -> None:
        """A Debian of the same release by mmdebstrap, under the base's name."""
        if not shutil.which("mmdebstrap"):
            raise ImageError(f"{BASE} cannot be pulled; to make it: apt-get install --no-install-recommends mmdebstrap")
        print(f"{BASE} cannot be pulled: making it by mmdebstrap", flush=True)
        left_out = [f"--dpkgopt=path-exclude=/usr/share/{what}/*" for what in ("doc", "info", "locale", "man")]
        with tempfile.TemporaryDirectory() as work:
            root = Path(work, "root.tar")
            merged = ["--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr", "--include=usr-is-merged"]  # or Perl comes along
            command = ["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", *merged, *left_out, "bookworm", str(root)]
            if subprocess.run(command, check=False).returncode:
                raise ImageError("mmdebstrap failed: see above")
            Path(work, "Containerfile").write_text('FROM scratch\nADD root.tar /\nCMD ["bash"]\n')
            self.build(BASE, Path(work, "Containerfile"), Path(work))


def build(engine: Engine) -> Path:
    """Build the agent's image; the archive that holds it."""
    if not engine.has_base():
        engine.make_base()
    engine.build(name(), HERE / "Containerfile", HERE, "--build-arg", f"BASE={BASE}")
    archive = HERE / "dist" / f"wigglenet-operator-{version()}.tar"
    engine.save(archive, name())
    return archive


def build_probe(engine: Engine) -> None:
    """Build what tests a cluster, on top of the agent's image."""
    context = HERE / "tests/kind"
    engine.build(PROBE, context / "Containerfile", context, "--build-arg", f"AGENT={name()}")
    engine.save(HERE / "dist/wigglenet-probe.tar", PROBE)


def files(archive: Path) -> Iterator[tuple[str, int]]:
    """Path and size of every file and link in an image, layer by layer (Docker's archive format: manifest.json, Layers)."""
    with tarfile.open(archive) as outer:
        manifest = outer.extractfile("manifest.json")
        assert manifest
        for layer in json.load(manifest)[0]["Layers"]:
            with tarfile.open(fileobj=outer.extractfile(layer)) as inner:
                yield from ((member.name, member.size) for member in inner if not member.isdir())


def report(archive: Path) -> None:
    """Print the sizes; ImageError if something is in it that has no place there."""
    parts: Counter[str] = Counter()
    for path, size in files(archive):
        if FORBIDDEN.search(path) and "/bin/" in f"/{path}":
            raise ImageError(f"/{path} has no place in the image")
        ours = re.match(r"(?:\./)?opt/wigglenet/(bin|cni|python)/", path)
        names = {"bin": "wireguard-go", "cni": "CNI plugins", "python": "agent and its Python packages"}
        parts[names[ours.group(1)] if ours else "Debian: base, Python, nft, iptables, ip, wg"] += size
    for part, size in parts.most_common():
        print(f"{size / MIB:7.1f} MiB  {part}")
    print(f"{sum(parts.values()) / MIB:7.1f} MiB  {name()}")
    print(f"{archive.stat().st_size / MIB:7.1f} MiB  {archive.relative_to(HERE)}")


def main() -> None:
    """Build and report; exit status 1 with what to do if that is not possible."""
    try:
        engine = Engine()
        report(build(engine))
        if "--probe" in sys.argv[1:]:
            build_probe(engine)
    except ImageError as error:
        sys.exit(f"image: {error}")


if __name__ == "__main__":
    main()
