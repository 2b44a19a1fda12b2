"""`python -m tests.bench.change`: CPU and memory of an agent for one change of the cluster or of its node.

CPU is that of the agent's process, so that it can be compared on a machine that does other things too.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from ipaddress import ip_network

from tests.bench.__main__ import Routes, announce, cpu, register, resident, settled
from tests.lab.lab import Lab
from tests.lab.node import LabNode
from tests.lab.wait import eventually

PAUSE = 0.5
"""Seconds between two changes, and before the CPU time is read: a change may have consequences."""


def main() -> None:
    """Print a line for each figure."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.change", description=__doc__)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--pods", type=int, default=60)
    parser.add_argument("--changes", type=int, default=40)
    arguments = parser.parse_args()
    with Lab() as lab:
        node = lab.add_node("a", agent=False)
        node.start_wireguard()
        for number in range(arguments.nodes):
            register(lab, number)
            announce(lab, number)
        for number in range(arguments.pods):
            start_pod(node, number)
        node.start_agent()
        eventually(lambda: len(node.wireguard()) >= arguments.nodes, what="every peer is there", seconds=120)
        eventually(lambda: settled(node), what="the agent is quiet", seconds=120)
        print(f"{arguments.nodes} Nodes, {arguments.pods} pods: start {cpu(node.agent_pid()):.1f} s of CPU")
        measure(lab, node, arguments.nodes, arguments.pods, arguments.changes)


def measure(lab: Lab, node: LabNode, nodes: int, pods: int, changes: int) -> None:
    """All figures; what nothing costs is taken from the others, for the resync goes on meanwhile."""
    row(node, "nothing", lambda _: None, changes, goal="goal < 1 ms a second, which is 0.5")
    row(node, "a pod starts", lambda n: start_pod(node, pods + n), changes, goal="goal < 10 ms")
    row(node, "a pod stops", lambda n: stop_pod(node, pods + n), changes, goal="goal < 10 ms")
    row(node, "a heartbeat of a Node", lambda n: heartbeat(lab, n), changes, goal="goal < 0.9 ms")
    routes, took = Routes(node), list[float]()

    def join(number: int) -> None:
        register(lab, nodes + number)
        time.sleep(0.2)
        begun = announce(lab, nodes + number)
        destination = f"10.{100 + (nodes + number) // 256}.{(nodes + number) % 256}.0"
        eventually(lambda: destination in routes.seen, what=f"route to {destination}")
        took.append((routes.seen[destination] - begun) * 1000)

    row(node, "a Node joins: registered, announced", join, changes, goal="goal < 20 ms")
    took.sort()
    p99 = took[-max(1, len(took) // 100)]
    print(f"{'announced to routed':<40}{statistics.median(took):>8.1f}{p99:>8.1f}  ms, p50 and p99; goals < 30 and < 100")
    print(f"{'resident memory':<40}{resident(node.agent_pid()):>8.1f}          MiB")


def row(node: LabNode, figure: str, change: Callable[[int], None], times: int, *, goal: str) -> None:
    """CPU of one change, with its consequences."""
    pid = node.agent_pid()
    began, before = time.monotonic(), cpu(pid)
    for number in range(times):
        change(number)
        time.sleep(PAUSE)
    spent, seconds = cpu(pid) - before, time.monotonic() - began
    print(
        f"{figure:<40}{spent / times * 1000:>8.1f}          ms of CPU each, {seconds / times:.2f} s apart; {goal}", flush=True
    )


def start_pod(node: LabNode, number: int) -> None:
    """What the CNI plugin `ptp` leaves on the node: a link, the gateway's addresses, a route of each family."""
    link, (v4, v6) = f"veth{number}", map(ip_network, node.pod_cidrs)
    four, six = v4.network_address + 5 + number, v6.network_address + 5 + number
    node.place.batch(
        f"link add {link} type veth peer name vethp{number}",
        f"link set {link} up",
        f"link set vethp{number} up",
        f"addr add {v4.network_address + 1}/32 dev {link}",
        f"addr add {v6.network_address + 1}/128 dev {link} nodad",
        f"route add {four}/32 dev {link} scope host",
        f"route add {six}/128 dev {link}",
    )


def stop_pod(node: LabNode, number: int) -> None:
    """As the plugin and the kernel do it."""
    node.place.batch(f"link del veth{number}")


def heartbeat(lab: Lab, number: int) -> None:
    """What a kubelet writes when nothing has changed."""
    condition = {"type": "Ready", "status": "True", "lastHeartbeatTime": f"2026-01-01T00:00:{number % 60:02}Z"}
    lab.api.admin.patch(f"/api/v1/nodes/n{number}/status", {"status": {"conditions": [condition]}})


if __name__ == "__main__":
    main()
