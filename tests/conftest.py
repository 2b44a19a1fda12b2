"""Options, and the one skip that there is: without root there are no namespaces, and the end of the run says so loudly."""

import ctypes
import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.lab.namespaces import Place

settings.register_profile("steady", deadline=None, suppress_health_check=[HealthCheck.too_slow])  # no clock decides a test
settings.load_profile("steady")

PR_SET_PDEATHSIG = 1
"""From linux/prctl.h."""
LONG = (
    "test_problems",
    "test_soak",
    "test_degraded",
    "test_outage",
    "test_firewall",
    "test_flows",
    "test_faults",
    "test_modes",
)
"""Labs that take longest, in the order in which they begin: what is begun last should be short. All tests of a lab go to one
worker; a test with a lab of its own goes anywhere."""
ROOT_ONLY = ("tests/contract", "tests/lab", "tests/bench")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--api", choices=["embedded", "kube", "both"], default="embedded", help="API server of lab and contract")
    parser.addoption("--wireguard", choices=["userspace", "kernel"], default="userspace", help="of lab and contract")
    parser.addoption("--soak", type=float, default=20, metavar="SECONDS", help="how long the lab's soak goes on (default 20)")
    parser.addoption("--seed", type=int, default=1, help="of the soak's mishaps (default 1)")
    parser.addoption("--update-golden", action="store_true", help="write the golden files anew instead of comparing")


def pytest_configure(config: pytest.Config) -> None:
    """A worker of pytest-xdist dies with the process that started it, and its labs with it."""
    if hasattr(config, "workerinput"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests that name the fixture `api_kind` run on each API server that was chosen."""
    if "api_kind" in metafunc.fixturenames:
        chosen = metafunc.config.getoption("--api")
        metafunc.parametrize("api_kind", ["embedded", "kube"] if chosen == "both" else [chosen], scope="session")


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in the same hook
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    of_lab = [item for item in items if item.path.parent == config.rootpath / "tests/lab"]
    for item in of_lab:
        of_its_own = "empty_lab" in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group(item.nodeid if of_its_own else item.path.stem))
    of_lab.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))
    items[:] = [*of_lab, *(item for item in items if item.path.parent != config.rootpath / "tests/lab")]
    absent = {"embedded": "kube", "kube": "embedded", "kernel": "userspace_wireguard", "userspace": "kernel_wireguard"}
    unwanted = {absent.get(config.getoption(option)) for option in ("--api", "--wireguard")}
    left_out = [item for item in items if unwanted & {mark.name for mark in item.iter_markers()}]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    if os.geteuid() != 0:
        for item in items:
            if str(item.path.relative_to(config.rootpath)).startswith(ROOT_ONLY):
                item.add_marker(pytest.mark.skip(reason="NOT RUN: namespaces need root; run `sudo pipx run nox`"))


@pytest.fixture
def place() -> Iterator[Place]:
    """An empty namespace set."""
    made = Place("test")
    yield made
    made.close()
