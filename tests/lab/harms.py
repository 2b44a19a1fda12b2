"""What can be done to a node from inside and outside of it, and undone: links, files, programs, settings, Nodes."""

import os
import shutil
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

import trustme

from tests.lab.faults import UNSEEN, annotate, says, spoken
from tests.lab.lab import Lab
from tests.lab.node import LINK, LabNode
from tests.lab.pages import HEALTH
from tests.lab.sources import filed, replace_file
from tests.lab.strike import Act
from wigglenet_operator.model.facts import WireGuardKind

NFT = shutil.which("nft") or ""
CERTIFICATE = "/run/metrics.pem"
EXTRA = "extra0"
"""A link that a node announces the addresses of."""
BROKEN = "/run/broken"
"""A directory of the node with programs that come first, and with the source of a bug."""
BUG = f"""
from pathlib import Path
from wigglenet_operator.kernel.cni_file import CniFileTable

seen = CniFileTable.observe

async def observe(table):
    if Path("{BROKEN}/bug").exists():
        raise RuntimeError("a bug")
    return await seen(table)

CniFileTable.observe = observe
"""

TAKEN = "taken"
"""Stands for what the node itself announces."""


def create_node(name: str, notes: Mapping[str, str], *addresses: str) -> Act:
    """Register somebody else's Node; in an annotation, TAKEN is what the node itself has there."""

    def act(lab: Lab, node: LabNode) -> None:
        have = lab.annotations(node.name)
        said = {at: have[at] if text == TAKEN else text for at, text in notes.items()}
        lab.api.admin.create_node(name, (), addresses)
        annotate(lab, name, said)

    return act


def delete_node(name: str) -> Act:
    return lambda lab, _node: lab.api.admin.delete_node(name)


def fill(*lines: str) -> Act:
    """Put these networks into the file; {v4} and {v6} are those that the node has by it."""

    def act(_lab: Lab, node: LabNode) -> None:
        replace_file(node, *(text.format(v4=filed(node, 4), v6=filed(node, 6), own=node.addresses[0]) for text in lines))

    return act


def outside(*command: str) -> Act:
    """Run a program of the machine in the node's network, where nothing is hidden from it."""

    def act(_lab: Lab, node: LabNode) -> None:
        subprocess.run(["nsenter", f"--net=/proc/{node.place.pid}/ns/net", *command], check=True, capture_output=True)

    return act


def restart(_lab: Lab, node: LabNode) -> None:
    """Have another agent."""
    node.stop_agent()
    node.start_agent()


def insist(*, other: bool) -> Act:
    """Set the implementation that the node has, or the other one."""

    def act(lab: Lab, node: LabNode) -> None:
        (kind,) = {*WireGuardKind} - {lab.wireguard} if other else {lab.wireguard}
        node.environment["WIGGLENET_WG_IMPLEMENTATION"] = kind.value
        restart(lab, node)

    return act


def conditional(value: str) -> Act:
    """Have the agent set a condition of its Node, or not; the manifests' role does not let it."""

    def act(lab: Lab, node: LabNode) -> None:
        node.environment["WIGGLENET_NODE_CONDITION"] = value
        restart(lab, node)

    return act


def empty(path: str) -> str:
    """In the place of its directory is an empty one that cannot be written."""
    return f"mount -t tmpfs -o ro none {Path(path).parent}; {UNSEEN} || :"


def full(path: str) -> str:
    return f"umount {Path(path).parent}"


def complete(lab: Lab, node: LabNode) -> None:
    """The Node is given pod networks."""
    node.pod_cidrs = (f"10.1.{node.number}.0/24", f"fd00:10:1:{node.number:x}::/64")
    lab.api.admin.complete_node(node.name, node.pod_cidrs, [str(a) for a in node.addresses])


def unregister(lab: Lab, node: LabNode) -> None:
    lab.api.admin.delete_node(node.name)


def widen(lab: Lab, node: LabNode) -> None:
    lab.set_mtu(node, 1500)


def take_the_name(lab: Lab, node: LabNode) -> None:
    """Have a bridge where the tunnel was."""
    if lab.wireguard is WireGuardKind.USERSPACE:
        node.abandon_wireguard()
    node.place.run("sh", "-c", f"until ip link del {LINK} && ip link add {LINK} type bridge; do :; done")


def give_the_name(lab: Lab, node: LabNode) -> None:
    node.place.run("ip", "link", "del", LINK)
    if lab.wireguard is WireGuardKind.USERSPACE:
        node.start_wireguard()


def start_with_a_bug(_lab: Lab, node: LabNode) -> None:
    directory = node.path(BROKEN)
    directory.mkdir(exist_ok=True)
    (directory / "sitecustomize.py").write_text(BUG)
    (directory / "bug").touch()
    node.stop_agent()
    node.execute_agent(pythonpath=BROKEN)


def mend_the_bug(_lab: Lab, node: LabNode) -> None:
    node.path(f"{BROKEN}/bug").unlink()


def leave_chains(_lab: Lab, node: LabNode) -> None:
    """As Wigglenet's iptables did, with an iptables-restore that does nothing; they are looked for at the start."""
    directory = node.path(BROKEN)
    directory.mkdir(exist_ok=True)
    program = directory / "iptables-nft-restore"
    program.write_text("#!/bin/sh\necho no memory >&2; exit 4\n")
    program.chmod(0o755)
    node.environment["PATH"] = f"{BROKEN}:{os.environ['PATH']}"
    node.stop_agent()  # which would remove them
    node.place.run("iptables-nft", "-N", "WIGGLENET-FIREWALL")
    node.start_agent()


def mend_iptables(_lab: Lab, node: LabNode) -> None:
    node.path(f"{BROKEN}/iptables-nft-restore").unlink()


def certify(_lab: Lab, node: LabNode) -> None:
    """Give the metrics a certificate and its key, in one file."""
    made = trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.bytes()
    node.path(CERTIFICATE).write_bytes(made)


def spoil_certificate(_lab: Lab, node: LabNode) -> None:
    node.path(CERTIFICATE).write_text("no certificate")


class Squatter:
    """Somebody else who listens where an agent should."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None

    def provoke(self, _lab: Lab, node: LabNode) -> None:
        """Be there first."""
        node.stop_agent()
        with node.place.network():
            self._socket = socket.create_server(("127.0.0.1", HEALTH))
        node.start_agent()

    def heal(self, _lab: Lab, _node: LabNode) -> None:
        """Go."""
        assert self._socket
        self._socket.close()


def limit_files(limit: str) -> Act:
    """How many files the agent may have open, as prlimit(1) has it."""

    def act(_lab: Lab, node: LabNode) -> None:
        subprocess.run(["prlimit", "--pid", str(node.agent_pid()), f"--nofile={limit}"], check=True)

    return act


def fight(_lab: Lab, node: LabNode) -> None:
    """Somebody keeps removing what the agent writes."""
    since, text = spoken(node), f"ip route del unreachable {node.pod_cidrs[0]}"
    node.place.run("sh", "-c", f"for i in $(seq 40); do {text} 2>/dev/null; sleep 0.1; done")
    says(node, "[RepairUndone]", since=since)
