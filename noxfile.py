"""Everything that can be run here: `nox -l` is the menu, `nox` passes the tests, `nox -s demo` shows the mesh.

One environment for all sessions, from the hashed lock; made anew only when the lock changes.
"""

import hashlib
import os
import sys
from pathlib import Path

import nox

sys.path.insert(0, str(Path(__file__).parent))
from tests.lab.preflight import preflight

nox.needs_version = ">=2024.4.15"
nox.options.sessions = ["lint", "types", "unit", "contract", "lab"]
HERE = Path(__file__).parent
LOCK = HERE / "requirements.lock"
SHARED = {"venv_location": ".nox/shared", "reuse_venv": True}


def install(session: nox.Session) -> None:
    """Install the lock and this checkout, unless that was done already."""
    stamp = HERE / ".nox/shared/lock.sha256"
    state = hashlib.sha256(LOCK.read_bytes() + (HERE / "pyproject.toml").read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == state:
        return
    session.install("--quiet", "--require-hashes", "-r", str(LOCK))
    session.install("--quiet", "--no-deps", "--no-build-isolation", "--editable", ".")
    stamp.write_text(state)


def prepare(session: nox.Session, *, packages: tuple[str, ...] = ()) -> list[str]:
    """Check the machine, install what is missing, and give the arguments that are not for the preflight."""
    arguments = [argument for argument in session.posargs if argument != "--no-apt"]
    if os.geteuid() != 0:
        session.skip("NOT RUN: namespaces need root; run `sudo pipx run nox` for contract and lab")
    problem = preflight(packages=packages, apt="--no-apt" not in session.posargs)
    if problem:
        session.error(problem)
    install(session)
    return arguments


def kube_packages(arguments: list[str]) -> tuple[str, ...]:
    """The Debian packages that the real API server needs, if it is asked for."""
    return ("etcd-server",) if {"kube", "both"} & set(arguments) else ()


@nox.session(**SHARED)
def lint(session: nox.Session) -> None:
    """Lint, formatting, layers."""
    install(session)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports", "--no-logo", silent=True)


@nox.session(**SHARED)
def types(session: nox.Session) -> None:
    """Check types, of the tests too."""
    install(session)
    session.run("mypy")


@nox.session(**SHARED)
def unit(session: nox.Session) -> None:
    """Run planners, laws, golden files and the agent on fakes: needs nothing."""
    install(session)
    session.run("pytest", "tests/unit", *session.posargs)


@nox.session(**SHARED)
def contract(session: nox.Session) -> None:
    """Run one suite on the fakes and on the real kernel, wireguard-go and API servers (--api kube): root."""
    arguments = prepare(session, packages=kube_packages(session.posargs))
    session.run("pytest", "tests/contract", *arguments)


@nox.session(**SHARED)
def lab(session: nox.Session) -> None:
    """Run several nodes as namespaces with real agents and packets (--api kube): root."""
    arguments = prepare(session, packages=kube_packages(session.posargs))
    session.run("pytest", "tests/lab", *arguments)


@nox.session(default=False, **SHARED)
def quick(session: nox.Session) -> None:
    """Go round the one-minute loop: lint, types, unit."""
    lint(session)
    types(session)
    unit(session)


@nox.session(default=False, **SHARED)
def demo(session: nox.Session) -> None:
    """Show the mesh: three nodes, pods, the ping matrix (--keep, --api kube|embedded, --no-apt): root."""
    arguments = prepare(session, packages=kube_packages(session.posargs))
    session.run("python", "-m", "tests.lab.demo", *arguments)


@nox.session(default=False, **SHARED)
def bench(session: nox.Session) -> None:
    """Print figures beside their floors: root."""
    arguments = prepare(session)
    session.run("python", "-m", "tests.bench", *arguments)


@nox.session(default=False, **SHARED)
def golden(session: nox.Session) -> None:
    """Write the golden files anew; read the difference before committing it."""
    install(session)
    session.run("pytest", "tests/unit", "--update-golden", "-k", "golden")


@nox.session(default=False)
def lock(session: nox.Session) -> None:
    """Pin every dependency by hash, without a word of where it comes from."""
    session.install("uv")
    session.run(
        *("uv", "pip", "compile", "pyproject.toml", "--group", "dev", "--universal", "--python-version", "3.11"),
        *("--generate-hashes", "--no-emit-index-url", "--no-annotate", "--no-header", "--upgrade"),
        *("--output-file", LOCK.name),
        silent=True,
    )
