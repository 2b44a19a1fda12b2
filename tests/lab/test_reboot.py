"""A node that boots: pods start when everything is in force, and not before."""

from tests.lab.lab import Lab
from tests.lab.node import CONFLIST, LINK, LabNode
from tests.lab.sources import gateways
from tests.lab.state import IDENTITY, node_state
from tests.lab.wait import eventually
from wigglenet_operator.model.facts import WireGuardKind

MARKER = "/run/wigglenet/boot"
REBOOTED = """ip route flush proto 157; ip -6 route flush proto 157; nft flush ruleset
sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0; rm -rf /run/cni-ipam-state"""


def reboot(lab: Lab, node: LabNode) -> None:
    """What is left of a node when it has booted: disks, on which the CNI file lies, and that /run is of another boot."""
    node.kill()
    if lab.wireguard is WireGuardKind.USERSPACE:
        node.stop_wireguard()
    else:
        node.place.run("ip", "link", "del", LINK)
    node.place.run("sh", "-c", REBOOTED)
    node.path(MARKER).parent.mkdir(exist_ok=True)
    node.path(MARKER).write_text("4711\n")


def test_after_a_reboot_pods_start_when_everything_is_in_force(lab: Lab) -> None:
    """The agent is frozen as soon as the CNI file is there: what is there then was there before."""
    node = lab.nodes["c"]
    lab.expect_mesh()
    pod = node.pods.pop("pod-c")
    pod.delete()
    node.wait_working()  # so the pod is forgotten, its link and each of its addresses
    before, said = node_state(lab, node), node.log_size()
    reboot(lab, node)
    node.place.run("ip", "link", "set", "api0", "down")
    assert node.conflist(), "a reboot does not take it away"
    lab.start(node)
    eventually(lambda: node.conflist() is None, what="the CNI file has gone, without an API server")
    eventually(
        lambda: "Cannot connect" in node.log()[said:] or "API server" in node.log()[said:],
        what="it looks for the API server",
        seconds=20,
    )
    assert not node.path(CONFLIST).exists()
    assert not node.routes()

    lab.api.admin.patch("/api/v1/nodes/c", {"metadata": {"annotations": dict.fromkeys(IDENTITY)}})
    node.place.run("ip", "link", "set", "api0", "up")
    try:
        eventually(node.path(CONFLIST).exists, what="pods may start", seconds=30)
        node.freeze()
        assert node_state(lab, node) == before
    finally:
        node.thaw()
    assert gateways(node)
    lab.expect_mesh()
