"""The firewall's figures beside their native floors, in pairs: `nox -s bench`.

Floors: `nft -f` of what one would write by hand for loading and changing, the kernel's count of transactions for looking,
two rules of masquerade for what pods get.  A ratio is the median of the pairs', its spread their smallest and largest.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

from tests.builders import cluster, config, host, numbered
from tests.lab.namespaces import Place, stop
from wigglenet_operator.agent.store import ClusterStore
from wigglenet_operator.kernel.nft import NftTable
from wigglenet_operator.kernel.nft_text import render, render_changes
from wigglenet_operator.kernel.nft_watch import NftWatch
from wigglenet_operator.kernel.program import run
from wigglenet_operator.kube.decode import decode_node
from wigglenet_operator.model.changes import diff
from wigglenet_operator.model.facts import ForeignRoute, HostFacts, NodeFacts, NodeName, Version
from wigglenet_operator.model.ruleset import FAMILY, TABLE, Ruleset
from wigglenet_operator.plan.claims import plan_ownership
from wigglenet_operator.plan.firewall import plan_firewall, plan_local_zones, plan_node_zones
from wigglenet_operator.plan.planner import plan
from wigglenet_operator.plan.tunnel import plan_families

NODES = 5000
SIZES = (100, 1000, NODES)
RUNS = 9
MOVING = 5
"""Nodes that leave, and that come."""
OWN = "n0"
CONFIG = config(OWN, masqueraded=frozenset({4, 6}), filtered=frozenset({4, 6}))
DOOR = "veth0"
POD = {4: "10.1.0.2", 6: "fd00:1::2"}
OUTSIDE = {4: "198.51.100.", 6: "2001:db8:3::"}
"""Beginnings of addresses that the server has all of: a masqueraded port is taken once for each."""

BY_HAND = """
table inet byhand {
    chain postrouting {
        type nat hook postrouting priority srcnat;
        ip saddr 10.1.0.0/24 oifname "out" masquerade fully-random
        ip6 saddr fd00:1::/64 oifname "out" masquerade fully-random
    }
}
"""
FILTER_BY_HAND = (
    BY_HAND.rstrip().removesuffix("}")
    + """
    chain inbound {
        ct state established,related accept
        ct status dnat accept
        drop
    }
    chain forward {
        type filter hook forward priority filter;
        ip saddr != 10.1.0.0/24 iifname "veth0" drop
        ip6 saddr != fd00:1::/64 iifname "veth0" drop
        ip daddr 10.1.0.0/24 jump inbound
        ip6 daddr fd00:1::/64 jump inbound
    }
}
"""
)
"""With the least that could be called a filter: one node, one pod, no sets."""
EMPTY = "table inet byhand {}\ndelete table inet byhand\ntable inet wigglenet {}\ndelete table inet wigglenet\n"
SERVER = """
import socket
with socket.create_server(("::", 5000), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024) as server:
    while True:
        server.accept()[0].close()
"""
CLIENT = """
import socket, struct, sys, time
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
reset = struct.pack("ii", 1, 0)  # when the server has closed: nothing lingers on either side
targets = [(f"{sys.argv[1]}{number}", 5000) for number in range(1, 251)]
rates, begun = [], time.monotonic()
while time.monotonic() - begun < float(sys.argv[2]):
    start = time.monotonic()
    for target in targets:
        with socket.socket(family) as connection:
            connection.connect(target)
            connection.recv(1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
    rates.append(len(targets) / (time.monotonic() - start))
print(sorted(rates)[len(rates) * 4 // 5])
"""


def main() -> None:
    """Print a line for each figure."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.firewall", description=__doc__)
    parser.add_argument("--only", choices=["load", "change", "quiet", "path"], help="one part instead of all four")
    parser.add_argument("--rounds", type=int, default=15, help="of the data path (default: %(default)s)")
    arguments = parser.parse_args()
    print(f"{'figure, firewall':<50}{'p50':>9}{'floor':>9}{'ratio':>7}{'spread':>12}  unit, floor, goal", flush=True)
    parts: dict[str, Callable[[], None]] = {
        "load": load,
        "change": change,
        "quiet": quiet,
        "path": lambda: path(arguments.rounds),
    }
    for name, part in parts.items():
        if arguments.only in {None, name}:
            part()


def row(figure: str, values: Sequence[float], floors: Sequence[float], told: str) -> None:
    """One line; the ratio is of the pairs."""
    ratios = [a / b for a, b in zip(values, floors, strict=True)]
    middle, floor, ratio = statistics.median(values), statistics.median(floors), statistics.median(ratios)
    spread = f"{min(ratios):.2f}-{max(ratios):.2f}"
    print(f"{figure:<50}{middle:>9.1f}{floor:>9.1f}{ratio:>7.2f}{spread:>12}  {told}", flush=True)


def facts() -> HostFacts:
    """This node with one pod, as the CNI plugin `ptp` leaves it."""
    routes = (ForeignRoute(to=ip_network(address), metric=0, link=DOOR) for address in POD.values())
    return replace(host(OWN), foreign_routes=frozenset(routes))


def nodes(count: int, *, first: int = 1) -> list[NodeFacts]:
    """So many, dual stack: the one that all is planned for, and others from that number on."""
    return [numbered(0), *(numbered(number) for number in range(first, first + count - 1))]


def wanted(of: Iterable[NodeFacts]) -> Ruleset:
    """The whole table by the whole plan, everything on."""
    desired = plan(cluster(*of), CONFIG, facts()).desired
    assert desired
    return desired.firewall


@contextmanager
def table(place: Place) -> Iterator[tuple[NftTable, NftWatch, asyncio.Runner]]:
    """The agent's table in a place; programs that are started meanwhile run there too."""
    with place.network(), asyncio.Runner() as runner:
        watch = NftWatch()
        try:
            yield NftTable(watch), watch, runner
        finally:
            watch.close()


async def reach(own: NftTable, ruleset: Ruleset) -> float:
    """Milliseconds from what is wanted to done."""
    start = time.perf_counter()
    await own.apply(diff(await own.observe(), ruleset))
    return elapsed(start)


def native(text: str) -> float:
    """Milliseconds that nft takes for a file."""
    with TemporaryDirectory() as directory:
        file = Path(directory, "nft")
        file.write_text(text)
        start = time.perf_counter()
        subprocess.run(["nft", "-f", str(file)], check=True)
        return elapsed(start)


def elapsed(start: float) -> float:
    """Milliseconds."""
    return (time.perf_counter() - start) * 1000


def load() -> None:
    """A table with 5,000 nodes from nothing, and what Python has of it."""
    known = nodes(NODES)
    ruleset = wanted(known)
    minimal = fewest(ruleset)
    elements = sum(bool(item.element) for item in ruleset)
    place = Place("bench")
    took, floors = [], []
    with place.network():
        native(minimal)  # the kernel's first one is slower
    for _ in range(RUNS):
        with place.network():
            native(EMPTY)
            floors.append(native(minimal))
            native(EMPTY)
        with table(place) as (own, _, runner):
            took.append(runner.run(reach(own, ruleset)))
    row(f"load {elements} elements from nothing", took, floors, "ms; nft -f, four sets and no rule; goal ratio 1.3")
    ownership = plan_ownership(known, api_server=CONFIG.api_server)
    routes = facts().foreign_routes
    families = plan_families(known[0], ownership, allowed=CONFIG.endpoint_versions)
    shares: dict[str, Callable[[], object]] = {
        "zones and rules": lambda: [
            plan_firewall(CONFIG, plan_local_zones(known[0], ownership, routes)),
            *(plan_firewall(CONFIG, plan_node_zones(each, ownership, families)) for each in known),
        ],
        "diff": lambda: diff({}, ruleset),
        "text of all of it": lambda: render_changes({}, diff({}, ruleset)),
        "diff of what is as it should be": lambda: diff(ruleset, {**ruleset}),
    }
    for name, share in shares.items():
        row(f"  pure Python: {name}", [clocked(share) for _ in range(RUNS)], took, "ms; the load above")
    place.close()


def clocked(work: Callable[[], object]) -> float:
    """Milliseconds."""
    start = time.perf_counter()
    work()
    return elapsed(start)


def fewest(ruleset: Ruleset) -> str:
    """A file with all pod networks and node addresses, in a set for each sort: addresses need no intervals."""

    def of(name: str) -> str:
        return ",\n".join(item.element for item in ruleset if item.name == name and item.element)

    sets = "".join(
        f"set pods{v} {{ type ipv{v}_addr; flags interval; elements = {{ {of(f'wt_pods{v}')} }}; }}\n"
        f"set nodes{v} {{ type ipv{v}_addr; elements = {{ {of(f'wt_nodes{v}')} }}; }}\n"
        for v in (4, 6)
    )
    return f"table inet byhand {{\n{sets}}}\n"


def change() -> None:
    """Five nodes leave and five come, in clusters of several sizes; the floor has a table of its own, with the same content."""
    for size in SIZES:
        one, other = wanted(nodes(size)), wanted(nodes(size, first=1 + MOVING))
        there = {True: one, False: other}
        mine, floor = Place("mine"), Place("floor")
        with floor.network():
            native(render(one))
        took, floors = [], []
        with table(mine) as (own, _, runner):
            runner.run(reach(own, one))
            for turn in range(RUNS + RUNS % 2):
                goal = there[bool(turn % 2)]
                text = by_hand(there[not turn % 2], goal)
                with floor.network():
                    floors.append(native(text))
                took.append(runner.run(reach(own, goal)))
        elements = len(diff(one, other).remove)
        figure = f"{elements} elements go, {elements} come, {size} nodes"
        row(figure, took, floors, "ms; nft -f of the elements; goal 60 ms")
        mine.close()
        floor.close()


def by_hand(actual: Ruleset, goal: Ruleset) -> str:
    """Commands for elements, as one would write them."""
    changes = diff(actual, goal)
    lines = []
    for verb, items in (("delete", changes.remove), ("add", changes.add)):
        for name in sorted({item.name for item in items}):
            elements = ", ".join(item.element for item in items if item.name == name)
            lines.append(f"{verb} element {FAMILY} {TABLE} {name} {{ {elements} }}\n")
    return "".join(lines)


def quiet() -> None:
    """What is done when nothing of ours has happened: a heartbeat of a Node, a turn, a turn after others' changes."""
    heartbeats()
    ruleset = wanted(nodes(NODES))
    place = Place("bench")
    foreign = "add table ip other\nadd set ip other s { type ipv4_addr; }\n"
    with table(place) as (own, watch, runner), mock.patch("wigglenet_operator.kernel.nft.run", wraps=run) as asked:
        runner.run(reach(own, ruleset))
        native(foreign + "".join(f"add element ip other s {{ 192.0.2.{n} }}\n" for n in range(100)))
        runner.run(own.observe())
        asked.reset_mock()
        for figure, text, repeat in (
            ("look at a table that nobody changed", "", 100),
            ("the same after 1 change of another's table", "add element ip other s { 198.51.100.1 }\n", 1),
            ("the same after its replacement, 1,000 elements", replaced(1000), 1),
        ):
            took, floors = [], []
            for _ in range(RUNS):
                if text:
                    native(text)
                floors.append(clocked(lambda: [watch.generation() for _ in range(100)]) * 10)
                took.append(runner.run(looks(own, repeat)))
            row(figure, took, floors, f"µs; ask for the generation; {asked.call_count} listings (goal 0)")
        assert runner.run(own.observe()) == ruleset
    place.close()


async def looks(own: NftTable, repeat: int) -> float:
    """Microseconds of one look."""
    start = time.perf_counter()
    for _ in range(repeat):
        await own.observe()
    return elapsed(start) * 1000 / repeat


def replaced(elements: int) -> str:
    """A transaction as kube-proxy makes them."""
    words = ", ".join(f"10.96.{n // 250}.{n % 250}" for n in range(elements))
    return (
        "add table ip services\ndelete table ip services\n"
        f"table ip services {{\nset s {{ type ipv4_addr; elements = {{ {words} }}\n}}\n}}\n"
    )


def heartbeats() -> None:
    """A kubelet says that it is alive: decode and record it, nothing more may follow."""
    changed = mock.Mock()
    store = ClusterStore(changed)
    for number in range(NODES):
        decoded = decode_node(node_object(numbered(number), beat=0), own=NodeName(OWN))
        assert isinstance(decoded, NodeFacts)
        store.put(decoded, Version("0"))
    store.expect([])
    changed.reset_mock()
    took, floors = [], []
    for beat in range(1, RUNS + 1):
        texts = [json.dumps(node_object(numbered(number), beat=beat)) for number in range(500)]
        start = time.process_time()
        bodies = [json.loads(text) for text in texts]
        floors.append((time.process_time() - start) * 1e6 / len(texts))
        start = time.process_time()
        for body in bodies:
            decoded = decode_node(body, own=NodeName(OWN))
            assert isinstance(decoded, NodeFacts)
            store.put(decoded, Version(body["metadata"]["resourceVersion"]))
        took.append((time.process_time() - start) * 1e6 / len(texts))
    row(
        "a Node's heartbeat: decode, record",
        took,
        floors,
        f"µs of CPU; json.loads of it; {changed.call_count} changes to plan for (goal 0, 500 µs)",
    )


def node_object(node: NodeFacts, *, beat: int) -> Mapping[str, Any]:
    """As the API server sends it: with conditions and the images that a kubelet tells of."""
    cidrs = sorted(map(str, node.pod_cidrs))
    conditions = ("NetworkUnavailable", "MemoryPressure", "DiskPressure", "PIDPressure", "Ready")
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": node.name,
            "uid": node.uid,
            "resourceVersion": str(1000 + beat),
            "creationTimestamp": node.created,
            "labels": {f"example.com/label-{n}": "value" for n in range(10)},
            "annotations": {
                "wigglenet/public-key": node.public_key,
                "wigglenet/node-ips": "[]",
                "wigglenet/pod-cidrs": json.dumps(cidrs),
            },
        },
        "spec": {"podCIDR": cidrs[0], "podCIDRs": cidrs, "providerID": f"example://{node.name}"},
        "status": {
            "addresses": [
                *({"type": "InternalIP", "address": str(address)} for address in node.internal_ips),
                {"type": "Hostname", "address": node.name},
            ],
            "allocatable": {"cpu": "8", "memory": "32Gi", "pods": "110"},
            "capacity": {"cpu": "8", "memory": "32Gi", "pods": "110"},
            "conditions": [
                {
                    "type": condition,
                    "status": "False",
                    "lastHeartbeatTime": f"2026-01-01T00:{beat % 60:02}:00Z",
                    "lastTransitionTime": "2026-01-01T00:00:00Z",
                    "reason": "KubeletHasNoProblem",
                    "message": "kubelet has no problem of this sort",
                }
                for condition in conditions
            ],
            "images": [
                {"names": [f"registry.example/image-{n}@sha256:{n:064x}", f"registry.example/image-{n}:v1"], "sizeBytes": n}
                for n in range(50)
            ],
            "nodeInfo": {"kubeletVersion": "v1.30.0", "osImage": "Debian", "architecture": "amd64"},
        },
    }


def path(rounds: int) -> None:
    """What a pod gets on its way out of the cluster: pod, router and server, all on one core; tables in turn.

    The floor is measured twice in each round: what it is beside itself is the noise.
    """
    tables = {"floor": BY_HAND, "ours": render(wanted(nodes(NODES))), "again": BY_HAND, "filter": FILTER_BY_HAND}
    with way_out() as (pod, router, core):
        for version in (4, 6):
            for figure, unit, measure in (("new connections", "1/s", connections), ("TCP, one stream", "Gbit/s", stream)):
                found: dict[str, list[float]] = {name: [] for name in tables}
                for turn in range(rounds):
                    at = turn % len(tables)
                    names = list(tables)[at:] + list(tables)[:at]
                    for name in names if turn % 2 else reversed(names):
                        with router.network():
                            native(EMPTY)
                            native(tables[name])
                        router.run("conntrack", "-F", check=False)
                        time.sleep(0.1)  # the kernel frees the table before
                        found[name].append(measure(pod, core, OUTSIDE[version]))
                told = f"{unit}; two rules of masquerade"
                row(f"pod to outside, IPv{version}, {figure}", found["ours"], found["floor"], f"{told}; goal ratio 0.97")
                row("  the floor beside itself", found["again"], found["floor"], told)
                row("  a filter by hand, without sets", found["filter"], found["floor"], told)


@contextmanager
def way_out() -> Iterator[tuple[Place, Place, str]]:
    """A pod behind a router that has a server on its other side."""
    pod, router, server = (Place(name) for name in ("pod", "router", "server"))
    core = str(max(os.sched_getaffinity(0)))
    router.batch(
        f"link add {DOOR} type veth peer name eth0 netns {pod.pid}",
        f"link add out type veth peer name eth0 netns {server.pid}",
        f"link set {DOOR} up",
        "link set out up",
        f"addr add 10.1.0.1/32 dev {DOOR}",
        f"addr add fd00:1::1/128 dev {DOOR} nodad",
        "addr add 203.0.113.1/24 dev out",
        "addr add 2001:db8:2::1/64 dev out nodad",
        *(f"route add {address} dev {DOOR}" for address in POD.values()),
    )
    pod.batch(
        "link set eth0 up",
        f"addr add {POD[4]}/32 dev eth0",
        f"addr add {POD[6]}/128 dev eth0 nodad",
        "route add 10.1.0.1 dev eth0",
        "route add fd00:1::1 dev eth0",
        "route add default via 10.1.0.1",
        "route add default via fd00:1::1",
    )
    server.batch(
        "link set eth0 up",
        "addr add 203.0.113.2/24 dev eth0",
        "addr add 2001:db8:2::2/64 dev eth0 nodad",
        f"route add local {OUTSIDE[4]}0/24 dev lo",
        f"route add local {OUTSIDE[6]}/64 dev lo",
    )
    router.batch(f"route add {OUTSIDE[4]}0/24 via 203.0.113.2", f"route add {OUTSIDE[6]}/64 via 2001:db8:2::2")
    forwarding = ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", "net.netfilter.nf_conntrack_tcp_timeout_close=1")
    router.run("sysctl", "-qw", *forwarding)
    started = [
        server.popen("taskset", "-c", core, "iperf3", "-s", log="/run/iperf3"),
        server.popen("taskset", "-c", core, sys.executable, "-I", "-c", SERVER, log="/run/server"),
    ]
    time.sleep(1.0)
    try:
        yield pod, router, core
    finally:
        for process in started:
            stop(process)
        for place in (pod, router, server):
            place.close()


def connections(pod: Place, core: str, outside: str) -> float:
    """Connections a second, one after the other: opened, closed by the server, forgotten.

    The 80th percentile of runs of 250, which take 15 ms: what else runs on that core takes whole runs away.
    """
    return float(pod.run("taskset", "-c", core, sys.executable, "-I", "-c", CLIENT, outside, "0.7"))


def stream(pod: Place, core: str, outside: str) -> float:
    """Gbit/s that arrived in a second."""
    said = pod.run("taskset", "-c", core, "iperf3", "-c", f"{outside}1", "-t", "1", "-J")
    return float(json.loads(said)["end"]["sum_received"]["bits_per_second"]) / 1e9


if __name__ == "__main__":
    main()
