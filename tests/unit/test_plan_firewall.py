"""The firewall's table by settings, by what the cluster says, and by what holds for every set of networks."""

import re
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import cluster, config, host, key, nets, node
from tests.unit.test_plan_laws import MIXED, NETWORKS, RANDOMS, overlap
from wigglenet_operator.model.config import AgentConfig
from wigglenet_operator.model.desired import DesiredState
from wigglenet_operator.model.facts import (
    ClusterState,
    DroppingChain,
    ForeignRoute,
    HostFacts,
    IPNetwork,
    NodeFacts,
    PodNetworkSource,
)
from wigglenet_operator.model.ruleset import Item, Ruleset
from wigglenet_operator.plan.firewall import MSS, Zones, outermost, plan_doors, plan_firewall
from wigglenet_operator.plan.planner import plan

A = node("a", pods="10.1.0.0/24 fd00:1::/64", internal="192.0.2.1 2001:db8::1")
B = node("b", pods="10.2.0.0/24 fd00:2::/64", internal="192.0.2.2 2001:db8::2")
C = node("c", pods="10.3.0.0/24", internal="192.0.2.3", created="2026-01-02T00:00:00Z")
EVERYTHING: dict[str, Any] = {"masqueraded": frozenset({4, 6}), "filtered": frozenset({4, 6})}
SETTINGS = st.builds(
    lambda masqueraded, filtered, firewall_only, direct: config(
        masqueraded=masqueraded, filtered=filtered, firewall_only=firewall_only, non_masquerade=direct
    ),
    st.frozensets(st.sampled_from([4, 6])),
    st.frozensets(st.sampled_from([4, 6])),
    st.booleans(),
    st.frozensets(NETWORKS, max_size=3),
)
MESH = "doors home4 home6 own4 own6 pods4 pods6 rest4 rest6"
"""The sets of the door rules."""
DOORS = "forward inbound4 inbound6 outbound tunnel"
"""Their chains."""
USUAL = {"4": 24, "6": 64}
"""Lengths of own networks in these tests."""


def versions(digits: str) -> frozenset[int]:
    return frozenset(map(int, digits))


def ruleset(*nodes: NodeFacts, facts: HostFacts | None = None, **settings: Any) -> Ruleset:
    """What node a plans."""
    desired = plan(cluster(*nodes), config("a", **{**EVERYTHING, **settings}), facts or host("a")).desired
    assert desired
    return desired.firewall


def zones(**given: Any) -> Zones:
    sets = {name: frozenset(content) for name, content in given.items()}
    own = sets.get("own", nets("10.1.0.0/24 fd00:1::/64"))
    return Zones(**{"own": own, "home": own, "pods": nets("10.0.0.0/8 fd00::/16"), "nodes": frozenset(), **sets})


def names(rules: Ruleset, kind: str) -> set[str]:
    return {item.name.removeprefix("wt_") for item in rules if item.kind == kind and not item.element}


def elements(rules: Ruleset, name: str) -> set[str]:
    """Of a set that must be there."""
    assert Item("set", f"wt_{name}") in rules
    found = {item.element for item in rules if item.name == f"wt_{name}" and item.element}
    if not name.startswith("pods"):
        return found
    return {f"{first}/{USUAL[name[-1]]}" for first in found} | elements(rules, f"rest{name[-1]}")


def lines(rules: Ruleset, *names: str) -> list[str]:
    """The rules of these chains, of all without a name."""
    chains = [content for item, content in rules.items() if item.kind == "chain" and (item.name in names or not names)]
    return [line for chain in chains for line in chain if not line.startswith("type ")]


def told(chain: DroppingChain, *nodes: NodeFacts, **settings: Any) -> list[str]:
    facts = replace(host("a"), dropping_chains=frozenset({chain}))
    return [str(p) for p in plan(cluster(A, *nodes), config("a", **settings), facts).problems]


@pytest.mark.parametrize(
    ("masqueraded", "filtered", "firewall_only", "chains", "sets"),
    [
        ("", "", True, "", ""),
        ("4", "", True, "postrouting", "direct4 own4 pods4 rest4"),
        ("6", "", True, "postrouting", "direct6 own6 pods6 rest6"),
        ("46", "", True, "postrouting", "direct4 direct6 own4 own6 pods4 pods6 rest4 rest6"),
        ("", "4", True, "forward inbound4", "nodes4 own4 pods4 rest4"),
        ("", "6", True, "forward inbound6", "nodes6 own6 pods6 rest6"),
        ("4", "6", True, "forward inbound6 postrouting", "direct4 nodes6 own4 own6 pods4 pods6 rest4 rest6"),
        ("", "", False, DOORS, MESH),
        ("4", "", False, f"{DOORS} postrouting", f"{MESH} direct4"),
        ("", "6", False, DOORS, f"{MESH} nodes6"),
        ("46", "46", False, f"{DOORS} postrouting", f"{MESH} direct4 direct6 nodes4 nodes6"),
    ],
)
def test_a_feature_that_is_off_leaves_neither_a_rule_nor_a_set(
    *, masqueraded: str, filtered: str, firewall_only: bool, chains: str, sets: str
) -> None:
    rules = ruleset(A, B, masqueraded=versions(masqueraded), filtered=versions(filtered), firewall_only=firewall_only)

    assert (names(rules, "chain"), names(rules, "set")) == (set(chains.split()), set(sets.split()))
    assert {item.kind for item in rules} <= {"chain", "set"}


@pytest.mark.parametrize(("version", "ip", "other"), [(4, "ip ", "ip6"), (6, "ip6", "ip ")])
def test_a_family_that_is_not_masqueraded_is_never_rewritten(version: int, ip: str, other: str) -> None:
    (rule,) = lines(ruleset(A, B, masqueraded={version}), "wt_postrouting")

    assert rule.startswith(f"{ip.strip()} saddr @wt_own{version} ")
    assert other not in rule
    assert rule.endswith(" masquerade fully-random")
    assert "masquerade" not in " ".join(lines(ruleset(A, B, masqueraded={version}), "wt_forward", "wt_inbound4", "wt_inbound6"))


@pytest.mark.parametrize("version", [4, 6])
def test_a_family_that_is_not_filtered_never_meets_the_filter(version: int) -> None:
    rules = ruleset(A, B, filtered={version}, firewall_only=True)

    (jump,) = lines(rules, "wt_forward")
    assert re.fullmatch(rf"ip6? daddr @wt_own{version} jump wt_inbound{version}", jump)
    assert Item("chain", f"wt_inbound{10 - version}") not in rules


@pytest.mark.parametrize(("version", "ip", "mask"), [(4, "ip", "255.255.255.0"), (6, "ip6", "ffff:ffff:ffff:ffff::")])
def test_what_is_filtered_is_dropped_unless_a_rule_before_accepts_it(version: int, ip: str, mask: str) -> None:
    *doors, first, second, pods, rest, nodes, errors, last = lines(ruleset(A, B), f"wt_inbound{version}")

    assert doors == [
        f"{ip} saddr & {mask} == @wt_pods{version} fib saddr . iif oif missing drop",
        f"{ip} saddr @wt_rest{version} fib saddr . iif oif missing drop",
    ]
    assert (first, second, last) == ("ct state established,related accept", "ct status dnat accept", "drop")
    assert pods == f"{ip} saddr & {mask} == @wt_pods{version} accept"
    assert (rest, nodes) == (f"{ip} saddr @wt_rest{version} accept", f"{ip} saddr @wt_nodes{version} accept")
    wanted = {4: {"destination-unreachable"}, 6: {"packet-too-big", "nd-neighbor-solicit", "nd-neighbor-advert"}}
    assert wanted[version] <= {*re.findall(r"[\w-]+", errors)}
    assert errors.endswith(" accept")


def test_in_a_mesh_the_doors_are_watched_whatever_is_filtered_and_masqueraded() -> None:
    for digits in ("", "4", "6", "46"):
        rules = ruleset(A, B, filtered=versions(digits), masqueraded=versions(digits))

        forward, tunnel, outbound = (lines(rules, f"wt_{name}") for name in ("forward", "tunnel", "outbound"))
        assert forward[:2] == ['oifname "wigglenet" jump wt_tunnel', 'iifname "veth*" jump wt_outbound']
        assert (forward[2], tunnel[0]) == (f'iifname "wigglenet" {MSS}', MSS)
        for version, ip in ((4, "ip"), (6, "ip6")):
            returning = [line for line in lines(rules, f"wt_inbound{version}") if line.endswith("missing drop")]
            assert len(returning) == 2
            assert {*returning} < {*tunnel}
            assert f"iifname @wt_doors {ip} saddr != @wt_home{version} drop" in outbound


def test_the_link_is_the_one_of_the_settings() -> None:
    settings = replace(config("a"), link="wg7")

    assert lines(plan_firewall(settings, zones()), "wt_forward")[0] == 'oifname "wg7" jump wt_tunnel'


@given(SETTINGS, st.lists(NETWORKS, max_size=6))
def test_the_sets_are_exactly_those_that_a_rule_asks(settings: AgentConfig, networks: list[IPNetwork]) -> None:
    rules = plan_firewall(settings, zones(own=networks, pods=networks, nodes=networks, doors=["veth1"]))
    asked = {word.removeprefix("@wt_") for line in lines(rules) for word in line.split() if word.startswith("@")}

    assert asked == names(rules, "set")
    assert {Item(item.kind, item.name) for item in rules} <= rules.keys()
    assert {line.split()[-1] for line in lines(rules) if " jump " in line} <= {f"wt_{name}" for name in names(rules, "chain")}


@given(SETTINGS, st.lists(NETWORKS, max_size=6))
def test_no_rule_mixes_the_families(settings: AgentConfig, networks: list[IPNetwork]) -> None:
    rules = plan_firewall(settings, zones(own=networks, pods=networks, nodes=networks))

    for line in lines(rules):
        families = {4 if word == "ip" else 6 for word in re.findall(r"\bip6?(?= )", line)}
        families |= {int(digit) for digit in re.findall(r"@wt_[a-z]+([46])\b", line)}
        assert len(families) <= 1
    for item in rules:
        if item.element and item.name != "wt_doors":
            assert (":" in item.element) == item.name.endswith("6")


@given(SETTINGS, st.lists(NETWORKS, max_size=6), st.lists(NETWORKS, max_size=6))
def test_the_rules_depend_on_the_settings_alone(settings: AgentConfig, some: list[IPNetwork], more: list[IPNetwork]) -> None:
    before = plan_firewall(settings, zones(pods=some, nodes=more))
    after = plan_firewall(settings, zones(pods=more, nodes=some, doors=["veth1"]))

    assert {i: lines for i, lines in before.items() if not i.element} == {
        i: lines for i, lines in after.items() if not i.element
    }


def test_pods_networks_are_those_of_the_control_plane_and_those_that_agents_announce() -> None:
    silent = node("c", spec="10.3.0.0/24", public_key=None, internal="192.0.2.3")
    talking = node("d", pods="10.4.0.0/24 10.5.0.0/24 fd00:4::/64", spec="10.4.0.0/24", internal="192.0.2.4")
    rules = ruleset(A, silent, talking)

    assert elements(rules, "own4") == {"10.1.0.0/24"}
    assert elements(rules, "own6") == {"fd00:1::/64"}
    assert elements(rules, "pods4") == {"10.1.0.0/24", "10.3.0.0/24", "10.4.0.0/24", "10.5.0.0/24"}
    assert elements(rules, "pods6") == {"fd00:1::/64", "fd00:4::/64"}


def test_a_network_that_only_this_nodes_own_annotation_has_is_nobodys() -> None:
    rules = ruleset(replace(A, pod_cidrs=nets("10.9.0.0/24")))

    assert elements(rules, "own4") == {"10.1.0.0/24"}
    assert elements(rules, "pods4") == {"10.1.0.0/24"}


def test_own_neighbours_are_one_network() -> None:
    rules = ruleset(replace(A, spec_pod_cidrs=nets("10.1.0.0/25 10.1.0.128/25 fd00:1::/64"), pod_cidrs=nets("")))

    assert elements(rules, "own4") == {"10.1.0.0/24"}
    assert elements(rules, "pods4") == {"10.1.0.0/25", "10.1.0.128/25"}


def test_what_was_refused_is_in_no_set() -> None:
    thief = node("c", pods="10.2.0.0/25 10.1.0.7/32 127.0.0.0/8 10.3.0.0/24", spec="", internal="192.0.2.2 127.0.0.1 192.0.2.3")
    rules = ruleset(A, B, replace(thief, created="2026-01-02T00:00:00Z"))

    assert elements(rules, "pods4") == {"10.1.0.0/24", "10.2.0.0/24", "10.3.0.0/24"}
    assert elements(rules, "nodes4") == {"192.0.2.1", "192.0.2.2", "192.0.2.3"}


def test_a_pod_network_over_a_service_range_is_in_no_set() -> None:
    facts = ClusterState(nodes=frozenset({A, B}), services=nets("10.2.0.0/16"))
    desired = plan(facts, config("a", **EVERYTHING), host("a")).desired
    assert desired

    assert elements(desired.firewall, "pods4") == {"10.1.0.0/24"}


def test_every_address_of_the_status_is_a_nodes_with_or_without_an_agent() -> None:
    silent = node("c", public_key=None, internal="192.0.2.3", external="198.18.0.3 2001:db8::3")

    assert elements(ruleset(A, silent), "nodes4") == {"192.0.2.1", "192.0.2.3", "198.18.0.3"}
    assert elements(ruleset(A, silent), "nodes6") == {"2001:db8::1", "2001:db8::3"}


@pytest.mark.parametrize(
    ("internal", "node_ips", "nodes4", "nodes6"),
    [
        ("192.0.2.3", "198.18.0.3", "192.0.2.1 192.0.2.3", "2001:db8::1"),
        ("", "198.18.0.3 198.18.0.4 2001:db8::3", "192.0.2.1 198.18.0.3", "2001:db8::1"),
        ("fe80::1", "2001:db8::3 198.18.0.3", "192.0.2.1", "2001:db8::1 2001:db8::3"),
        ("", "192.0.2.1", "192.0.2.1", "2001:db8::1"),
    ],
)
def test_an_address_that_only_an_agent_says_is_a_nodes_if_its_peers_talk_to_it(
    internal: str, node_ips: str, nodes4: str, nodes6: str
) -> None:
    rules = ruleset(A, node("c", internal=internal, node_ips=node_ips))

    assert elements(rules, "nodes4") == set(nodes4.split())
    assert elements(rules, "nodes6") == set(nodes6.split())


def test_of_two_families_the_chosen_endpoint_is_of_one_that_this_node_has() -> None:
    only_six = replace(A, internal_ips=A.internal_ips[1:])
    rules = ruleset(only_six, node("c", node_ips="198.18.0.3 2001:db8::3"))

    assert elements(rules, "nodes4") == set()
    assert elements(rules, "nodes6") == {"2001:db8::1", "2001:db8::3"}


def test_a_node_that_is_gone_is_in_the_sets_for_as_long_as_it_is_remembered_and_nobody_else_has_it() -> None:
    gone, heir = replace(B, departed=True), node("c", pods="10.2.0.0/25", spec="", internal="192.0.2.2")

    assert ruleset(A, gone) == ruleset(A, B)
    rules = ruleset(A, gone, heir)
    assert elements(rules, "pods4") == {"10.1.0.0/24", "10.2.0.0/25"}
    assert elements(rules, "pods6") == {"fd00:1::/64", "fd00:2::/64"}
    assert elements(ruleset(A), "pods4") == {"10.1.0.0/24"}


def test_to_direct_destinations_pods_keep_their_addresses() -> None:
    rules = ruleset(A, non_masquerade=nets("172.16.0.0/12 172.16.3.0/24 224.0.0.0/3 2001:db8::/32"))

    assert elements(rules, "direct4") == {"169.254.0.0/16", "172.16.0.0/12", "224.0.0.0/3"}
    assert elements(rules, "direct6") == {"2001:db8::/32", "fe80::/10", "ff00::/8"}
    assert elements(ruleset(A), "direct4") == {"169.254.0.0/16", "224.0.0.0/4"}


def test_other_nodes_addresses_are_masqueraded_as_the_world_is() -> None:
    assert "@wt_nodes" not in " ".join(lines(ruleset(A, B), "wt_postrouting"))


@pytest.mark.parametrize(
    ("link", "to", "is_door"),
    [
        ("veth1a2b", "10.1.0.7/32", True),
        ("veth1a2b", "fd00:1::7/128", True),
        ("veth1a2b", "10.2.0.7/32", False),
        ("veth1a2b", "10.1.0.0/24", False),
        ("veth1a2b", "fd00:2::7/128", False),
        ("eth0", "10.1.0.7/32", False),
        ("wigglenet", "10.1.0.7/32", False),
        ("myveth0", "10.1.0.7/32", False),
        ("", "10.1.0.7/32", False),
    ],
)
def test_a_door_is_a_veth_with_a_host_route_into_own_networks(link: str, to: str, *, is_door: bool) -> None:
    (network,) = nets(to)
    route = ForeignRoute(to=network, metric=0, link=link)
    rules = ruleset(A, B, facts=replace(host("a"), foreign_routes=frozenset({route})))

    assert elements(rules, "doors") == ({f'"{link}"'} if is_door else set())


def test_a_pod_of_two_families_has_one_door_and_each_pod_its_own() -> None:
    own = nets("10.1.0.0/24 fd00:1::/64")
    both = [ForeignRoute(to=n, metric=0, link="veth1") for n in nets("10.1.0.7/32 fd00:1::7/128")]
    another = [ForeignRoute(to=n, metric=0, link="veth2") for n in nets("10.1.0.8/32 fd00:1::8/128")]

    assert plan_doors(iter(own), iter(both)) == {"veth1"}
    assert plan_doors(iter(own), iter(both + another)) == {"veth1", "veth2"}


@given(st.lists(NETWORKS), RANDOMS)
def test_the_outermost_networks_hold_the_same_addresses_each_once(networks: list[IPNetwork], random: Random) -> None:
    kept = list(outermost(networks))

    assert {*kept} <= {*networks}
    assert [n for n in networks if not any(overlap(n, k) and k.prefixlen <= n.prefixlen for k in kept)] == []
    assert [(one, other) for i, one in enumerate(kept) for other in kept[:i] if overlap(one, other)] == []
    assert list(outermost(kept)) == kept
    assert list(outermost(random.sample(networks, len(networks)))) == kept
    assert kept == sorted(kept, key=lambda n: (n.version, n))


@pytest.mark.parametrize(
    ("networks", "kept"),
    [
        ("10.0.0.0/24 10.0.1.0/24", "10.0.0.0/24 10.0.1.0/24"),
        ("255.255.255.255/32 255.0.0.0/8 0.0.0.0/32", "0.0.0.0/32 255.0.0.0/8"),
        ("0.0.0.0/0 ::/0 ::1/128 10.0.0.0/8", "0.0.0.0/0 ::/0"),
        ("10.0.0.0/8 ::a00:0/128", "10.0.0.0/8 ::a00:0/128"),
        ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128 ::/128", "::/128 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128"),
    ],
)
def test_the_outermost_networks_at_the_edges(networks: str, kept: str) -> None:
    assert {*outermost(nets(networks))} == nets(kept)


def test_firewall_only_plans_nothing_else() -> None:
    settings = config("a", **EVERYTHING, firewall_only=True)
    for facts in (HostFacts(), host("a")):
        planned = plan(cluster(A, B), settings, facts).desired

        assert planned
        assert planned == DesiredState(firewall=planned.firewall)
        assert names(planned.firewall, "chain") == {"forward", "inbound4", "inbound6", "postrouting"}
        assert not [line for line in lines(planned.firewall) if "wigglenet" in line or "doors" in line]


def test_firewall_only_needs_no_key_and_no_agent_on_the_others() -> None:
    bare = [replace(n, public_key=None, pod_cidrs=nets("")) for n in (A, B)]

    assert ruleset(*bare, firewall_only=True) == ruleset(A, B, firewall_only=True, facts=HostFacts())


def test_firewall_only_waits_for_a_pod_network_as_well() -> None:
    bare = replace(A, spec_pod_cidrs=nets(""), pod_cidrs=nets(""))
    planned = plan(cluster(bare), config("a", **EVERYTHING, firewall_only=True), HostFacts())

    assert planned.desired is None


@pytest.mark.parametrize("firewall_only", [False, True])
@pytest.mark.parametrize(
    ("seen", "accepted", "harmed"),
    [
        ({4}, "", "10.1.0.0/24"),
        ({6}, "", "fd00:1::/64"),
        ({4, 6}, "", "fd00:1::/64 and 10.1.0.0/24"),
        ({4}, "10.1.0.0/24", ""),
        ({4}, "10.0.0.0/8", ""),
        ({4}, "0.0.0.0/0", ""),
        ({4}, "10.1.0.0/25", "10.1.0.0/24"),
        ({4}, "10.2.0.0/24 fd00:1::/64", "10.1.0.0/24"),
        ({4, 6}, "10.1.0.0/16", "fd00:1::/64"),
        ({4, 6}, "10.1.0.0/16 fd00::/8", ""),
        ({4}, "::/0", "10.1.0.0/24"),
    ],
)
def test_a_chain_that_drops_is_a_problem_unless_it_accepts_own_networks(
    *, firewall_only: bool, seen: set[int], accepted: str, harmed: str
) -> None:
    chain = DroppingChain(name="ip filter FORWARD", versions=frozenset(seen), accepted=nets(accepted))
    texts = told(chain, firewall_only=firewall_only)

    assert len(texts) == bool(harmed)
    for text in texts:
        assert text.startswith("chain ip filter FORWARD: it drops what is forwarded")
        assert f"accepts nothing of {harmed};" in text


def test_others_networks_need_not_be_accepted_by_a_chain_that_drops() -> None:
    chain = DroppingChain(name="ip filter FORWARD", versions=frozenset({4}), accepted=nets("10.1.0.0/24"))

    assert told(chain, B) == []


def test_a_chain_that_drops_a_family_without_own_pods_harms_nobody() -> None:
    chain = DroppingChain(name="ip6 filter FORWARD", versions=frozenset({6}), accepted=frozenset())
    facts = replace(host("a"), dropping_chains=frozenset({chain}))

    settings = config("a", sources={4: PodNetworkSource.SPEC, 6: PodNetworkSource.NONE})
    assert not plan(cluster(node("a", pods="10.1.0.0/24", internal="192.0.2.1")), settings, facts).problems


@given(MIXED, RANDOMS, SETTINGS)
def test_the_order_of_nodes_makes_no_difference(nodes: list[NodeFacts], random: Random, settings: AgentConfig) -> None:
    own = node("a", pods="10.0.0.0/24 fd00::/64", internal="192.0.2.1", uid="own", created="2027-01-01T00:00:00Z")
    everybody = [own, *nodes]
    one, other = (
        plan(ClusterState(nodes=frozenset(some)), settings, HostFacts() if settings.firewall_only else host("a")).desired
        for some in (everybody, random.sample(everybody, len(everybody)))
    )

    assert (one and one.firewall) == (other and other.firewall)


@given(st.lists(NETWORKS, max_size=8), st.lists(NETWORKS, max_size=8), RANDOMS, SETTINGS)
def test_the_order_of_networks_and_repeats_make_no_difference(
    pods: list[IPNetwork], others: list[IPNetwork], random: Random, settings: AgentConfig
) -> None:
    def shuffled(networks: list[IPNetwork]) -> list[IPNetwork]:
        return random.sample(networks * 2, 2 * len(networks))

    one = plan_firewall(settings, zones(own=pods, pods=[*pods, *others], nodes=others, doors=["veth1", "veth2"]))
    again = zones(own=shuffled(pods), pods=shuffled([*others, *pods]), nodes=shuffled(others), doors=["veth2", "veth1"])

    assert plan_firewall(settings, again) == one


def test_a_node_that_comes_is_a_change_of_its_elements_only() -> None:
    before, after = ruleset(A, B), ruleset(A, B, C)

    assert before.items() < after.items()
    assert {f"{item.name} {item.element}" for item in after.keys() - before.keys()} == {
        "wt_pods4 10.3.0.0",
        "wt_nodes4 192.0.2.3",
    }


def test_the_least_and_the_greatest_network_are_elements() -> None:
    rules = plan_firewall(
        config("a", **EVERYTHING), zones(own=[IPv4Network("0.0.0.0/0"), IPv6Network("::/0")], nodes=nets("255.255.255.255/32"))
    )

    assert elements(rules, "own4") == {"0.0.0.0/0"}
    assert elements(rules, "own6") == {"::/0"}
    assert elements(rules, "nodes4") == {"255.255.255.255"}


def test_the_key_of_another_node_does_not_matter_to_the_firewall() -> None:
    assert ruleset(A, replace(B, public_key=key("a"))) == ruleset(A, B)


def test_pods_keep_their_door_when_their_network_cannot_be_used_any_more() -> None:
    """A range of Services that was made by mistake must not cut off those that run."""
    facts = replace(host("a"), foreign_routes=frozenset({ForeignRoute(IPv4Network("10.1.0.7/32"), 0, "veth1")}))
    overlapped = replace(cluster(A), services=nets("10.1.0.0/16"))
    desired = plan(overlapped, config("a", **EVERYTHING), facts).desired

    assert desired
    assert elements(desired.firewall, "doors") == {'"veth1"'}
    assert elements(desired.firewall, "home4") == {"10.1.0.0/24"}
    assert elements(desired.firewall, "own4") == set()
