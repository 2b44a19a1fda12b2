"""Acts on a machine: its files, links, routes, sysctls, WireGuard and firewall."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import trustme

from tests.lab.faults.fault import Act, neighbour, run
from tests.lab.lab import Lab
from tests.lab.node import CONFLIST, KEY, LINK, LabNode
from tests.lab.sources import filed, replace_file
from tests.lab.wait import eventually
from wigglenet_operator.model.facts import WireGuardKind

NFT = shutil.which("nft") or ""
CERTIFICATE = "/run/metrics.pem"
OTHER_CNI = f"{Path(CONFLIST).parent}/05-other.conf"
"""The configuration of another network plugin, which precedes ours."""
EXTRA = "extra0"
"""A link whose addresses a node announces."""
REMOVE_UNREACHABLE = "ip route del unreachable {own4}"
"""This change affects no packet.  An agent that repairs it is running."""

# Files


def write_pod_networks(*lines: str) -> Act:
    """Replace the file with the node's pod networks; {v4} and {v6} are the networks that the file should have."""

    def act(_lab: Lab, node: LabNode) -> None:
        replace_file(node, *(text.format(v4=filed(node, 4), v6=filed(node, 6)) for text in lines))

    return act


def mount_read_only(path: str) -> Act:
    """Mount an empty read-only file system over the directory of a file; the agent must notice that the file is missing."""
    return run(f"mount -t tmpfs -o ro none {Path(path).parent}; {REMOVE_UNREACHABLE} || :")


def unmount(path: str) -> Act:
    """Unmount the file system over the directory of a file."""
    return run(f"umount {Path(path).parent}")


def damage_key(_lab: Lab, node: LabNode) -> None:
    """Overwrite the private key; the agent keeps a damaged file under another name, so remove earlier ones first."""
    for kept in node.path(KEY).parent.glob("*.corrupt-*"):
        kept.unlink()
    node.path(KEY).write_text("garbage")


def damaged_key_is_kept(_lab: Lab, node: LabNode) -> bool:
    """Whether the agent has kept the file that `damage_key` wrote."""
    return [path.read_text() for path in node.path(KEY).parent.glob("private.key.corrupt-*")] == ["garbage"]


def write_certificate(_lab: Lab, node: LabNode) -> None:
    """Write a certificate and its key, for the metrics server, into one file."""
    made = trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.bytes()
    node.path(CERTIFICATE).write_bytes(made)


def damage_certificate(_lab: Lab, node: LabNode) -> None:
    """Overwrite the certificate of the metrics server."""
    node.path(CERTIFICATE).write_text("no certificate")


# Links, routes and sysctls


def set_mtu(mtu: int) -> Act:
    """Set the MTU of the node's underlay link."""
    return lambda lab, node: lab.set_mtu(node, mtu)


def sysctl(setting: str) -> Act:
    """Set a sysctl, `name=value`."""
    return run(f"sysctl -qw {setting}")


def nsenter(*command: str) -> Act:
    """Run a program of this machine in the node's network namespace only; mounts of the node do not affect it."""

    def act(_lab: Lab, node: LabNode) -> None:
        subprocess.run(["nsenter", f"--net=/proc/{node.place.pid}/ns/net", *command], check=True, capture_output=True)

    return act


def replace_link_by_bridge(lab: Lab, node: LabNode) -> None:
    """Replace the tunnel link by a bridge of the same name."""
    if lab.wireguard is WireGuardKind.USERSPACE:
        node.abandon_wireguard()
    node.place.run("sh", "-c", f"until ip link del {LINK} && ip link add {LINK} type bridge; do :; done")


def remove_bridge(lab: Lab, node: LabNode) -> None:
    """Remove the bridge, and start the userspace WireGuard if the lab uses it."""
    node.place.run("ip", "link", "del", LINK)
    if lab.wireguard is WireGuardKind.USERSPACE:
        node.start_wireguard()


def replace_route(version: int) -> Act:
    """Replace a tunnel route by one through a router that does not exist, so that no packet leaves in clear."""

    def act(lab: Lab, node: LabNode) -> None:
        since, network = node.log_size(), neighbour(lab, node).pod_cidrs[version == 6]
        via = "2001:db8::fa metric 1024" if version == 6 else "192.0.2.250"
        node.place.run(*f"ip -{version} route replace {network} dev eth0 proto static via {via}".split())
        node.wait_logged(f"problem: route {network} dev eth0", since=since)

    return act


def remove_route_repeatedly(_lab: Lab, node: LabNode) -> None:
    """Remove a route of the agent 40 times; return when the agent reports that its repair is undone."""
    since, text = node.log_size(), f"ip route del unreachable {node.pod_cidrs[0]}"
    node.place.run("sh", "-c", f"for i in $(seq 40); do {text} 2>/dev/null; sleep 0.1; done")
    node.wait_logged("[RepairUndone]", since=since)


# WireGuard and firewall


def set_peer(*settings: str) -> Act:
    """Run `wg set` for the WireGuard peer that is the node's neighbour."""

    def act(lab: Lab, node: LabNode) -> None:
        network = neighbour(lab, node).pod_cidrs[0]
        (key,) = (key for key, peer in node.wireguard().items() if network in peer.allowed_ips)
        node.place.run("wg", "set", LINK, "peer", key, *settings)

    return act


def kill_wireguard(_lab: Lab, node: LabNode) -> None:
    """Kill wireguard-go; its link ends with it."""
    pid = node.wireguard_pid()
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not Path(f"/proc/{pid}").exists(), what="wireguard-go has ended, and its link with it")


def freeze_wireguard(lab: Lab, node: LabNode) -> None:
    """Stop wireguard-go by SIGSTOP; return when the agent reports it."""
    since = node.log_size()
    os.kill(node.wireguard_pid(), signal.SIGSTOP)
    run(REMOVE_UNREACHABLE)(lab, node)
    node.wait_logged("WireGuard device", "no answer", since=since)


def thaw_wireguard(_lab: Lab, node: LabNode) -> None:
    """Continue wireguard-go."""
    os.kill(node.wireguard_pid(), signal.SIGCONT)


def change_firewall(command: str) -> Act:
    """Run an nft command that changes the agent's table; return when the agent reports the process that changed it."""

    def act(lab: Lab, node: LabNode) -> None:
        since = node.log_size()
        run(command)(lab, node)
        node.wait_logged("table inet wigglenet was changed", "process nft", since=since)

    return act
