"""Others' routes that take pod traffic past the tunnel are named, all others are nobody's business."""

from dataclasses import replace
from ipaddress import ip_network

import pytest

from tests.builders import cluster, config, host, node
from wigglenet_operator.model.facts import ForeignRoute
from wigglenet_operator.plan.planner import plan

A = node("a", pods="10.1.0.0/24 fd00:1::/64", internal="192.0.2.1")
B = node("b", pods="10.2.0.0/24 fd00:2::/64", internal="192.0.2.2")


@pytest.mark.parametrize(
    ("network", "metric", "wins"),
    [
        ("10.2.0.0/24", 0, True),
        ("10.2.0.0/24", 100, False),
        ("10.2.0.128/25", 100, True),
        ("10.2.0.7/32", 0, True),
        ("10.2.0.0/16", 0, False),
        ("0.0.0.0/0", 0, False),
        ("10.1.0.5/32", 0, False),
        ("fd00:2::/64", 256, True),
        ("fd00:2::/64", 2000, False),
        ("fd00:2::8/128", 2000, True),
        ("fd00:1::8/128", 1024, False),
        ("192.0.2.0/24", 0, False),
    ],
)
def test_a_route_that_wins_over_the_tunnels_is_named(network: str, metric: int, *, wins: bool) -> None:
    foreign = frozenset({ForeignRoute(ip_network(network), metric, "eth9")})
    problems = plan(cluster(A, B), config("a"), replace(host("a"), foreign_routes=foreign)).problems

    assert [p.subject for p in problems] == ([f"route {network} dev eth9"] if wins else [])


def test_the_route_of_a_pod_is_nothing_to_remove_whoever_has_its_network_by_now() -> None:
    foreign = frozenset({ForeignRoute(ip_network("10.2.0.7/32"), 0, "veth12345678")})

    assert not plan(cluster(A, B), config("a"), replace(host("a"), foreign_routes=foreign)).problems
