"""Clusters on the API server and the WireGuard that were chosen: one of three nodes for many tests, and empty ones."""

from collections.abc import Iterator

import pytest

from tests.lab.lab import ApiKind, Lab
from wigglenet_operator.model.facts import WireGuardKind


@pytest.fixture(scope="session")
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
