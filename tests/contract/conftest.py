"""Fixtures of the contract suites: a place with WireGuard, and where a table is tried."""

from collections.abc import Callable

import pytest

from tests.contract.tables import LINK, Bench, Table, real
from tests.fakes import FakePeers, FakeTable
from tests.lab.namespaces import Place
from tests.lab.wireguard import make_link
from wigglenet_operator.model.facts import WireGuardKind


@pytest.fixture
def wireguard(place: Place, request: pytest.FixtureRequest) -> Place:
    """A place with WireGuard of the chosen kind (`--wireguard`), whose link is up."""
    make_link(place, LINK, WireGuardKind(request.config.getoption("--wireguard")))
    place.run("ip", "link", "set", LINK, "up")
    return place


@pytest.fixture(params=["fake", "real"])
def bench(request: pytest.FixtureRequest) -> Callable[[str], Bench]:
    def make(kind: str) -> Bench:
        if request.param == "fake":
            table: Table = FakePeers() if kind == "peers" else FakeTable()
            return Bench(None, lambda _: table)
        where: Place = request.getfixturevalue("wireguard")
        return Bench(where, real(kind, where))

    return make
