"""Ten thousand malformed Nodes cost themselves only: each is named, none stops the agent, the honest ones stay connected.

What the API server would never let through is there too: it may be another server, or a file given to `plan`.
"""

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from operator import eq
from random import Random
from typing import Any

import pytest

from tests.builders import cluster, config, host, ips, key, nets, node
from wigglenet_operator.kube.decode import MOST, decode_node
from wigglenet_operator.model.desired import DesiredState
from wigglenet_operator.model.facts import NodeFacts, NodeName
from wigglenet_operator.model.report import Problem
from wigglenet_operator.plan.claims import NAMED
from wigglenet_operator.plan.desired import Plan
from wigglenet_operator.plan.planner import plan

COUNT = 10_000
SEED = 157
LARGE = 250_000
"""Characters: what the API server allows all annotations of an object together, nearly."""
MANY = 10_000
HONEST = (
    node("a", pods="10.1.0.0/24 fd00:1::/64", internal="192.0.2.1 2001:db8::1"),
    node("b", pods="10.2.0.0/24 fd00:2::/64", internal="192.0.2.2 2001:db8::2"),
    node("c", pods="10.3.0.0/24 fd00:3::/64", internal="192.0.2.3", external="2001:db8::3", created="2026-01-02T00:00:00Z"),
)


def nested(depth: int) -> list[Any]:
    inner: list[Any] = []
    for _ in range(depth):
        inner = [inner]
    return inner


JUNK = (
    "\n",
    "b\nnode c: all is well",
    "\r",
    "\x1b[2J\x1b]0;mine\x07",
    "\x00",
    "\x9b1m",
    "\u202e",
    "\u2028",
    "\ud800",
    "\\",
    "'",
)
"""Text that would spoil a log line or a terminal."""
NUMBERS = (0, 1, -1, 10**400, 10**5000, 1.5, float("nan"), float("inf"), True, False)
NO_TEXT: tuple[Any, ...] = (*NUMBERS, [], ["x"], {}, {"x": {"x": []}}, nested(300), nested(5000), "\ud800")
NO_LIST: tuple[Any, ...] = (*NUMBERS, "", "x", {}, {"x": []}, "[]")
NO_OBJECT: tuple[Any, ...] = (*NUMBERS, "", "x", [], [{}], nested(300))
NO_TIME = (*NO_TEXT, *JUNK, "", "x", "2026-01-01", "2025-01-01T00:00:00", "2025-13-01T00:00:00Z", "0000-00-00T00:00:00Z")
NO_KEY = (
    *(*NO_TEXT, *JUNK, "", " ", "x", key("b")[:-1], key("b") + "=", key("b") + "\n", f" {key('b')}", "A" * 42 + "B=", "é" * 44),
    *(base64.b64encode(bytes(size)).decode() for size in (31, 32, 33, 64)),
    *("_" * 43 + "=", "A" * LARGE, "\x1b" * 4 * LARGE),
)
NO_JSON_LIST = (
    *(
        *NO_TEXT,
        *JUNK,
        "",
        "[",
        "[]]",
        "[1,",
        "null",
        "{}",
        '"10.2.0.0/24"',
        "NaN",
        "7",
        "1e999",
        "['10.2.0.0/24']",
        "\ufeff[]",
    ),
    *("[" * LARGE, '{"":' * LARGE, f"[{'1' * 5000}]", "1" * LARGE, "x" * LARGE, "\x1b" * 4 * LARGE),
)
NO_ITEM = (*JUNK, "", " ", "x", "/", "%", "10.0.0.256", "٠.0.0.1", "192.0.2.010", "1:2", "::1::", "1" * LARGE)  # noqa: RUF001 - a digit
NO_NETWORK = (
    *(*NO_ITEM, "10.0.0.0", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/8/8", "10.0.0.0/", "10.0.0.0/x", "10.0.0.0/٨"),
    *("10.0.0.0/" + "8" * 5000, "fd00::/129", "fd00::%eth0/64", "fd00::/64%eth0", "10.0.0.0/255.0.255.0"),
)
NO_ADDRESS = (
    *NO_ITEM,
    "fe80::1%eth0",
    "192.0.2.1%1",
    "::ffff:192.0.2.2",
    "::ffff:c000:202",
    "192.0.2.2/32",
    "[2001:db8::2]",
    "b",
)
NOBODYS_NETWORKS = (
    *("0.0.0.0/0", "::/0", "127.0.0.0/8", "0.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "255.255.255.255/32", "8.0.0.0/7"),
    *(
        "::/128",
        "::1/128",
        "::ffff:10.2.0.0/120",
        "::fffe:0:0/95",
        "fe80::/10",
        "fe80::/64",
        "ff00::/8",
        "2000::/3",
        "fd00::/8",
    ),
    "198.51.100.77/24",
)
NOBODYS_ADDRESSES = tuple(map(str, ips("0.0.0.0 127.0.0.1 169.254.169.254 224.0.0.1 255.255.255.255 :: ::1 fe80::1 ff02::1")))
TAKEN_NETWORKS = ("10.2.0.0/24", "10.3.0.77/24", "10.2.0.0/16", "10.2.0.128/25", "10.0.0.0/8", "fd00:2::/64", "192.0.2.3/32")
TAKEN_ADDRESSES = ("192.0.2.2", "192.0.2.3", "2001:db8::3", "10.2.0.1", "fd00:3::1")
"""What honest nodes have.  Only annotations claim it here: of two Nodes to which the control plane or their own kubelets give
the same, the older is believed, and a malformed one may be older."""
NO_ENTRY: tuple[Any, ...] = (
    *NUMBERS,
    None,
    "192.0.2.2",
    [],
    {},
    {"type": "InternalIP"},
    {"address": "192.0.2.2"},
    {"type": [], "address": {}},
)


@dataclass(frozen=True)
class Flaw:
    """What may be in one place of a Node, and what has to be said of it: nothing, by the decoder, or by the plan."""

    at: tuple[str, ...]
    values: tuple[Any, ...]
    unreadable: str = ""
    refused: str = ""


def noted(good: str, values: Iterable[object]) -> tuple[str, ...]:
    """Annotations that hold something good beside each value."""
    return tuple(json.dumps([good, value, value]) for value in values)


def addresses(values: Iterable[object]) -> tuple[list[dict[str, object]], ...]:
    return tuple([{"type": kind, "address": value}] * 2 for value in values for kind in ("InternalIP", "ExternalIP"))


LEFT_OUT = "it is left out: "
KEY, PODS, IPS = (("metadata", "annotations", f"wigglenet/{name}") for name in ("public-key", "pod-cidrs", "node-ips"))
TIME = ("metadata", "creationTimestamp")
FLAWS = (
    Flaw(("metadata",), (*NO_OBJECT, None, {}), f"{LEFT_OUT}metadata"),
    Flaw(("metadata", "name"), (*NO_TEXT, *JUNK, None, "", "a b", "x" * 254, "x" * LARGE), f"{LEFT_OUT}metadata.name"),
    Flaw(("metadata", "uid"), (*NO_TEXT, None, ""), f"{LEFT_OUT}metadata.uid"),
    Flaw(("metadata", "uid"), ("\n", "u" * 1000, "0", "uid-twin")),
    Flaw(TIME, NO_TIME, "metadata.creationTimestamp"),
    Flaw(TIME, ("2020-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2025-01-01T02:00:00.5+02:00", None)),
    Flaw(("metadata", "annotations"), NO_OBJECT, "metadata.annotations"),
    Flaw(("metadata", "annotations"), (None, {}, {"wigglenet/public-key": None, 7: 7, "x": [], "\n": "\n"})),
    Flaw(KEY, NO_KEY, "wigglenet/public-key"),
    Flaw(KEY, (key("a"), key("b"), key("c")), refused="its public key is that of node"),
    Flaw(PODS, NO_JSON_LIST, "wigglenet/pod-cidrs"),
    Flaw(PODS, noted("2001:db8:77::/64", (*NO_NETWORK, *NO_TEXT[5:-3], None)), "wigglenet/pod-cidrs"),
    Flaw(PODS, noted("2001:db8:77::/64", (*NOBODYS_NETWORKS, *TAKEN_NETWORKS)), refused="wigglenet/pod-cidrs is not used"),
    Flaw(IPS, NO_JSON_LIST, "wigglenet/node-ips"),
    Flaw(IPS, noted("2001:db8:78::1", (*NO_ADDRESS, *NO_TEXT[5:-3], None)), "wigglenet/node-ips"),
    Flaw(IPS, noted("2001:db8:78::1", (*NOBODYS_ADDRESSES, *TAKEN_ADDRESSES)), refused="wigglenet/node-ips is not used"),
    Flaw(("spec",), NO_OBJECT, "spec"),
    Flaw(("spec",), (None, {}, {"podCIDRs": None, "podCIDR": ""})),
    Flaw(("spec",), tuple({"podCIDR": value} for value in (*NO_NETWORK, *NO_TEXT) if value != ""), "spec.podCIDR"),
    Flaw(("spec", "podCIDRs"), (*NO_LIST, *([value] for value in (*NO_NETWORK, *NO_TEXT, None))), "spec.podCIDRs"),
    Flaw(("spec", "podCIDRs"), tuple([value, value] for value in NOBODYS_NETWORKS), refused="spec.podCIDRs is not used"),
    Flaw(("status",), NO_OBJECT, "status"),
    Flaw(("status",), (None, {}, {"addresses": None}, {"addresses": []})),
    Flaw(("status", "addresses"), (*NO_LIST, *([value] for value in NO_ENTRY), *addresses(NO_ADDRESS)), "status.addresses"),
    Flaw(("status", "addresses"), addresses(NOBODYS_ADDRESSES), refused="status.addresses is not used"),
    Flaw(
        ("status", "addresses"), ([{"type": "Unheard-of\n", "address": "\x1b"}], [{"type": "Hostname", "address": "m"}] * 100)
    ),
)


def healthy(number: int) -> dict[str, Any]:
    """A Node that conflicts with no other; every third has a name as long as one may be."""
    name = f"-{number}".rjust(253 if number % 3 == 0 else 1, "m")
    network, address = f"fd77:{number:x}::/64", f"2001:db8:1::{number:x}"
    notes = {"public-key": key(name), "pod-cidrs": json.dumps([network]), "node-ips": json.dumps([address])}
    return {
        "metadata": {
            "name": name,
            "uid": f"uid{name}",
            "creationTimestamp": "2027-01-01T00:00:00Z",
            "annotations": {f"wigglenet/{k}": v for k, v in notes.items()},
        },
        "spec": {"podCIDRs": [network], "podCIDR": network},
        "status": {"addresses": [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name}]},
    }


@dataclass(frozen=True)
class Case:
    """A malformed Node, what is wrong with it, and what was made of it."""

    name: object
    flaws: tuple[Flaw, ...]
    decoded: NodeFacts | Problem

    @property
    def problems(self) -> tuple[Problem, ...]:
        return self.decoded.problems if isinstance(self.decoded, NodeFacts) else (self.decoded,)

    @property
    def unreadable(self) -> set[str]:
        """What the decoder has to say, each a part of some problem."""
        words = {f.unreadable for f in self.flaws if f.unreadable}
        fatal = sorted(word for word in words if word.startswith(LEFT_OUT))
        return set(fatal[:1]) or words

    @property
    def refused(self) -> set[str]:
        """What the plan has to say, if it hears of the Node."""
        return {f.refused for f in self.flaws if f.refused and isinstance(self.decoded, NodeFacts)}


def malformed(number: int, random: Random) -> Case:
    body = healthy(number)
    flaws: list[Flaw] = []
    for flaw in random.sample(FLAWS, k=random.choice((1, 1, 2, 3, 5))):
        nests = any(all(map(eq, flaw.at, f.at)) for f in flaws)
        if nests or {flaw.at, *(f.at for f in flaws)} >= {KEY, TIME}:  # of two Nodes with one key the older is believed
            continue
        *path, last = flaw.at
        part = body
        for step in path:
            part = part[step]
        part[last] = random.choice(flaw.values)
        if part[last] is None and random.random() < 0.5:
            del part[last]
        flaws.append(flaw)
    name = body["metadata"].get("name") if isinstance(body.get("metadata"), dict) else None
    return Case(name, tuple(flaws), decode_node(body, own=NodeName("a")))


@cache
def cases() -> tuple[Case, ...]:
    random = Random(SEED)  # noqa: S311 - the same ones each time
    return tuple(malformed(number, random) for number in range(COUNT))


def readable() -> list[NodeFacts]:
    """As the store keeps them: one for each UID."""
    return list({c.decoded.uid: c.decoded for c in cases() if isinstance(c.decoded, NodeFacts)}.values())


def planned(*nodes: NodeFacts) -> Plan:
    return plan(cluster(*HONEST, *nodes), config("a"), host("a"))


@cache
def honest() -> DesiredState:
    """What is planned without any malformed Node."""
    desired = planned().desired
    assert desired
    return desired


def assert_nothing_changed_for_the_honest(*others: NodeFacts) -> Plan:
    before, result = honest(), planned(*others)
    after = result.desired
    assert after
    assert before.peers.items() <= after.peers.items()
    assert before.routes.items() <= after.routes.items()
    assert before.closed.items() <= after.closed.items()
    own = ("sysctls", "device", "link", "addresses", "annotations", "cni")
    assert [getattr(after, table) for table in own] == [getattr(before, table) for table in own]
    return result


def test_every_kind_of_flaw_occurs_among_the_ten_thousand() -> None:
    assert {f for c in cases() for f in map(FLAWS.index, c.flaws)} == set(range(len(FLAWS)))
    assert len(readable()) > COUNT // 2


def test_each_flaw_that_the_decoder_sees_is_named() -> None:
    missed = [(c.problems, what) for c in cases() for what in c.unreadable if not any(what in p.text for p in c.problems)]

    assert missed == []


def test_a_node_without_such_a_flaw_has_no_problem() -> None:
    assert [c.problems for c in cases() if not c.unreadable and c.problems] == []


def test_a_problem_has_the_nodes_name_where_it_has_one() -> None:
    for case in cases():
        named = repr(case.name)[1:-1][:253] if case.name and isinstance(case.name, str) else ""
        assert {p.subject for p in case.problems} <= {f"node {named}" if named else "a Node"}


def test_each_problem_is_one_short_line_without_control_characters() -> None:
    problems = [*(p for c in cases() for p in c.problems), *planned(*readable()).problems]

    assert [p for p in problems if not str(p).isprintable()] == []
    assert [p for p in problems if len(p.text) >= 250 or len(p.subject) > 253 + len("node ")] == []


def test_each_claim_or_key_that_is_refused_is_named_and_costs_the_honest_nothing() -> None:
    for case in cases():
        if case.refused and isinstance(case.decoded, NodeFacts):
            problems = assert_nothing_changed_for_the_honest(case.decoded).problems
            texts = [p.text for p in problems if p.subject == f"node {case.name}"]
            assert [what for what in case.refused if not any(what in text for text in texts)] == []


def crowded(where: str, address: str) -> NodeFacts:
    """A Node that says to have ten thousand addresses of its own, or of others."""
    body = healthy(COUNT + len(where))
    many = [f"{address}{i:x}" for i in range(1, MANY + 1)]
    if where == "status":
        body["status"]["addresses"] = [{"type": "InternalIP", "address": a} for a in many * 2]
    else:
        body["metadata"]["annotations"]["wigglenet/node-ips"] = json.dumps(many * 2)
    decoded = decode_node(body, own=NodeName("a"))
    assert isinstance(decoded, NodeFacts)
    return decoded


@pytest.mark.parametrize("where", ["status", "annotation"])
def test_ten_thousand_addresses_are_that_nodes_own_business(where: str) -> None:
    decoded = crowded(where, "2001:db8:f::")

    assert len(decoded.problems) == NAMED + 1
    assert len(decoded.internal_ips if where == "status" else decoded.node_ips) == MOST
    assert planned(decoded).problems == {*decoded.problems}
    assert_nothing_changed_for_the_honest(decoded)


def test_ten_thousand_addresses_of_another_node_are_counted_not_listed() -> None:
    crowd = crowded("annotation", "fd00:2::")
    texts = sorted(p.text for p in assert_nothing_changed_for_the_honest(crowd).problems)

    assert len(texts) == 2 * (NAMED + 1)
    assert texts[0] == f"a further {MOST - NAMED} of wigglenet/node-ips are not used: they are refused as well"


def test_all_of_them_together_cost_the_honest_nothing() -> None:
    crowds = (crowded("status", "2001:db8:e::"), crowded("annotation", "fd00:2::"))

    assert_nothing_changed_for_the_honest(*readable(), *crowds)


def aged(name: str, created: object) -> NodeFacts:
    """A Node with nothing but an annotated network, which others have, too."""
    notes = {"wigglenet/public-key": key(name), "wigglenet/pod-cidrs": '["10.9.0.0/24"]'}
    metadata = {"name": name, "uid": f"uid-{name}", "creationTimestamp": created, "annotations": notes}
    status = {"addresses": [{"type": "InternalIP", "address": f"198.18.0.{len(name)}"}]}
    decoded = decode_node({"metadata": metadata, "status": status}, own=NodeName("a"))
    assert isinstance(decoded, NodeFacts)
    return decoded


def test_a_node_whose_age_cannot_be_read_is_senior_to_none() -> None:
    youngest = aged("youngest", "9999-12-31T23:59:59Z")
    for created in (*NO_TIME, None):
        desired = planned(aged("0", created), youngest).desired
        assert desired
        assert [k for k, p in desired.peers.items() if p.allowed_ips & nets("10.9.0.0/24")] == [key("youngest")]


def test_times_are_compared_not_their_spelling() -> None:
    assert aged("x", "2025-01-01T02:00:00.5+02:00").created == "2025-01-01T00:00:00Z"


def test_a_bad_annotation_costs_not_what_the_control_plane_gave() -> None:
    body = healthy(1)
    body["metadata"]["annotations"] = ["none"]
    decoded = decode_node(body, own=NodeName("a"))

    assert isinstance(decoded, NodeFacts)
    assert decoded.spec_pod_cidrs
