"""Our table on the real kernel: what was written is read back, what others do to it is seen, no plan is refused.

Everything is in a throw-away network namespace; the machine's own tables are not touched.
"""

import asyncio
import logging
import os
import subprocess
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import pytest

from tests.builders import cluster, config, host, key, nets, node, numbered
from tests.contract.tables import brought_to
from tests.lab.namespaces import CommandError, Place
from wigglenet_operator.errors import KernelError
from wigglenet_operator.kernel import nft_watch
from wigglenet_operator.kernel.leftovers import LeftoverTable
from wigglenet_operator.kernel.nft import NftTable, nft
from wigglenet_operator.kernel.nft_others import OtherTables
from wigglenet_operator.kernel.nft_text import render, render_replacement
from wigglenet_operator.kernel.nft_watch import NftWatch
from wigglenet_operator.model.changes import diff
from wigglenet_operator.model.facts import (
    ClusterState,
    DroppingChain,
    ForeignRoute,
    HostFacts,
    IPAddress,
    IPNetwork,
    NodeFacts,
    NodeName,
    NodeUID,
)
from wigglenet_operator.model.ruleset import Content, Item, Ruleset, element_text
from wigglenet_operator.plan.firewall import FORWARD, POSTROUTING, Zones, outermost, plan_firewall
from wigglenet_operator.plan.planner import plan

T = TypeVar("T")
PLANS = 10_000
BOTH = frozenset({4, 6})
OWN = numbered(0, name="a")
OTHER_TABLE = "table ip other { chain c { type filter hook input priority 0; }; }"


def planned(*nodes: NodeFacts, doors: str = "", **settings: Any) -> Ruleset:
    """The table of node a among these."""
    routes = frozenset(ForeignRoute(to=n, metric=0, link=door) for door in doors.split() for n in nets("10.1.0.7/32"))
    facts = replace(host("a"), foreign_routes=routes)
    desired = plan(cluster(OWN, *nodes), config("a", **{"filtered": BOTH, **settings}), facts).desired
    assert desired
    return desired.firewall


WANTED = planned(numbered(1), numbered(2), doors="veth1")


@dataclass
class Calls:
    """Of `nft`, by arguments, and with what text."""

    made: list[tuple[str, ...]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    @property
    def listings(self) -> int:
        return sum("list" in arguments for arguments in self.made)

    async def __call__(self, *arguments: str, text: str = "", missing: str | None = None) -> str:
        self.made.append(arguments)
        if text:
            self.texts.append(text)
        return await nft(*arguments, text=text, missing=missing)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    counted = Calls()
    for module in ("nft", "nft_others"):
        monkeypatch.setattr(f"wigglenet_operator.kernel.{module}.nft", counted)
    return counted


class Tables(NftTable):
    """Ours, and what is known of the others."""

    def __init__(self, watch: NftWatch) -> None:
        super().__init__(watch)
        self.others = OtherTables(watch)


@dataclass
class Bench:
    """A place, and tables that are ours in it."""

    place: Place

    @contextmanager
    def watch(self) -> Iterator[NftWatch]:
        with self.place.network():
            opened = NftWatch()
            try:
                yield opened
            finally:
                opened.close()

    def run(self, work: Callable[[Tables], Awaitable[T]]) -> T:
        """The result of one coroutine with a fresh table."""

        async def main(watch: NftWatch) -> T:
            return await work(Tables(watch))

        with self.watch() as watch:
            return asyncio.run(main(watch))

    async def fresh(self) -> Ruleset:
        """What one that knows nothing reads."""
        with self.watch() as watch:
            return await NftTable(watch).observe()

    def others(self, *commands: str) -> None:
        """What another process does, in one transaction."""
        with self.place.network():
            done = subprocess.run(
                ["nft", "-f", "-"], input="\n".join(commands) + "\n", text=True, capture_output=True, check=False
            )
        assert done.returncode == 0, done.stderr

    def listed(self) -> str:
        return self.place.run("nft", "-s", "list", "ruleset")


@pytest.fixture
def bench(place: Place) -> Bench:
    return Bench(place)


STATES: list[Ruleset] = [
    planned(),
    planned(numbered(1)),
    planned(numbered(1), doors="veth1 veth2"),
    planned(*map(numbered, range(1, 300)), doors="veth2"),
    planned(*map(numbered, range(1, 300, 7))),
    planned(numbered(1), filtered=frozenset()),
    planned(numbered(1), filtered=frozenset({6}), masqueraded=frozenset()),
    planned(numbered(1), masqueraded=frozenset({4}), non_masquerade=nets("172.16.0.0/12 2001:db8::/32")),
    planned(numbered(1), firewall_only=True),
    planned(numbered(1), firewall_only=True, filtered=frozenset(), masqueraded=frozenset()),
    planned(node("b", pods="10.2.0.0/25 10.2.0.128/25", internal="255.255.255.254 192.0.2.9")),
    planned(node("b", pods="10.2.0.0/24 ::7.0.0.0/112", internal="::7.1.0.1", created="2026-01-02T00:00:00Z")),
    {},
]


def test_what_was_applied_is_observed_by_a_fresh_reader_and_leaves_no_difference(bench: Bench) -> None:
    async def walk(table: Tables) -> None:
        for state in STATES + STATES[::-1]:
            await brought_to(table, state)
            assert await bench.fresh() == state
            assert await table.observe() == state
            assert not diff(await table.observe(), state)

    bench.run(walk)
    assert "wigglenet" in bench.listed()


def test_without_a_rule_there_is_no_table(bench: Bench) -> None:
    async def walk(table: Tables) -> None:
        await brought_to(table, WANTED)
        await brought_to(table, {})

    bench.run(walk)
    assert bench.listed() == ""


def test_what_is_as_it_should_be_is_neither_written_nor_listed_again(bench: Bench, calls: Calls) -> None:
    async def walk(table: Tables) -> None:
        await brought_to(table, WANTED)
        with bench.watch() as watch:
            generation, made = watch.generation(), len(calls.made)
            for _ in range(3):
                await brought_to(table, planned(numbered(1), numbered(2), doors="veth1"))
            written = calls.made[made:]
            assert watch.generation() == generation
            assert [arguments for arguments in written if "list" in arguments] == []

    bench.run(walk)


def test_own_writes_cause_no_listing(bench: Bench, calls: Calls) -> None:
    async def walk(table: Tables) -> None:
        for state in STATES:
            await brought_to(table, state)

    bench.run(walk)
    assert calls.listings == 1


def test_ten_elements_that_change_are_one_transaction_of_that_size(bench: Bench, calls: Calls) -> None:
    many = [numbered(n) for n in range(1, 1000)]

    async def walk(table: Tables) -> None:
        await brought_to(table, planned(*many))
        calls.texts.clear()
        await brought_to(table, planned(*many[:-2], numbered(1001)))

    bench.run(walk)
    (text,) = calls.texts
    assert len(text) < 700
    assert "delete table" not in text


def test_a_change_of_everything_at_once_is_two_transactions_and_a_small_one_is_one(bench: Bench) -> None:
    async def walk(table: Tables) -> None:
        await brought_to(table, STATES[5])
        with bench.watch() as watch:
            before = watch.generation()
            await brought_to(table, STATES[7])
            assert watch.generation() == before + 2
            await brought_to(table, {**STATES[7], Item("set", "wt_doors", '"veth7"'): ""})
            assert watch.generation() == before + 3

    bench.run(walk)


def test_a_table_that_was_of_another_shape_is_replaced_in_one(bench: Bench, calls: Calls) -> None:
    bench.others("table inet wigglenet { set wt_pods4 { type ether_addr; }; chain forward { drop; }; }")

    async def walk(table: Tables) -> None:
        await brought_to(table, WANTED)
        assert await bench.fresh() == WANTED

    bench.run(walk)
    assert calls.texts == [render_replacement(WANTED)]


V4: list[IPNetwork] = [
    *map(
        IPv4Network,
        ("10.0.0.0/8", "10.1.0.0/24", "10.1.0.7/32", "0.0.0.0/1", "128.0.0.0/1", "255.255.255.255/32", "0.0.0.0/32"),
    )
]
V6: list[IPNetwork] = [
    *map(IPv6Network, ("fd00:1::/64", "::ffff:0:0/96", "::ffff:10.0.0.1/128", "::10.0.0.0/112", "::1/128", "::/128")),
    *map(IPv6Network, ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128", "8000::/1", "64:ff9b::/96", "2001:db8::1:0:0:1/128")),
]
LAST = {"255.255.255.255", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"}
RULES = [
    *planned(numbered(1))[Item("chain", "wt_inbound4")],
    "counter drop",
    "tcp dport { 80, 443 } accept",
    "meta l4proto { tcp, udp } accept",
    "ip saddr 10.1.0.0/24 ip daddr 10.2.0.7 tcp dport 1-1023 drop",
    "ip6 saddr ::ffff:10.0.0.1 return",
    'iifname "veth1" drop comment "a, b } c"',
    "ip saddr . tcp dport @wt_concat accept",
    "ip6 saddr . tcp dport @wt_ranges drop",
    "ip saddr . tcp dport vmap @wt_services",
]


def random_networks(random: Random, version: int) -> list[IPNetwork]:
    """Disjoint ones: at the edges, ordinary ones, single addresses."""
    edges: Sequence[IPNetwork] = V4 if version == 4 else V6
    found = random.sample(edges, random.randint(0, 4))
    for _ in range(random.randint(0, 6)):
        bits = random.getrandbits(32 if version == 4 else 128)
        length = random.randint(1, 32 if version == 4 else 128)
        made: type[Any] = IPv4Network if version == 4 else IPv6Network
        found.append(made((bits, length), strict=False))
    return [*outermost(found)]


def random_ruleset(random: Random) -> Ruleset:
    """Of rules that are here as nft writes them, with the sets and chains that they name."""
    called = [f"wt_call{n}" for n in range(random.randint(1, 4))]
    verdicts = ["accept", "drop", *(f"{verb} {name}" for verb in ("jump", "goto") for name in called[:1])]
    found: dict[Item, Content] = {}

    def holder(kind: str, name: str, definition: str, elements: dict[str, str], *flags: str) -> None:
        if random.random() < 0.8:
            found[Item(kind, name)] = (f"typeof {definition}", *flags)
            found.update({Item(kind, name, element): verdict for element, verdict in elements.items()})

    ports = partial(random.randint, 1, 65535)
    networks = {v: [element_text(n) for n in random_networks(random, v)] for v in BOTH}
    singles = {str(IPv4Address(random.getrandbits(32))) for _ in range(random.randint(0, 5))}
    for v, ip in ((4, "ip"), (6, "ip6")):
        for zone in ("own", "pods", "nodes"):
            holder(
                "set", f"wt_{zone}{v}", f"{ip} saddr", dict.fromkeys(networks[v][random.randint(0, 2) :], ""), "flags interval"
            )
        # nft 1.0.6 takes the last address of all out of a set, but not out of a map, where it is silent
        inside = {element: random.choice(verdicts) for element in networks[v] if element not in LAST}
        holder("map", f"wt_verdict{v}", f"{ip} daddr : verdict", inside, "flags interval")
    holder("set", "wt_doors", "iifname", {f'"veth{n}"': "" for n in range(random.randint(0, 4))})
    holder("set", "wt_concat", "ip saddr . tcp dport", {f"{address} . {ports()}": "" for address in singles})
    ranges = {f"{network} . {low}-{low + 9}": "" for network in networks[6] for low in [random.randint(1, 9000)]}
    holder("set", "wt_ranges", "ip6 saddr . tcp dport", ranges, "flags interval")
    services = {f"{address} . {ports()}": random.choice(["accept", "drop"]) for address in singles}
    holder("map", "wt_services", "ip saddr . tcp dport : verdict", services)
    for number, name in enumerate(called):
        rules = [rule for rule in random.sample(RULES, random.randint(0, 5)) if known(rule, found)]
        found[Item("chain", name)] = (*rules, *(f"jump {other}" for other in called[number + 1 :] if random.random() < 0.3))
    rewriting = planned(numbered(1))[Item("chain", "wt_postrouting")]
    vmaps = ("ip daddr vmap @wt_verdict4", "ip6 daddr vmap @wt_verdict6", f"ip saddr 10.0.0.0/8 jump {called[-1]}")
    for name, hook, lines in (
        ("wt_forward", FORWARD.replace("accept", random.choice(["accept", "accept", "drop"])), vmaps),
        ("wt_postrouting", POSTROUTING, rewriting[1:]),
    ):
        if random.random() < 0.8:
            found[Item("chain", name)] = (hook, *(line for line in lines if known(line, found) and random.random() < 0.7))
    return found


def known(rule: str, found: Ruleset) -> bool:
    """Whether all sets that a rule names are there."""
    names = {item.name for item in found}
    return all(word[1:] in names for word in rule.split() if word.startswith("@"))


@pytest.mark.parametrize("seed", range(4))
def test_any_ruleset_is_read_back_as_it_was_written_by_replacement_and_by_difference(bench: Bench, seed: int) -> None:
    random = Random(seed)  # noqa: S311 - a test's dice

    async def walk(table: Tables) -> None:
        for number in range(75):
            state = random_ruleset(random)
            if number % 5 == 0:
                await nft("-f", "-", text=render_replacement(state))
                assert await table.observe() == state
            else:
                await brought_to(table, state)
                assert await table.observe() == state
            assert await bench.fresh() == state, number

    bench.run(walk)


def random_nodes(random: Random) -> list[NodeFacts]:
    """A few Nodes that overlap, nest, repeat and lie, and node a with a network."""

    def network() -> IPNetwork:
        kind = random.random()
        if kind < 0.1:
            return random.choice([*V4, *V6])
        if kind < 0.6:
            return IPv4Network((0x0A000000 + (random.randint(0, 5) << 20), random.randint(7, 32)), strict=False)
        return IPv6Network(((0xFD00 << 112) + (random.randint(0, 5) << 64), random.randint(15, 128)), strict=False)

    def networks(most: int) -> frozenset[IPNetwork]:
        return frozenset(network() for _ in range(random.randint(0, most)))

    def addresses(most: int) -> tuple[IPAddress, ...]:
        pool: list[IPAddress] = [
            IPv4Address(0xC0000200 + random.randint(0, 6)),
            IPv4Address(0x0A000007 + (random.randint(0, 5) << 20)),
        ]
        pool += [IPv6Address((0xFD00 << 112) + (random.randint(0, 5) << 64) + 9), IPv6Address(random.getrandbits(40))]
        pool += [IPv4Address(0xFFFFFFFF), IPv6Address("::ffff:192.0.2.1"), IPv6Address("fe80::1")]
        return tuple(random.choice(pool) for _ in range(random.randint(0, most)))

    others = [
        NodeFacts(
            uid=NodeUID(f"uid-{number}"),
            name=NodeName(random.choice("abcdef")),
            created=random.choice(["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", ""]),
            spec_pod_cidrs=networks(2),
            internal_ips=addresses(2),
            external_ips=addresses(1),
            public_key=random.choice([None, *map(key, "abc")]),
            pod_cidrs=networks(3),
            node_ips=addresses(2),
            departed=random.random() < 0.2,
        )
        for number in range(random.randint(0, 5))
    ]
    own = node("a", pods=random.choice(["10.0.0.0/24 fd00::/64", "10.0.0.0/24", "fd00::/64", "10.0.0.0/25 10.0.0.128/26"]))
    return [*others, replace(own, uid=NodeUID("own"), created="2027-01-01T00:00:00Z")]


def random_plan(random: Random) -> Ruleset:
    """What node a plans with any settings among any Nodes."""
    versions = [frozenset[int](), frozenset({4}), frozenset({6}), BOTH]
    settings = config(
        masqueraded=random.choice(versions),
        filtered=random.choice(versions),
        firewall_only=random.random() < 0.3,
        non_masquerade=frozenset(random.choice([*V4, *V6]) for _ in range(random.randint(0, 3))),
    )
    inside = [*nets("10.0.0.7/32 10.0.0.8/32 fd00::7/128")]
    routes = [ForeignRoute(to=random.choice(inside), metric=0, link=f"veth{number}") for number in range(random.randint(0, 3))]
    facts = HostFacts() if settings.firewall_only else replace(host("a"), foreign_routes=frozenset(routes))
    desired = plan(ClusterState(nodes=frozenset(random_nodes(random))), settings, facts).desired
    assert desired
    return desired.firewall


def test_the_kernel_refuses_none_of_ten_thousand_plans(bench: Bench) -> None:
    """As tables of different names, many to a transaction that is checked by the kernel and then not made."""
    random = Random(20260101)  # noqa: S311 - a test's dice
    plans = [random_plan(random) for _ in range(PLANS)]
    texts = {render(rules) for rules in plans} - {""}
    assert len(texts) > PLANS / 2
    renamed = [
        text.replace("table inet wigglenet {", f"table inet t{number} {{", 1) for number, text in enumerate(sorted(texts))
    ]
    with bench.place.network():
        for first in range(0, len(renamed), 100):
            done = subprocess.run(
                ["nft", "-c", "-f", "-"],
                input="".join(renamed[first : first + 100]),
                text=True,
                capture_output=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr[:2000]
    assert bench.listed() == ""


def test_a_sample_of_random_plans_is_read_back_as_it_was_written(bench: Bench) -> None:
    random = Random(20260102)  # noqa: S311 - a test's dice

    async def walk(table: Tables) -> None:
        for _ in range(150):
            state = random_plan(random)
            await brought_to(table, state)
            assert await bench.fresh() == state

    bench.run(walk)


@pytest.mark.parametrize("name", ["veth.1", "veth-1", "veth_1", "veth1a2b3c4d"])
def test_the_name_of_a_door_is_read_back_whatever_it_means_to_nft(bench: Bench, name: str) -> None:
    async def walk(table: Tables) -> None:
        await brought_to(table, planned(doors=name))
        assert await bench.fresh() == planned(doors=name)

    bench.run(walk)


@pytest.mark.parametrize("name", ['veth"1', "veth*", "veth,1"])
def test_the_name_of_a_link_that_nft_cannot_say_spoils_nothing_else(bench: Bench, name: str) -> None:
    async def walk(table: Tables) -> None:
        await brought_to(table, planned(doors=name))
        assert not diff(await bench.fresh(), planned(doors=name))

    bench.run(walk)


def test_networks_that_nest_or_repeat_are_refused_where_nobody_has_sorted_them_out(bench: Bench) -> None:
    """So that the tests above can fail."""
    rules = planned(numbered(1))
    nested = {**rules, **{Item("set", "wt_rest4", text): "" for text in ("10.64.0.0/16", "10.64.1.0/24")}}

    async def write(table: Tables) -> None:
        with pytest.raises(KernelError, match="conflicting intervals"):
            await brought_to(table, nested)

    bench.run(write)


NETLINK_NO_ENOBUFS = 5  # linux/netlink.h
P = "inet wigglenet"
EDITS = {
    "flush": f"flush table {P}",
    "delete": f"delete table {P}",
    "flush ruleset": "flush ruleset",
    "element more": f"add element {P} wt_own4 {{ 10.200.0.0/24 }}",
    "element less": f"delete element {P} wt_pods4 {{ 10.1.2.0 }}",
    "element wider": f"delete element {P} wt_direct4 {{ 169.254.0.0/16 }}; add element {P} wt_direct4 {{ 169.254.0.0/15 }}",
    "element commented": f'delete element {P} wt_pods4 {{ 10.1.2.0 }}\nadd element {P} wt_pods4 {{ 10.1.2.0 comment "x" }}',
    "door less": f'delete element {P} wt_doors {{ "veth1" }}',
    "set empty": f"flush set {P} wt_own6",
    "rule first": f"insert rule {P} wt_forward accept",
    "rule last": f"add rule {P} wt_inbound4 accept",
    "rule commented": f'insert rule {P} wt_inbound4 ip saddr 10.0.0.1 counter accept comment "mine, {{ not }} yours"',
    "rules lost": f"flush chain {P} wt_postrouting",
    "policy": f"add chain {P} wt_forward {{ policy drop; }}",
    "hook elsewhere": f"delete chain {P} wt_postrouting\n"
    f"add chain {P} wt_postrouting {{ type nat hook postrouting priority 99; }}",
    "chain more": f"add chain {P} theirs; add rule {P} theirs drop; insert rule {P} wt_forward jump theirs",
    "set more": f"add set {P} theirs {{ type ipv4_addr; }}",
    "set redefined": f"flush table {P}; delete set {P} wt_pods4;"
    f" add set {P} wt_pods4 {{ type ipv4_addr; flags interval, timeout; }}",
    "counter more": f"add counter {P} theirs",
    "dormant": f"add table {P} {{ flags dormant; }}",
    "table commented": f'delete table {P}\ntable {P} {{\n comment "theirs"\n}}',
    "table of another shape": f"delete table {P}\n"
    f"table {P} {{ set wt_pods4 {{ type ether_addr; }}; chain forward {{ drop; }}; }}",
}


@pytest.mark.parametrize("edit", EDITS)
def test_what_others_do_to_the_table_is_seen_named_and_undone(
    bench: Bench, edit: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def walk(table: Tables) -> None:
        await brought_to(table, WANTED)
        bench.others(EDITS[edit])
        assert diff(await table.observe(), WANTED)
        await brought_to(table, WANTED)
        assert await bench.fresh() == WANTED
        assert not diff(await table.observe(), WANTED)

    with caplog.at_level(logging.WARNING):
        bench.run(walk)
    (message,) = caplog.messages
    assert message.startswith("table inet wigglenet was changed by somebody else: process nft, pid ")
    assert message.endswith("; it is put back")


def test_comments_with_commas_on_elements_are_undone_at_once(bench: Bench) -> None:
    async def walk(table: Tables) -> None:
        await brought_to(table, WANTED)
        bench.others(
            f"delete element {P} wt_pods4 {{ 10.1.1.0, 10.1.2.0 }}",
            f'add element {P} wt_pods4 {{ 10.1.1.0 comment "x, y }}", 10.1.2.0 comment "z" }}',
        )
        await brought_to(table, WANTED)
        assert await bench.fresh() == WANTED

    bench.run(walk)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(
            {
                Item("chain", "wt_kept"): ("drop",),
                Item("chain", "wt_gone"): ("drop",),
                Item("map", "wt_gone_map"): ("typeof ip saddr : verdict",),
                Item("map", "wt_gone_map", "10.1.0.7"): "jump wt_gone",
            },
            {Item("chain", "wt_kept"): ("drop",)},
            id="a map and the chain that it calls go together",
        ),
        pytest.param(
            {Item("chain", "wt_kept"): ("drop",), Item("set", "wt_zone"): ("typeof ip saddr",)},
            {Item("chain", "wt_kept"): ("drop",), Item("map", "wt_zone"): ("typeof ip saddr : verdict",)},
            id="a map takes the name of a set",
        ),
    ],
)
def test_a_map_that_goes_or_comes_needs_no_second_turn(bench: Bench, before: Ruleset, after: Ruleset) -> None:
    async def walk(table: Tables) -> None:
        await brought_to(table, before)
        await brought_to(table, after)
        assert await bench.fresh() == after

    bench.run(walk)


def test_what_others_have_undone_themselves_is_no_news(bench: Bench, caplog: pytest.LogCaptureFixture, calls: Calls) -> None:
    async def walk(table: Tables) -> None:
        await brought_to(table, WANTED)
        bench.others(f"add element {P} wt_doors {{ veth9 }}")
        bench.others(f"delete element {P} wt_doors {{ veth9 }}")
        assert await table.observe() == WANTED

    bench.run(walk)
    assert calls.listings == 2
    assert caplog.messages == []


def test_everybody_who_has_changed_it_is_named_once(bench: Bench, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    program = tmp_path / "meddler"
    program.symlink_to("/usr/sbin/nft")

    async def walk(table: Tables) -> None:
        await brought_to(table, WANTED)
        bench.place.run("sh", "-c", f"exec {program} add element {P} wt_doors {{ veth8 }}")
        bench.place.run("nft", "-i", stdin="".join(f"add element {P} wt_doors {{ veth{n} }}\n" for n in (5, 6, 7)))
        await table.observe()
        await table.observe()

    bench.run(walk)
    (message,) = caplog.messages
    assert ": process meddler, pid " in message
    assert message.count("process nft, pid ") == 1


def test_a_change_of_another_table_causes_no_listing(bench: Bench, calls: Calls) -> None:
    async def walk(table: Tables) -> None:
        await brought_to(table, WANTED)
        before = calls.listings
        bench.others(OTHER_TABLE)
        for number in range(20):
            bench.others(f"add rule ip other c tcp dport {number} accept")
            assert await table.observe() == WANTED
        bench.others("table inet wigglenet2 { set wt_pods4 { type ipv4_addr; }", "}")
        bench.others("table ip wigglenet { chain wt_forward { accept; }", "}")
        assert await table.observe() == WANTED
        assert calls.listings == before + 1  # for the kernel's word does not say of which family the last one is
        bench.others(f"add element {P} wt_doors {{ veth9 }}")
        assert diff(await table.observe(), WANTED)

    bench.run(walk)


def flood(*more: str) -> list[str]:
    """Commands that make more notifications than the buffer of the tests below has room for."""
    return [*(f"add rule ip other c tcp dport {number} accept" for number in range(100)), *more]


@pytest.mark.parametrize("told", [True, False])
def test_after_notifications_were_lost_the_table_is_listed(
    bench: Bench, calls: Calls, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, *, told: bool
) -> None:
    """Whether or not the kernel tells that they were: then its generation does."""
    monkeypatch.setattr(nft_watch, "RCVBUF", 2048)
    small = {Item("chain", "wt_small"): ("drop",)}

    async def walk(table: Tables) -> None:
        table._watch._socket.setsockopt(nft_watch.SOL_NETLINK, NETLINK_NO_ENOBUFS, not told)  # noqa: SLF001
        await brought_to(table, small)
        await table.observe()
        before = calls.listings
        assert await table.observe() == small
        assert calls.listings == before
        bench.others(OTHER_TABLE, *flood())
        assert await table.observe() == small
        assert calls.listings == before + 1
        assert caplog.messages == []
        bench.others(*flood(f"add rule {P} wt_small accept"))
        assert diff(await table.observe(), small)

    bench.run(walk)
    (message,) = caplog.messages
    assert "unknown" in message


def test_what_was_lost_is_not_forgotten_when_later_news_arrive(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nft_watch, "RCVBUF", 2048)
    small = {Item("chain", "wt_small"): ("drop",)}

    async def walk(table: Tables) -> None:
        await brought_to(table, small)
        await table.observe()
        bench.others(OTHER_TABLE, *flood(f"add rule {P} wt_small accept"))
        await table.others.dropping()
        bench.others("add rule ip other c accept")
        assert diff(await table.observe(), small)

    bench.run(walk)


def test_what_is_refused_leaves_everything_as_it_was(bench: Bench, calls: Calls) -> None:
    wrong = {**WANTED, Item("set", "wt_rest4", "10.250.0.0/16"): "", Item("set", "wt_rest4", "10.250.1.0/24"): ""}
    wrong |= {Item("set", "wt_own4", "10.250.0.0/16"): ""}
    right = planned(numbered(1), numbered(3))

    async def walk(table: Tables) -> None:
        await brought_to(table, WANTED)
        generation = table._watch.generation()  # noqa: SLF001 - the kernel's own count
        with pytest.raises(KernelError, match=r"nft -f -: .*conflicting intervals|interval overlaps"):
            await brought_to(table, wrong)
        assert table._watch.generation() == generation  # noqa: SLF001
        assert await bench.fresh() == WANTED
        assert await table.observe() == WANTED
        await brought_to(table, right)
        assert "delete table" not in calls.texts[-1]
        assert await bench.fresh() == right

    bench.run(walk)


def test_what_nft_does_not_understand_is_refused_in_its_words(bench: Bench) -> None:
    async def walk(table: Tables) -> None:
        with pytest.raises(KernelError, match="syntax error"):
            await brought_to(table, {Item("chain", "wt_x"): ("no such rule",)})
        assert await table.observe() == {}

    bench.run(walk)


def fake_nft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = tmp_path / "nft"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


def test_without_nft_the_package_is_named(bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def walk(table: Tables) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(KernelError, match="install the package nftables"):
            await table.observe()
        monkeypatch.undo()
        await brought_to(table, WANTED)

    bench.run(walk)


@pytest.mark.parametrize(("signal", "name"), [("SEGV", "SIGSEGV"), ("ABRT", "SIGABRT")])
def test_an_nft_that_crashes_is_told_with_the_signal(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, signal: str, name: str
) -> None:
    async def walk(table: Tables) -> None:
        await brought_to(table, WANTED)
        fake_nft(tmp_path, monkeypatch, f"kill -{signal} $$")
        with pytest.raises(KernelError, match=rf"nft -f -: ended by {name}: .*remove that table"):
            await brought_to(table, STATES[0])
        with pytest.raises(KernelError, match=rf"nft -s list table {P}: ended by {name}"):
            await table.observe()
        monkeypatch.undo()
        assert await table.observe() == WANTED

    bench.run(walk)


def test_an_nft_that_fails_without_a_word_is_told_with_its_status(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_nft(tmp_path, monkeypatch, "exit 3")

    async def walk(table: Tables) -> None:
        with pytest.raises(KernelError, match=rf"nft -s list table {P}: status 3"):
            await table.observe()

    bench.run(walk)


def test_a_table_that_is_changed_during_each_listing_is_given_up(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bench.others(render(WANTED))
    meddling = f"/usr/sbin/nft add rule {P} wt_inbound4 accept"
    fake_nft(tmp_path, monkeypatch, f'{meddling}; exec /usr/sbin/nft "$@"')

    async def walk(table: Tables) -> None:
        with pytest.raises(KernelError, match="others change it all the time"):
            await table.observe()
        monkeypatch.undo()
        assert diff(await table.observe(), WANTED)

    bench.run(walk)


def test_who_changes_the_table_while_it_is_listed_is_named(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The kernel counts a transaction before it tells of it: a listing may have begun by then."""
    meddler = tmp_path / "meddler"
    meddler.symlink_to("/usr/sbin/nft")
    meddling = f"mkdir {tmp_path}/done 2>/dev/null && (exec {meddler} flush ruleset)"

    async def walk(table: Tables) -> None:
        await brought_to(table, WANTED)
        bench.others(f"add rule {P} wt_inbound4 accept")
        fake_nft(tmp_path, monkeypatch, f'{meddling}; exec /usr/sbin/nft "$@"')
        await table.observe()

    bench.run(walk)
    (message,) = caplog.messages
    assert "process meddler, pid " in message
    assert "process nft, pid " in message


def test_a_change_between_our_write_and_the_next_look_is_not_taken_for_ours(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def walk(table: Tables) -> None:
        await brought_to(table, WANTED)
        fake_nft(tmp_path, monkeypatch, f'/usr/sbin/nft "$@" && /usr/sbin/nft add rule {P} wt_inbound4 accept')
        await brought_to(table, STATES[0])
        monkeypatch.undo()
        assert diff(await table.observe(), STATES[0])
        await brought_to(table, STATES[0])
        assert await bench.fresh() == STATES[0]

    bench.run(walk)


def test_others_changes_wake_own_ones_do_not(bench: Bench) -> None:
    async def walk(table: Tables) -> None:
        woken = asyncio.Event()
        calls: list[str] = []
        doing = ""

        def changed() -> None:
            calls.append(doing)
            woken.set()

        async def others(text: str) -> None:
            nonlocal doing
            doing = text
            await nft("-f", "-", text=f"{text}\n")  # the loop turns meanwhile

        await table.others.dropping()
        watching = asyncio.create_task(table.watch(changed))
        for state in STATES:
            doing = "own write"
            await brought_to(table, state)
        await brought_to(table, WANTED)
        await table.others.dropping()
        await others(OTHER_TABLE)
        await others("add rule ip other c accept")
        assert calls == []
        for edit in (
            f"insert rule {P} wt_forward accept",
            "add chain ip other d { type filter hook forward priority 0; policy drop; }",
        ):
            woken.clear()
            await others(edit)
            async with asyncio.timeout(5):
                await woken.wait()
            assert set(calls) == {edit}
            await brought_to(table, WANTED)
            await table.others.dropping()
            calls.clear()
        watching.cancel()

    bench.run(walk)


FIREWALLD = """
table inet firewalld {
  chain filter_FORWARD {
    type filter hook forward priority filter + 10; policy accept;
    ct state { established, related } accept
    jump filter_FORWARD_POLICIES
    reject with icmpx admin-prohibited
  }
  chain filter_FORWARD_POLICIES {
  }
}
"""


def dropping(name: str, versions: set[int], accepted: str = "") -> frozenset[DroppingChain]:
    return frozenset({DroppingChain(name=name, versions=frozenset(versions), accepted=nets(accepted))})


def test_a_chain_of_dockers_that_drops_is_told_with_what_it_accepts(bench: Bench) -> None:
    iptables = partial(bench.place.run, "iptables-nft")

    async def walk(table: Tables) -> None:
        await brought_to(table, WANTED)
        assert await table.others.dropping() == frozenset()
        iptables("-N", "DOCKER-USER")
        iptables("-A", "FORWARD", "-j", "DOCKER-USER")
        assert await table.others.dropping() == frozenset()
        iptables("-P", "FORWARD", "DROP")
        assert await table.others.dropping() == dropping("ip filter FORWARD", {4})
        iptables("-A", "DOCKER-USER", "-s", "10.1.0.0/24", "-j", "ACCEPT")
        iptables("-A", "DOCKER-USER", "-s", "10.7.0.0/24", "-j", "DROP")
        iptables("-I", "FORWARD", "-d", "10.1.0.0/16", "-i", "eth0", "-m", "comment", "--comment", "pods", "-j", "ACCEPT")
        assert await table.others.dropping() == dropping("ip filter FORWARD", {4}, "10.1.0.0/24 10.1.0.0/16")
        iptables("-D", "FORWARD", "1")
        assert await table.others.dropping() == dropping("ip filter FORWARD", {4}, "10.1.0.0/24")
        iptables("-P", "FORWARD", "ACCEPT")
        assert await table.others.dropping() == frozenset()

    bench.run(walk)


def test_what_a_chain_that_is_called_accepts_is_known_as_soon_as_it_does(bench: Bench) -> None:
    iptables = partial(bench.place.run, "iptables-nft")

    async def walk(table: Tables) -> None:
        iptables("-N", "DOCKER-USER")
        iptables("-A", "FORWARD", "-j", "DOCKER-USER")
        iptables("-P", "FORWARD", "DROP")
        assert await table.others.dropping() == dropping("ip filter FORWARD", {4})
        iptables("-A", "DOCKER-USER", "-s", "10.1.0.0/24", "-j", "ACCEPT")
        assert await table.others.dropping() == dropping("ip filter FORWARD", {4}, "10.1.0.0/24")
        iptables("-F", "DOCKER-USER")
        assert await table.others.dropping() == dropping("ip filter FORWARD", {4})

    bench.run(walk)


@pytest.mark.parametrize(
    ("program", "rule", "name", "version"),
    [
        ("iptables-nft", ("-j", "DROP"), "ip filter FORWARD", 4),
        ("iptables-nft", ("-j", "REJECT", "--reject-with", "icmp-host-prohibited"), "ip filter FORWARD", 4),
        ("ip6tables-nft", ("-j", "REJECT"), "ip6 filter FORWARD", 6),
    ],
)
def test_a_chain_that_ends_in_a_refusal_drops(
    bench: Bench, program: str, rule: tuple[str, ...], name: str, version: int
) -> None:
    async def walk(table: Tables) -> None:
        bench.place.run(program, "-A", "FORWARD", *rule)
        assert await table.others.dropping() == dropping(name, {version})
        bench.place.run(program, "-A", "FORWARD", "-s", "10.9.0.0/24" if version == 4 else "fd00:9::/64", *rule)
        assert await table.others.dropping() == frozenset()  # the last rule is not for everything

    bench.run(walk)


def test_a_table_of_firewallds_that_rejects_is_told_until_it_accepts_or_goes(bench: Bench) -> None:
    async def walk(table: Tables) -> None:
        assert await table.others.dropping() == frozenset()
        bench.others(FIREWALLD)
        name = "inet firewalld filter_FORWARD"
        assert await table.others.dropping() == dropping(name, {4, 6})
        bench.others("add rule inet firewalld filter_FORWARD_POLICIES ip saddr 10.1.0.0/16 accept")
        bench.others("insert rule inet firewalld filter_FORWARD ip6 saddr fd00::/8 accept")
        assert await table.others.dropping() == dropping(name, {4, 6}, "10.1.0.0/16 fd00::/8")
        bench.others("delete table inet firewalld")
        assert await table.others.dropping() == frozenset()

    bench.run(walk)


def test_neither_our_own_chain_nor_one_of_another_hook_or_family_is_told(bench: Bench) -> None:
    async def walk(table: Tables) -> None:
        await brought_to(table, {Item("chain", "wt_forward"): (FORWARD.replace("accept", "drop"),)})
        bench.others("table ip f { chain input { type filter hook input priority 0; policy drop; }", "}")
        bench.others("table bridge f { chain forward { type filter hook forward priority 0; policy drop; }", "}")
        bench.others("table inet g { chain forward { drop; }", "}")
        assert await table.others.dropping() == frozenset()

    bench.run(walk)


def test_who_drops_is_looked_up_only_after_a_change_of_what_is_forwarded(bench: Bench, calls: Calls) -> None:
    async def walk(table: Tables) -> None:
        bench.others(FIREWALLD)
        await table.others.dropping()
        made = len(calls.made)
        bench.others(OTHER_TABLE)
        bench.others("add rule ip other c tcp dport 80 accept")
        await table.others.dropping()
        assert calls.made[made:] == []
        bench.others("insert rule inet firewalld filter_FORWARD ip saddr 10.1.0.0/16 accept")
        assert await table.others.dropping() == dropping("inet firewalld filter_FORWARD", {4, 6}, "10.1.0.0/16")

    bench.run(walk)


def test_who_drops_stays_known_while_nft_cannot_tell(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def walk(table: Tables) -> None:
        bench.others(FIREWALLD)
        known = await table.others.dropping()
        bench.others("insert rule inet firewalld filter_FORWARD ip saddr 10.1.0.0/16 accept")
        fake_nft(tmp_path, monkeypatch, "kill -SEGV $$")
        assert await table.others.dropping() == known

    bench.run(walk)
    (message,) = caplog.messages
    assert message.startswith("whether other tables drop pods' packets is not known: nft -j list chains: ended by SIGSEGV")


PROGRAMS = ("iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy")
THEIRS = """*filter
:THEIRS - [0:0]
:WIGGLENET-OTHER - [0:0]
-A FORWARD -m comment --comment "WIGGLENET-NETPOL -j" -j THEIRS
-A FORWARD -j WIGGLENET-OTHER
-A FORWARD -m comment --comment WIGGLENET-NETPOL
-A THEIRS -p tcp -m tcp --dport 80 -j ACCEPT
COMMIT
*nat
:THEIRS - [0:0]
-A POSTROUTING -j THEIRS
COMMIT
"""
LEFT = """*filter
:WIGGLENET-FIREWALL - [0:0]
:WIGGLENET-NETPOL - [0:0]
:WIGGLENET-NETPOL-EGR - [0:0]
:WIGGLENET-NETPOL-ING - [0:0]
-I FORWARD 1 -j WIGGLENET-FIREWALL
-A FORWARD -m comment --comment "a b" -j WIGGLENET-NETPOL
-A FORWARD -m comment --comment "a b" -j WIGGLENET-NETPOL
-A THEIRS -g WIGGLENET-NETPOL-ING
-A WIGGLENET-FIREWALL -j WIGGLENET-NETPOL
-A WIGGLENET-FIREWALL -j DROP
-A WIGGLENET-NETPOL -j WIGGLENET-NETPOL-EGR
-A WIGGLENET-NETPOL -g WIGGLENET-NETPOL-ING
-A WIGGLENET-NETPOL-EGR -j RETURN
COMMIT
*nat
:WIGGLENET-MASQ - [0:0]
-A POSTROUTING -j WIGGLENET-MASQ
-A WIGGLENET-MASQ -j MASQUERADE
COMMIT
"""


def saved(place: Place, program: str) -> str:
    """All that the program has there but for the time of day."""
    tables = [place.run(f"{program}-save", "-t", table) for table in ("filter", "nat")]
    return "\n".join(line for text in tables for line in text.splitlines() if not line.startswith("#"))


def restore(place: Place, program: str, text: str) -> None:
    try:
        place.run(f"{program}-restore", "--noflush", stdin=text)
    except CommandError as error:
        if "legacy" in program and "Table does not exist" in str(error):
            pytest.skip(f"this kernel has no {program}")
        raise


async def cleaned() -> set[str]:
    """Where there was something to remove."""
    table = LeftoverTable()
    found = await table.observe()
    await table.apply(diff(found, {}))
    assert await table.observe() == {}
    assert await LeftoverTable().observe() == {}
    return {*found}


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_the_iptables_back_end_has_left_goes_and_others_rules_stay(place: Place, program: str) -> None:
    restore(place, program, THEIRS)
    before = saved(place, program)
    restore(place, program, LEFT)
    assert saved(place, program).count("WIGGLENET-") > 10

    with place.network():
        assert asyncio.run(cleaned()) == {f"{program} filter", f"{program} nat"}
    assert saved(place, program) == before


def test_a_rule_that_only_names_a_chain_of_ours_stays(place: Place) -> None:
    restore(place, "iptables-nft", "*filter\n-A FORWARD -j LOG --log-prefix WIGGLENET-NETPOL\nCOMMIT\n")
    before = saved(place, "iptables-nft")
    restore(place, "iptables-nft", LEFT.replace("-A THEIRS -g WIGGLENET-NETPOL-ING\n", ""))

    with place.network():
        assert asyncio.run(cleaned())
    assert saved(place, "iptables-nft").count("LOG") == before.count("LOG") == 1


def test_what_it_has_left_by_every_program_goes_at_once(place: Place) -> None:
    for program in PROGRAMS:
        restore(place, program, THEIRS + LEFT)

    with place.network():
        assert asyncio.run(cleaned()) == {f"{program} {table}" for program in PROGRAMS for table in ("filter", "nat")}


def test_looking_for_leftovers_makes_no_table(place: Place) -> None:
    with place.network():
        assert asyncio.run(cleaned()) == set()
    assert place.run("nft", "list", "ruleset") == ""
    for name in ("ip_tables_names", "ip6_tables_names"):
        assert place.run("cat", f"/proc/thread-self/net/{name}") == ""


def test_without_iptables_nothing_is_left(place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    restore(place, "iptables-nft", LEFT.replace("-A THEIRS -g WIGGLENET-NETPOL-ING\n", ""))
    monkeypatch.setenv("PATH", str(tmp_path))

    with place.network():
        assert asyncio.run(cleaned()) == set()


def test_a_leftover_that_cannot_be_removed_is_told_and_stays_wanted(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    restore(place, "iptables-nft", THEIRS + LEFT)
    program = tmp_path / "iptables-nft-restore"
    program.write_text("#!/bin/sh\necho busy >&2\nexit 4\n")
    program.chmod(0o755)

    async def walk() -> None:
        table = LeftoverTable()
        found = await table.observe()
        with monkeypatch.context() as patched:
            patched.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
            with pytest.raises(
                KernelError, match=r"iptables-nft-restore --noflush: busy; remove the chains WIGGLENET-\* by hand"
            ):
                await table.apply(diff(found, {}))
        assert await table.observe() == found
        await table.apply(diff(found, {}))
        assert await table.observe() == {}

    with place.network():
        asyncio.run(walk())


def test_the_table_of_any_zones_is_accepted(bench: Bench) -> None:
    """Also where no plan would give them: whole families, the last addresses, the same networks everywhere."""
    every: list[IPNetwork] = [*V4, *V6, IPv4Network("0.0.0.0/0"), IPv6Network("::/0")]

    async def walk(table: Tables) -> None:
        for networks in ([network] for network in every):
            state = plan_firewall(
                config(filtered=BOTH),
                Zones(
                    own=frozenset(networks),
                    home=frozenset(every),
                    pods=frozenset(networks),
                    nodes=frozenset(n for n in every if n.prefixlen == n.max_prefixlen),
                    doors=frozenset({"veth1"}),
                ),
            )
            await brought_to(table, state)
            assert await bench.fresh() == state

    bench.run(walk)


def test_what_is_changed_between_a_look_and_a_write_is_looked_at_anew(bench: Bench) -> None:
    """Or the difference would be one to a table that is no more."""
    wanted = planned(numbered(1), numbered(2))

    async def walk(table: Tables) -> None:
        await brought_to(table, planned(numbered(1)))
        changes = diff(await table.observe(), wanted)
        bench.others("flush ruleset")
        with pytest.raises(KernelError, match="just been changed by somebody else"):
            await table.apply(changes)
        await brought_to(table, wanted)
        assert await bench.fresh() == wanted

    bench.run(walk)


def test_what_is_changed_during_a_write_is_told_at_once_and_named(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[str] = []

    async def disturbed(*arguments: str, text: str = "", missing: str | None = None) -> str:
        done = await nft(*arguments, text=text, missing=missing)
        if text:
            bench.others(f"flush chain {P} wt_postrouting")
        return done

    async def walk(table: Tables) -> None:
        await brought_to(table, WANTED)
        watching = asyncio.create_task(table.watch(lambda: told.append("changed")))
        await asyncio.sleep(0)
        more = {**WANTED, Item("set", "wt_rest4", "10.250.0.0/16"): ""}
        with monkeypatch.context() as patched:
            patched.setattr("wigglenet_operator.kernel.nft.nft", disturbed)
            await table.apply(diff(await table.observe(), more))
        assert told
        await brought_to(table, WANTED)
        assert await bench.fresh() == WANTED
        watching.cancel()

    with caplog.at_level(logging.WARNING):
        bench.run(walk)
    assert any("changed by somebody else: process nft" in message for message in caplog.messages)


def test_a_chain_that_drops_and_has_no_rule_is_none_any_more_when_it_is_deleted(bench: Bench) -> None:
    async def walk(table: Tables) -> None:
        bench.others("table inet f { chain x { type filter hook forward priority 0; policy drop; }", "}")
        assert await table.others.dropping() == dropping("inet f x", {4, 6})
        bench.others("delete chain inet f x")
        assert await table.others.dropping() == frozenset()

    bench.run(walk)


def test_chains_that_are_called_by_one_that_drops_nothing_are_not_watched(bench: Bench, calls: Calls) -> None:
    """kube-proxy writes its own all the time."""

    async def walk(table: Tables) -> None:
        bench.others("add table ip f; add chain ip f KUBE")
        bench.others("add chain ip f x { type filter hook forward priority 0; }; add rule ip f x jump KUBE")
        await table.others.dropping()
        made = len(calls.made)
        bench.others("flush chain ip f KUBE; add rule ip f KUBE accept")
        await table.others.dropping()
        assert calls.made[made:] == []

    bench.run(walk)


def test_a_comment_of_several_lines_is_nobodys_rule_of_ours(bench: Bench) -> None:
    bench.place.run("iptables-nft", "-N", "WIGGLENET-MASQ")
    bench.place.run("iptables-nft", "-A", "FORWARD", "-m", "comment", "--comment", "WIGGLENET-MASQ\n-A FORWARD", "-j", "ACCEPT")

    async def walk(_table: Tables) -> None:
        leftovers = LeftoverTable()
        await leftovers.apply(diff(await leftovers.observe(), {}))

    bench.run(walk)
    saved = bench.place.run("iptables-nft-save")
    assert ":WIGGLENET" not in saved
    assert saved.count("-j ACCEPT") == 1
