"""`nox -s bench`: start, join and memory of one agent, each with its floor from the same run.

The floor of a figure is what the same machine needs for the part that no agent can save: the interpreter with the same
imports (start, memory), a bare watch of the API server (join).
"""

import argparse
import asyncio
import base64
import contextlib
import hashlib
import json
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from pyroute2 import AsyncIPRoute

from tests.lab.lab import Lab
from tests.lab.node import LabNode
from tests.lab.wait import eventually
from wigglenet_operator.kernel.routes import dump_routes

IMPORTS = "import wigglenet_operator.agent.run, wigglenet_operator.settings, wigglenet_operator.logs"
RTMGRP_IPV4_ROUTE = 0x40
RTA_DST = 1
RTM_NEWROUTE = 24


def main() -> None:
    """Print a line for each figure."""
    parser = argparse.ArgumentParser(prog="nox -s bench --", description=__doc__)
    parser.add_argument("--api", choices=["embedded", "kube"], default="embedded")
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--joins", type=int, default=50)
    arguments = parser.parse_args()
    print(f"{'figure':<44}{'p50':>9}{'max':>9}{'floor':>9}  unit, what the floor is", flush=True)
    with Lab(api=arguments.api) as lab:
        node = lab.add_node("a", agent=False)
        node.start_wireguard()
        start(node)
        join(lab, node, arguments.joins)
        memory(lab, node, arguments.nodes)


def row(figure: str, values: Sequence[float], floor: float, told: str) -> None:
    """One line of the table."""
    print(f"{figure:<44}{statistics.median(values):>9.1f}{max(values):>9.1f}{floor:>9.1f}  {told}", flush=True)


def start(node: LabNode, *, runs: int = 5) -> None:
    """From the agent's exec to the CNI file, in pairs with the imports alone."""
    took, floors = [], []
    for _ in range(runs):
        begun = time.monotonic()
        subprocess.run([sys.executable, "-c", f"{IMPORTS}, os; os._exit(0)"], check=True)
        floors.append(time.monotonic() - begun)
        begun = time.monotonic()
        node.start_agent()
        node.wait_ready()
        took.append(time.monotonic() - begun)
        node.stop_agent()
        node.path("/etc/cni/net.d/10-wigglenet.conflist").unlink()
    ratio = statistics.median(a / b for a, b in zip(took, floors, strict=True))
    row(
        "start to CNI file",
        took,
        statistics.median(floors),
        f"s; interpreter and imports; ratio {ratio:.2f} in pairs (goal < 3 s)",
    )


class Routes:
    """When each IPv4 route appeared on a node, by destination, from the kernel's own events."""

    def __init__(self, node: LabNode) -> None:
        with node.place.network():
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.bind((0, RTMGRP_IPV4_ROUTE))
        self.seen: dict[str, float] = {}
        threading.Thread(target=self._collect, daemon=True).start()

    def _collect(self) -> None:
        while message := self._socket.recv(65536):
            now = time.monotonic()
            unreachable = message[16 + 7] == 7  # rtmsg.rtm_type RTN_UNREACHABLE
            if int.from_bytes(message[4:6], "little") == RTM_NEWROUTE and not unreachable:
                at = 28
                while at + 4 <= len(message):
                    length, kind = (
                        int.from_bytes(message[at : at + 2], "little"),
                        int.from_bytes(message[at + 2 : at + 4], "little"),
                    )
                    if kind == RTA_DST:
                        self.seen.setdefault(socket.inet_ntoa(message[at + 4 : at + 8]), now)
                    at += max(4, (length + 3) & ~3)


def announcement(number: int) -> dict[str, str]:
    """What the agent of that Node would publish."""
    key = base64.b64encode(hashlib.sha256(str(number).encode()).digest()).decode()
    cidrs = [f"fd00:77:{number:x}::/64", f"10.{100 + number // 256}.{number % 256}.0/24"]
    return {"wigglenet/public-key": key, "wigglenet/node-ips": "[]", "wigglenet/pod-cidrs": json.dumps(cidrs)}


def register(lab: Lab, number: int) -> None:
    """A Node without an agent yet."""
    four, six = f"192.0.2.{100 + number % 150}", f"2001:db8:1::{number:x}"
    cidrs = json.loads(announcement(number)["wigglenet/pod-cidrs"])
    lab.api.admin.create_node(f"n{number}", cidrs, [six] if number >= 150 else [four, six])


def announce(lab: Lab, number: int) -> float:
    """Publish, and when it was begun."""
    begun = time.monotonic()
    lab.api.admin.patch(f"/api/v1/nodes/n{number}", {"metadata": {"annotations": announcement(number)}})
    return begun


def join(lab: Lab, node: LabNode, joins: int) -> None:
    """From the patch that announces a Node to its route in the kernel (its peer is there before)."""
    node.start_agent()
    node.wait_ready()
    routes, events = Routes(node), Watch(lab)
    took, floors = [], []
    for number in range(joins):
        register(lab, number)
        time.sleep(0.4)  # as a machine that boots: the agent has seen the bare Node and is quiet again
        begun = announce(lab, number)
        destination = f"10.{100 + number // 256}.{number % 256}.0"
        eventually(lambda d=destination: d in routes.seen, what=f"route to {destination}")  # type: ignore[misc]  # bool
        took.append((routes.seen[destination] - begun) * 1000)
        floors.append((events.seen[f"n{number}"] - begun) * 1000)
    row("join: announcement to peer and route", took, statistics.median(floors), "ms; a bare watch's event (goal p50 < 60 ms)")


class Watch:
    """When a bare watch saw each Node's announcement."""

    def __init__(self, lab: Lab) -> None:
        self.seen: dict[str, float] = {}
        version = lab.api.admin.get("/api/v1/nodes")["metadata"]["resourceVersion"]
        self._events = lab.api.admin.watch("/api/v1/nodes", resourceVersion=version)
        threading.Thread(target=self._collect, daemon=True).start()

    def _collect(self) -> None:
        with contextlib.suppress(TimeoutError):  # nothing happens any more: the joins are over
            for event in self._events:
                metadata = event["object"]["metadata"]
                if "wigglenet/public-key" in (metadata.get("annotations") or {}):
                    self.seen.setdefault(metadata["name"], time.monotonic())


def memory(lab: Lab, node: LabNode, nodes: int) -> None:
    """Resident memory of an agent that knows that many Nodes, beside the imports alone."""
    for number in range(200, 200 + nodes):
        register(lab, number)
        announce(lab, number)
    eventually(lambda: len(node.wireguard()) >= nodes, what=f"{nodes} peers", seconds=120)
    node.stop_agent()
    node.start_agent()
    eventually(lambda: settled(node), what="the agent is quiet", seconds=120)
    idle = subprocess.Popen(
        [sys.executable, "-c", f"{IMPORTS}; print(flush=True); input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert idle.stdout
    idle.stdout.readline()
    floor = resident(idle.pid)
    idle.communicate(b"\n")
    reading(node)
    pid = node.agent_pid()
    value = resident(pid)
    row(f"resident memory at {nodes} Nodes", [value], floor, f"MiB; the imports alone; +{value - floor:.1f} (goal + 25)")
    spent = cpu(pid)
    time.sleep(30)
    row(
        f"CPU when nothing happens, {nodes} Nodes",
        [(cpu(pid) - spent) / 30 * 100],
        0.0,
        f"% of a core; start took {spent:.1f} s of CPU",
    )


def reading(node: LabNode, *, runs: int = 5) -> None:
    """The routes through the tunnel by own bytes, in pairs with pyroute2."""

    async def by_library() -> int:
        async with AsyncIPRoute(strict_check=True) as socket_:
            found = 0
            for family in (2, 10):
                async for m in await socket_.route(
                    "dump", family=family, table=254, type="unicast", dump_filter=lambda _: True
                ):
                    found += bool((m.get("dst"), m.get("priority"), m["proto"]))
            return found

    took, floors = [], []
    with node.place.network():
        for _ in range(runs):
            begun = time.monotonic()
            own = len(dump_routes(kind=1))
            took.append((time.monotonic() - begun) * 1000)
            begun = time.monotonic()
            library = asyncio.run(by_library())
            floors.append((time.monotonic() - begun) * 1000)
    assert own == library
    row(f"read {own} routes", took, statistics.median(floors), "ms; pyroute2, no floor: why the bytes are our own")


def settled(node: LabNode) -> bool:
    """Whether the agent's CPU time stands still for a second."""
    pid = node.agent_pid()
    before = cpu(pid)
    time.sleep(1.0)
    return cpu(pid) > 1.0 and cpu(pid) - before < 0.05


def cpu(pid: int) -> float:
    """User and system seconds of a process (proc(5), fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def resident(pid: int) -> float:
    """MiB (proc(5), VmRSS)."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
