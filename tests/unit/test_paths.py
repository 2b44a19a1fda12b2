"""Paths are discarded exactly where a route or a link concerns them."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wigglenet_operator.kernel.paths import Path, Paths
from wigglenet_operator.model.facts import IPAddress, IPNetwork

ADDRESSES = st.integers(0, 31).map(lambda n: ip_address(f"192.0.2.{n}")) | st.integers(0, 31).map(
    lambda n: ip_address(f"2001:db8::{n:x}")
)
KNOWN = st.dictionaries(ADDRESSES, st.tuples(st.integers(0, 3), st.integers(0, 3)))
NETWORKS = st.builds(
    lambda address, length: ip_network((address, address.max_prefixlen - length), strict=False), ADDRESSES, st.integers(0, 6)
) | st.sampled_from([ip_network("0.0.0.0/0"), ip_network("::/0"), ip_network("fe80::/64")])


def content(paths: Paths, of: dict[IPAddress, Path]) -> dict[IPAddress, Path]:
    return {address: paths[address] for address in of if address in paths}


@given(KNOWN, st.lists(NETWORKS, max_size=4))
def test_a_route_discards_the_paths_to_its_network(known: dict[IPAddress, Path], routes: list[IPNetwork]) -> None:
    paths, left = Paths(), dict(known)
    paths.add(known)
    for network in routes:
        lost = [address for address in left if address in network]

        assert paths.discard_within(network) is bool(lost)
        left = {address: path for address, path in left.items() if address not in lost}
        assert content(paths, known) == left


@given(KNOWN, st.lists(st.integers(0, 4), max_size=3), NETWORKS)
def test_a_link_discards_the_paths_through_it(known: dict[IPAddress, Path], links: list[int], network: IPNetwork) -> None:
    paths = Paths()
    paths.add(known)
    paths.discard_within(network)
    left = content(paths, known)
    for link in links:
        lost = [address for address, (_, through) in left.items() if through == link]

        assert paths.discard_through(link) is bool(lost)
        left = {address: path for address, path in left.items() if address not in lost}
        assert content(paths, known) == left


def test_an_unknown_path_is_an_error_and_nothing_is_known_after_clear() -> None:
    paths, address = Paths(), ip_address("192.0.2.1")
    paths.add({address: (1400, 2)})
    assert paths[address] == (1400, 2)

    paths.clear()

    assert address not in paths
    assert not paths.discard_through(2)
    with pytest.raises(KeyError):
        paths[address]
