"""A Node that is gone is what it was for a minute, as long as nothing better is known."""

from dataclasses import replace

from tests.builders import cluster, config, host, ips, key, nets, node
from wigglenet_operator.model.desired import DesiredState
from wigglenet_operator.model.facts import NodeFacts, NodeUID
from wigglenet_operator.plan.desired import Plan
from wigglenet_operator.plan.planner import plan

A = node("a", pods="10.1.0.0/24 fd00:1::/64", internal="192.0.2.1")
B = node("b", pods="10.2.0.0/24", internal="192.0.2.2")
GONE = replace(B, departed=True)
ANEW = replace(B, uid=NodeUID("anew"), created="2026-03-01T00:00:00Z", public_key=None, pod_cidrs=frozenset(), node_ips=())
"""Registered again, by a kubelet; its agent has not said anything yet."""


def planned(*nodes: NodeFacts) -> Plan:
    return plan(cluster(A, *nodes), config("a"), host("a"))


def desired(*nodes: NodeFacts) -> DesiredState:
    state = planned(*nodes).desired
    assert state
    return state


def test_a_node_that_is_gone_stays_what_it_was() -> None:
    assert desired(GONE) == desired(B)


def test_a_node_that_is_registered_anew_is_what_its_agent_last_said() -> None:
    assert desired(GONE, ANEW) == desired(B)
    assert not planned(GONE, ANEW).problems


BARE = replace(ANEW, spec_pod_cidrs=nets(""), internal_ips=ips(""))
"""Registered again; neither its kubelet nor a controller has said anything yet either."""


def test_a_node_that_is_registered_anew_in_parts_is_what_it_was() -> None:
    assert desired(GONE, BARE) == desired(B)
    assert not planned(GONE, BARE).problems


def test_an_address_that_the_kubelet_tells_takes_the_place_of_all_that_it_had() -> None:
    before = replace(GONE, external_ips=ips("203.0.113.2"))
    state = desired(before, replace(BARE, external_ips=ips("203.0.113.9")))

    assert state.peers[key("b")].allowed_ips == nets("10.2.0.0/24 203.0.113.9/32")


def test_whoever_exists_has_an_address_that_a_bare_node_only_had() -> None:
    heir = node("z", pods="10.9.0.0/24", internal="192.0.2.2", created="2026-06-01T00:00:00Z")
    state = desired(GONE, BARE, heir)

    assert state.peers[key("z")].allowed_ips == nets("10.9.0.0/24 192.0.2.2/32")
    assert key("b") not in state.peers


def test_what_the_agent_says_then_counts() -> None:
    moved = replace(ANEW, public_key=key("other"), pod_cidrs=nets("10.7.0.0/24"), spec_pod_cidrs=nets("10.7.0.0/24"))

    assert desired(GONE, moved) == desired(moved)


def test_whoever_exists_takes_over_at_once_what_a_node_that_is_gone_had() -> None:
    heir = node("0", pods="10.2.0.0/24", internal="192.0.2.2", created="2026-06-01T00:00:00Z")
    state = desired(GONE, heir)

    assert state.peers[key("0")].allowed_ips == nets("10.2.0.0/24 192.0.2.2/32")
    assert key("b") not in state.peers
    assert not planned(GONE, heir).contested


def test_a_part_of_what_the_agent_said_that_is_missing_is_what_it_was() -> None:
    for silent in (
        replace(B, public_key=None),
        replace(B, pod_cidrs=nets("")),
        replace(B, public_key=None, pod_cidrs=nets("")),
    ):
        assert desired(GONE, silent) == desired(B)


def test_whoever_speaks_takes_over_at_once_what_a_silent_node_only_said() -> None:
    silent = replace(B, public_key=None, pod_cidrs=nets(""), spec_pod_cidrs=nets(""))
    heir = node("z", pods="10.2.0.0/24", spec="", internal="192.0.2.9", created="2026-06-01T00:00:00Z")
    state = desired(replace(GONE, spec_pod_cidrs=nets("")), silent, heir)

    assert state.peers[key("z")].allowed_ips == nets("10.2.0.0/24 192.0.2.9/32")
    assert state.peers[key("b")].allowed_ips == nets("192.0.2.2/32")


def test_a_node_that_takes_another_name_keeps_its_key() -> None:
    renamed = replace(B, uid=NodeUID("renamed"), name=type(B.name)("b2"), created="2026-06-01T00:00:00Z")

    assert desired(GONE, renamed) == desired(renamed)
    assert not planned(GONE, renamed).problems


def test_an_own_node_that_is_gone_is_not_there() -> None:
    result = plan(cluster(replace(A, departed=True), B), config("a"), host("a"))

    assert (result.desired, result.registered) == (None, False)


def test_a_node_that_is_gone_is_no_problem_whatever_it_said() -> None:
    odd = replace(GONE, internal_ips=ips(""), pod_cidrs=nets("0.0.0.0/0 10.1.0.0/24"))

    assert not planned(odd).problems - planned().problems
