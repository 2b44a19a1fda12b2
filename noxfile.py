"""Everything that can be run here: `nox -l` is the menu, `nox` passes the tests, `nox -s demo` shows the mesh.

One environment for all sessions, from the hashed lock; made anew only when the lock changes.
"""

import hashlib
import os
import shutil
import sys
from pathlib import Path

import nox

sys.path.insert(0, str(Path(__file__).parent))
from tests.lab.preflight import preflight

nox.needs_version = ">=2024.4.15"
nox.options.sessions = ["lint", "types", "unit", "contract", "lab"]
nox.options.default_venv_backend = "none"  # all sessions share one environment: they need the same, and it is large
HERE = Path(__file__).parent
LOCK = HERE / "requirements.lock"
ENVIRONMENT = HERE / ".nox/shared"


SIDE_BY_SIDE = ("--dist", "loadgroup", "--no-loadscope-reorder", "-n")
"""Workers of pytest; tests of one lab share a group (tests/conftest.py). The numbers are the best of those that were measured
on two cores (tests/TIMES.md): labs wait much, unit tests never."""
REAL_TIME = ("tests/contract/test_outages.py", "tests/lab/test_endpoints.py", "tests/lab/test_api_faults.py")
"""Tests that wait for timers of the agent, and that the real API server leaves out."""
ABOUT_PACKETS = ("faults", "cloud", "firewall", "flows", "mtu", "underlay")
"""Lab tests that are about packets: an API server of another kind makes no difference."""
ABOUT_ONE_NODE = ("endpoints", "sources", "modes", "families", "reboot", "health", "secrets")
"""Lab tests that are about one node: likewise."""


def run(session: nox.Session, *command: str, **environment: str) -> None:
    """Run a command of the shared environment, which is made, or made anew if the lock has changed, first."""
    state = hashlib.sha256(LOCK.read_bytes() + (HERE / "pyproject.toml").read_bytes() + str(HERE).encode()).hexdigest()
    stamp = ENVIRONMENT / "lock.sha256"
    programs = ENVIRONMENT / "bin"
    if not stamp.exists() or stamp.read_text() != state:
        print(f"installing {LOCK.name} into {ENVIRONMENT.relative_to(HERE)}", flush=True)
        session.run(sys.executable, "-m", "virtualenv", "--clear", "--quiet", str(ENVIRONMENT), external=True, silent=True)
        pip = (str(programs / "pip"), "install", "--quiet", "--disable-pip-version-check")
        session.run(*pip, "--require-hashes", "-r", str(LOCK), external=True, silent=True)
        session.run(*pip, "--no-deps", "--no-build-isolation", "--editable", ".", external=True, silent=True)
        stamp.write_text(state)
    good = [0, 5] if command[0] == "pytest" and session.posargs else [0]  # 5: somebody's `-k` chooses no test of this run
    environment["PATH"] = f"{programs}{os.pathsep}{os.environ['PATH']}"
    session.run(str(programs / command[0]), *command[1:], external=True, env=environment, success_codes=good)


def prepare(session: nox.Session, *needed: str) -> list[str]:
    """Check the machine, install what is missing, and give the arguments that are not for the preflight."""
    arguments = [argument for argument in session.posargs if argument != "--no-apt"]
    if os.geteuid() != 0:
        session.skip("NOT RUN: namespaces need root; run `sudo pipx run nox` for contract and lab")
    kube = {"kube", "both"} & {word for a in arguments for word in a.split("=")}
    problem = preflight(packages=[*needed, *(["etcd-server"] if kube else [])], apt="--no-apt" not in session.posargs)
    if problem:
        session.error(problem)
    if kube:
        run(session, "python", "-m", "tests.lab.api.kube_binary")
    return arguments


@nox.session
def lint(session: nox.Session) -> None:
    """Lint, formatting, layers."""
    run(session, "ruff", "check", ".")
    run(session, "ruff", "format", "--check", ".")
    run(session, "lint-imports", "--no-logo")


@nox.session
def types(session: nox.Session) -> None:
    """Check types, of the tests too."""
    run(session, "mypy")


@nox.session
def unit(session: nox.Session) -> None:
    """Run planners, laws, golden files and the agent on fakes: needs nothing."""
    run(session, "pytest", "tests/unit", "-n", "2", "--dist", "worksteal", *session.posargs)


@nox.session
def contract(session: nox.Session) -> None:
    """Run one suite on the fakes and on the real kernel, wireguard-go and API servers (--api kube): root."""
    arguments = prepare(session)
    run(session, "pytest", "tests/contract", *SIDE_BY_SIDE, "3", *arguments)


@nox.session
def lab(session: nox.Session) -> None:
    """Run several nodes as namespaces with real agents and packets (--api kube): root."""
    arguments = prepare(session)
    run(session, "pytest", "tests/lab", "-m", "not alone", *SIDE_BY_SIDE, "3", *arguments)
    run(session, "pytest", "tests/lab", "-m", "alone", *arguments)


@nox.session(default=False)
def long(session: nox.Session) -> None:
    """Run what waits for production's timers, a long soak, and contract and lab on the real API server: root."""
    prepare(session, "etcd-server")
    run(session, "python", "-m", "tests.lab.api.kube_binary")
    others = [f"--ignore=tests/lab/test_{name}.py" for name in (*ABOUT_PACKETS, *ABOUT_ONE_NODE, "soak")]
    run(session, "pytest", *REAL_TIME, *SIDE_BY_SIDE, "4", *session.posargs, LAB_REAL_TIME="1")
    run(session, "pytest", "tests/lab/test_soak.py", "--soak", "60", *session.posargs)
    run(session, "python", "-m", "tests.bench.links")
    # Two workers: a real API server with its etcd fills half a core. `-k kube` leaves out what asks no API server.
    run(session, "pytest", "tests/contract", "--api", "kube", "-k", "kube", *SIDE_BY_SIDE, "2", *session.posargs)
    run(session, "pytest", "tests/lab", "--api", "kube", *others, *SIDE_BY_SIDE, "2", *session.posargs)


@nox.session(default=False)
def vm(session: nox.Session) -> None:
    """Run contract and lab on a kernel with WireGuard, in a virtual machine (--kernel 6.1|PATH, --bench): root."""
    measured = ["iperf3"] if "--bench" in session.posargs else []
    arguments = prepare(session, "qemu-system-x86", "busybox-static", "kmod", "file", *measured)
    run(session, "python", "-m", "tests.vm", *arguments)


@nox.session(default=False)
def image(session: nox.Session) -> None:
    """Build the image by buildah, podman or docker, and tell what it is made of."""
    session.run(sys.executable, "image/build.py", *session.posargs, external=True)


@nox.session(default=False)
def kind(session: nox.Session) -> None:
    """Apply the manifests to clusters with real kubelets, and ask their pods: container engine, kind, kubectl."""
    missing = [program for program in ("docker", "kind", "kubectl") if not shutil.which(program)]
    if missing:
        session.error(f"NOT RUN: {', '.join(missing)} missing; install Docker (Debian: docker.io), kind and kubectl")
    session.run("docker", "info", external=True, silent=True)
    session.run(sys.executable, "image/build.py", "--probe", external=True, silent=True)
    run(session, "pytest", "tests/kind", *session.posargs)


@nox.session(default=False)
def workflows(session: nox.Session) -> None:
    """Lint the hosted workflows."""
    run(session, "python", "-m", "tests.workflows")


@nox.session(default=False)
def manifests(session: nox.Session) -> None:
    """Render the manifests for a plain `kubectl apply -f`: kubectl."""
    run(session, "pytest", "tests/kind", "--update-golden", "-k", "rendered")


@nox.session(default=False)
def quick(session: nox.Session) -> None:
    """Go round the one-minute loop: lint, types, unit."""
    lint(session)
    types(session)
    unit(session)


@nox.session(default=False)
def demo(session: nox.Session) -> None:
    """Show the mesh: three nodes, pods, the ping matrix (--keep, --api kube|embedded, --no-apt): root."""
    arguments = prepare(session)
    run(session, "python", "-m", "tests.lab.demo", *arguments)


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Print figures beside their floors: root."""
    arguments = prepare(session, "iperf3")
    run(session, "python", "-m", "tests.bench", *arguments)
    run(session, "python", "-m", "tests.bench.wireguard", "--wireguard", "userspace")
    run(session, "python", "-m", "tests.bench.firewall")
    run(session, "python", "-m", "tests.bench.plan")
    run(session, "python", "-m", "tests.bench.metrics")
    run(session, "python", "-m", "tests.bench.status")
    run(session, "python", "-m", "tests.bench.links")


@nox.session(default=False)
def golden(session: nox.Session) -> None:
    """Write the golden files anew; read the difference before committing it."""
    run(session, "pytest", "tests/unit", "--update-golden", "-k", "golden")


@nox.session(default=False)
def docs(session: nox.Session) -> None:
    """Write the generated tables of the documents anew."""
    run(session, "pytest", "tests/unit/test_docs.py", "--update-golden", "-k", "generated")


@nox.session(default=False, venv_backend="virtualenv")
def lock(session: nox.Session) -> None:
    """Pin every dependency by hash, without a word of where it comes from."""
    session.install("uv")
    session.run(
        *("uv", "pip", "compile", "pyproject.toml", "--group", "dev", "--universal", "--python-version", "3.11"),
        *("--generate-hashes", "--no-emit-index-url", "--no-annotate", "--no-header", "--upgrade"),
        *("--output-file", LOCK.name),
        silent=True,
    )
