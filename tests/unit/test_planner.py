"""A planner that remembers plans the same as one that does not."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from ipaddress import ip_address, ip_network
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy as Strategy

from tests.builders import cluster, config, host, ips, key, nets, node, numbered
from tests.unit.test_plan_laws import NETWORKS, NODES
from wigglenet_operator.model.config import AgentConfig
from wigglenet_operator.model.facts import ClusterState, ForeignRoute, HostFacts, IPNetwork, NodeFacts, NodeName, NodeUID
from wigglenet_operator.model.problems import Code
from wigglenet_operator.model.report import Problem
from wigglenet_operator.model.ruleset import Item
from wigglenet_operator.plan.planner import Planner, plan

OWN = node("a", pods="10.240.0.0/24 fd00:f0::/64", internal="192.0.2.200 2001:db8:f::1", uid="own")
CONFIGS = [
    config("a", filtered=frozenset({4, 6})),
    config("a", native=frozenset({4})),
    config("a", firewall_only=True, filtered=frozenset({4, 6})),
]


def variants(number: int) -> list[NodeFacts]:
    """What the Node of that number may be: most have nothing to do with any other number."""
    usual = node(
        f"n{number}", pods=f"10.{100 + number}.0.0/24 fd00:{number}::/64", internal=f"192.0.2.{number} 2001:db8::{number}"
    )
    wide = nets(f"10.{100 + number // 2 * 2}.0.0/15")
    return [
        usual,
        replace(usual, public_key=None, pod_cidrs=frozenset()),
        replace(usual, internal_ips=ips("")),
        replace(usual, created="2025-01-01T00:00:00Z", node_ips=ips(f"198.18.0.{number}")),
        replace(usual, pod_cidrs=nets(f"10.{100 + number}.0.0/25 10.{100 + number}.0.128/25")),
        replace(usual, pod_cidrs=nets(f"10.{100 + number}.0.0/24 127.0.0.0/24")),
        replace(usual, pod_cidrs=nets(f"10.{100 + number}.0.0/24 192.0.2.{number}/32")),
        replace(usual, pod_cidrs=wide),
        replace(usual, spec_pod_cidrs=wide),
        replace(usual, endpoint=(ip_address(f"203.0.113.{number}"), None)),
        replace(usual, endpoint=(ip_address(f"10.{100 + number // 2 * 2}.0.1"), 7)),
        replace(usual, public_key=key("shared")),
        replace(usual, uid=NodeUID(f"again-{number}"), created="2026-05-01T00:00:00Z", pod_cidrs=frozenset()),
        replace(usual, name=NodeName(f"n{number // 2 * 2}")),
        replace(usual, problems=(Problem(code=Code.FieldUnusable, subject=f"node n{number}", text="it is odd"),)),
    ]


STRANGERS = st.sampled_from([variant for number in range(1, 8) for variant in variants(number)])
OWNS = st.sampled_from(
    [
        OWN,
        replace(OWN, annotations=(("wigglenet/status", "{}"),)),
        replace(OWN, internal_ips=ips("2001:db8:f::1")),
        replace(OWN, spec_pod_cidrs=nets("10.240.0.0/25"), pod_cidrs=nets("10.240.0.0/25")),
        replace(OWN, spec_pod_cidrs=frozenset()),
        replace(OWN, internal_ips=ips("10.101.0.9")),
    ]
)
HOSTS = st.builds(
    lambda routes, mtus, default, node_ips: replace(
        host("a"), foreign_routes=routes, path_mtus=mtus, default_mtu=default, node_ips=node_ips
    ),
    st.sampled_from(
        [
            frozenset(),
            frozenset({ForeignRoute(to=ip_network("10.120.0.7/32"), metric=0, link="veth1")}),
            frozenset({ForeignRoute(to=ip_network("10.101.0.0/25"), metric=0, link="eth0")}),
        ]
    ),
    st.dictionaries(st.integers(1, 7).map(lambda n: ip_address(0xC0000200 + n)), st.sampled_from([1300, 1400, 1500])),
    st.sampled_from([1400, 1500]),
    st.sampled_from([(), ips("10.101.0.9"), ips("198.18.0.3")]),
)


@dataclass
class World:
    """What there is to plan for; a step changes one thing."""

    nodes: dict[tuple[NodeUID, bool], NodeFacts]
    services: frozenset[IPNetwork] = frozenset()
    host: HostFacts = host("a")  # noqa: RUF009 - a value
    earlier: frozenset[IPNetwork] = frozenset()

    def see(self, changed: NodeFacts | HostFacts) -> None:
        """Of a Node or of this node."""
        if isinstance(changed, HostFacts):
            self.host = changed
        else:
            self.nodes[changed.uid, changed.departed] = changed

    def lose(self, number: int, *, departed: bool) -> None:
        """A Node, or what is remembered of one."""
        uid, was_departed = sorted(self.nodes)[number % len(self.nodes)]
        gone = self.nodes.pop((uid, was_departed))
        if departed or not self.nodes:
            self.nodes[uid, True] = replace(gone, departed=True)

    def cluster(self) -> ClusterState:
        return ClusterState(nodes=frozenset(self.nodes.values()), services=self.services)


Step = Callable[[World], None]


def step(
    change: Callable[..., None], *said: st.SearchStrategy[Any], **named: st.SearchStrategy[Any]
) -> st.SearchStrategy[Step]:
    """A change of a world."""
    return st.builds(lambda *given, **also: lambda world: change(world, *given, **also), *said, **named)


STEPS: Strategy[Step] = st.one_of(
    *[step(World.see, strategy) for strategy in (*[STRANGERS] * 6, NODES.filter(lambda n: n.name != OWN.name), OWNS, HOSTS)],
    *[step(World.lose, st.integers(0, 20), departed=st.booleans())] * 2,
    step(setattr, st.just("services"), st.frozensets(NETWORKS, max_size=1)),
    step(setattr, st.just("earlier"), st.sampled_from([frozenset(), nets("10.120.0.0/24")])),
)
SEQUENCES = st.lists(st.lists(STEPS, min_size=1, max_size=2), min_size=1, max_size=12)


@given(st.sampled_from(CONFIGS), st.lists(STRANGERS, max_size=4), SEQUENCES)
@settings(max_examples=200)
def test_a_planner_that_remembers_plans_the_same(mode: AgentConfig, nodes: list[NodeFacts], turns: list[list[Step]]) -> None:
    world = World({(n.uid, False): n for n in (OWN, *nodes)})
    remembering, told, anew = Planner(mode), [], []
    for steps in ([], *turns):
        for change in steps:
            change(world)
        told.append(remembering.plan(world.cluster(), world.host, world.earlier))
        anew.append(plan(world.cluster(), mode, world.host, world.earlier))

    assert told == anew


def test_networks_of_plans_before_are_planned_for() -> None:
    facts = replace(host("a"), foreign_routes=frozenset({ForeignRoute(to=ip_network("10.120.0.7/32"), metric=0, link="veth1")}))
    remembering = Planner(config("a"))
    remembering.plan(cluster(OWN), facts)

    assert remembering.plan(cluster(OWN), facts, nets("10.120.0.0/24")).networks == OWN.pod_cidrs | nets("10.120.0.0/24")


NODES_THERE = [numbered(0, name="a"), *(numbered(number) for number in range(1, 40))]


def planned_after(
    *nodes: NodeFacts, before: Sequence[Sequence[NodeFacts]] = (NODES_THERE,), facts: HostFacts | None = None
) -> set[str]:
    """Names of the Nodes whose shares are planned when these are there after those."""
    remembering = Planner(config("a"))
    for there in before:
        remembering.plan(cluster(*there), host("a"))
    with mock.patch.object(Planner, "_share", autospec=True, side_effect=Planner._share) as spied:  # noqa: SLF001 - what is counted
        remembering.plan(cluster(*nodes), facts or host("a"))
    return {call.args[1].name for call in spied.call_args_list}


def test_nothing_is_planned_when_nothing_has_changed() -> None:
    own, *others = NODES_THERE
    seen = replace(host("a"), path_mtus={ip_address("192.0.2.9"): 1400})

    assert planned_after(*NODES_THERE) == set()
    assert planned_after(*map(replace, NODES_THERE)) == set()
    assert planned_after(replace(own, annotations=(("wigglenet/status", "{}"),)), *others) == set()
    assert planned_after(*NODES_THERE, facts=seen) == set()


def test_a_pod_that_starts_plans_no_node_anew_and_leaves_the_tables_that_it_does_not_concern() -> None:
    remembering = Planner(config("a", filtered=frozenset({4, 6})))
    before = remembering.plan(cluster(*NODES_THERE), host("a")).desired
    pod = ForeignRoute(to=ip_network("10.1.0.9/32"), metric=0, link="veth9")
    after = remembering.plan(cluster(*NODES_THERE), replace(host("a"), foreign_routes=frozenset({pod}))).desired

    assert before
    assert after
    assert {f.name for f in fields(after) if getattr(after, f.name) is not getattr(before, f.name)} == {"firewall"}
    assert after.firewall.keys() - before.firewall.keys() == {Item("set", "wt_doors", '"veth9"')}


def test_a_node_that_has_nothing_to_do_with_others_is_planned_alone() -> None:
    *stay, last = NODES_THERE
    newcomer = numbered(50)

    assert planned_after(*stay) == set()
    assert planned_after(*NODES_THERE, newcomer) == {newcomer.name}
    assert planned_after(*stay, replace(last, departed=True)) == {last.name}
    assert planned_after(*stay, replace(last, public_key=None, pod_cidrs=frozenset())) == {last.name}


@pytest.mark.parametrize(
    ("common", "concerned"),
    [
        ({"name": NodeName("n7"), "created": "2030-01-01T00:00:00Z"}, {"n7"}),
        ({"uid": NodeUID("uid-n7"), "name": NodeName("other")}, {"other"}),
        ({"public_key": key("n7")}, {"n50", "n7"}),
        ({"pod_cidrs": nets("10.1.7.128/25"), "spec_pod_cidrs": nets("10.1.7.0/24")}, {"n50", "n7"}),
        ({"spec_pod_cidrs": nets("10.1.6.0/23"), "created": "2020-01-01T00:00:00Z"}, {"n50", "n6", "n7"}),
        ({"node_ips": ips("2001:db8::8")}, {"n50"}),
        ({"endpoint": (ip_address("203.0.113.9"), None)}, {"n50"}),
    ],
)
def test_a_node_that_has_to_do_with_others_is_planned_with_those(common: dict[str, Any], concerned: set[str]) -> None:
    newcomer = replace(numbered(50), **common)

    assert planned_after(*NODES_THERE, newcomer) - {"n50"} <= concerned
    assert planned_after(*NODES_THERE, newcomer) & {newcomer.name, "n7"}


def test_a_node_with_an_endpoint_is_planned_with_every_other_because_a_pod_network_may_hold_it() -> None:
    own, first, *others = NODES_THERE
    there = [own, replace(first, endpoint=(ip_address("203.0.113.8"), None)), *others]

    assert planned_after(*there, numbered(50), before=[there]) == {first.name, "n50"}


def test_what_a_node_had_is_free_when_it_is_gone() -> None:
    heir = replace(numbered(50), name=NodeName("heir"), uid=NodeUID("heir"), public_key=key("heir"))

    assert planned_after(*NODES_THERE, heir, before=[NODES_THERE, [*NODES_THERE, numbered(50)], NODES_THERE]) == {"heir"}


def test_what_a_larger_network_of_another_took_is_free_when_that_one_shrinks() -> None:
    wide = replace(numbered(50), spec_pod_cidrs=nets("10.1.6.0/23"), created="2020-01-01T00:00:00Z")
    narrow = replace(wide, spec_pod_cidrs=nets("10.1.6.0/24"))

    assert planned_after(*NODES_THERE, narrow, before=[[*NODES_THERE, wide]]) == {"n50", "n7"}


def test_a_quarrel_of_two_newcomers_is_remembered() -> None:
    quarrel = [*NODES_THERE, numbered(50), replace(numbered(51), pod_cidrs=nets("10.1.48.0/20"))]

    assert planned_after(*quarrel, numbered(52), before=[NODES_THERE, quarrel]) == {"n52"}
