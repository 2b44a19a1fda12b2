"""The firewall lets every flow of the table through, or not, as it says there, beside either kube-proxy."""

from collections.abc import Callable, Iterator

import pytest

from tests.lab.exchange import Protocol
from tests.lab.flows import FLOWS, Flow
from tests.lab.lab import ApiKind
from tests.lab.proxies import by_iptables, by_nftables, removed
from tests.lab.world import World
from wigglenet_operator.model.facts import WireGuardKind

BOTH, NONE = frozenset({4, 6}), frozenset[int]()
SETTINGS = {
    "masquerade IPv4, filter IPv6": (frozenset({4}), frozenset({6})),
    "masquerade IPv6, filter IPv4": (frozenset({6}), frozenset({4})),
    "IPv4 both, IPv6 neither": (frozenset({4}), frozenset({4})),
    "IPv4 neither, IPv6 both": (frozenset({6}), frozenset({6})),
}
"""All four combinations of each family, the families never alike."""


@pytest.fixture(scope="module")
def world(api_kind: ApiKind, request: pytest.FixtureRequest) -> Iterator[World]:
    with World(api=api_kind, wireguard=WireGuardKind(request.config.getoption("--wireguard"))) as made:
        made.listen()
        yield made


def expectations(masqueraded: frozenset[int], filtered: frozenset[int]) -> list[tuple[Flow, int, Protocol, str]]:
    return [
        (flow, version, protocol, flow.expected(masquerade=version in masqueraded, filtered=version in filtered))
        for flow in FLOWS
        for version in flow.versions
        for protocol in flow.protocols
    ]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("proxy", [by_iptables, by_nftables])
def test_every_flow_is_as_the_table_says(world: World, settings: str, proxy: Callable[[World], None]) -> None:
    masqueraded, filtered = SETTINGS[settings]
    removed(world)
    proxy(world)
    world.settle(masqueraded=masqueraded, filtered=filtered)
    rows = expectations(masqueraded, filtered)

    wrong = [
        f"IPv{version} {protocol} {flow}: {heard}, expected {expected or 'nobody'}"
        for (flow, version, protocol, expected), heard in zip(rows, world.try_all(rows), strict=True)
        if heard.source != expected or (expected and heard.answered is not flow.answered)
    ]

    assert not wrong, "\n".join(wrong)
