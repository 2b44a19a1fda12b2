"""Fixtures of the contract suites: a place with WireGuard, and where a table is tried."""

from collections.abc import Callable, Iterator

import pytest

from tests.contract.tables import LINK, Bench, Table, real
from tests.fakes import FakePeers, FakeTable
from tests.lab.namespaces import Place
from tests.lab.wait import eventually


@pytest.fixture
def wireguard(place: Place, request: pytest.FixtureRequest) -> Iterator[Place]:
    """A place with WireGuard of the chosen kind (`--wireguard`), whose link is up."""
    if request.config.getoption("--wireguard") == "kernel":
        place.run("ip", "link", "add", LINK, "type", "wireguard")
        place.run("ip", "link", "set", LINK, "up")
        yield place
        return
    process = place.popen("wireguard-go", "-f", LINK, log="/run/wireguard.log")
    eventually(place.path(f"/run/wireguard/{LINK}.sock").exists, what="wireguard-go listens")
    place.run("ip", "link", "set", LINK, "up")
    yield place
    place.close()
    process.wait()


@pytest.fixture(params=["fake", "real"])
def bench(request: pytest.FixtureRequest) -> Callable[[str], Bench]:
    def make(kind: str) -> Bench:
        if request.param == "fake":
            table: Table = FakePeers() if kind == "peers" else FakeTable()
            return Bench(None, lambda _: table)
        where: Place = request.getfixturevalue("wireguard")
        return Bench(where, real(kind, where))

    return make
