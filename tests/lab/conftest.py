"""Clusters on the API server and the WireGuard that were chosen: one of three nodes for the tests of a file, and empty ones."""

from collections.abc import Iterator

import pytest

from tests.lab.lab import ApiKind, Lab
from tests.lab.secrets import leaks
from wigglenet_operator.model.facts import WireGuardKind


@pytest.fixture(scope="module")
def lab(api_kind: ApiKind, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """Nodes a, b and c with agents, their pods in touch with each other."""
    with Lab(api=api_kind, wireguard=WireGuardKind(request.config.getoption("--wireguard"))) as made:
        for name in "abc":
            made.add_node(name)
        made.expect_mesh()
        yield made


@pytest.fixture
def empty_lab(api_kind: ApiKind, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A control plane and an underlay without nodes."""
    with Lab(api=api_kind, wireguard=WireGuardKind(request.config.getoption("--wireguard"))) as made:
        yield made


PRINTED: list[tuple[str, str]] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep what is printed of a test."""
    PRINTED.append((report.nodeid, "\n".join([*(text for _, text in report.sections), report.longreprtext])))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """A key or a token in what tests print is a failure: the output of CI is public."""
    if found := leaks(PRINTED):
        print(f"\nSECRETS ARE PRINTED BY {', '.join(sorted(set(found)))}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
