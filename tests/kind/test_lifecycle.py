"""Agents that are killed, replaced and removed, nodes that come and go: each test leaves the cluster less than whole.

The mode of kube-proxy makes no difference to connections between pods: killing, upgrading and joining run in one mode each.
"""

import contextlib
import re
from collections.abc import Iterator
from functools import partial

from tests.kind.cluster import IPTABLES, NFTABLES, PROBE_IMAGE, ROOT, Cluster, ToolError, in_clusters_of
from tests.lab.wait import eventually


@contextlib.contextmanager
def unbroken(cluster: Cluster) -> Iterator[None]:
    """Echoes every 20 ms and an open connection over every pair of pods; none lost, none broken."""
    talks = [one.talk(other.addresses[version]) for one, other, version in cluster.pairs()]
    with cluster.no_loss():
        yield
    for talk in talks:
        said = talk.said()
        assert re.fullmatch(r"[1-9]\d* lines came back\n", said), f"{talk.title}: {said}"


def settled(cluster: Cluster, node: str) -> None:
    """Wait until the node's agent has seen the cluster: what is removed now is put back."""
    route = f"unreachable {cluster.pod_networks(node)[0]}"
    cluster.agent(node, "ip", "route", "del", *route.split())
    eventually(lambda: route in cluster.agent(node, "ip", "route"), what=f"{node}'s agent works", seconds=20)


@in_clusters_of(NFTABLES)
def test_agents_that_are_killed_cost_no_packet_and_no_connection(cluster: Cluster) -> None:
    with unbroken(cluster):
        for node in cluster.nodes():
            cluster.on_node(node, "pkill", "-KILL", "-f", "wigglenet_operator run")
        for node in cluster.nodes():
            restarted = partial(restarts, cluster, node)
            eventually(restarted, what=f"the agent of {node} is back", seconds=60)
            settled(cluster, node)
    cluster.expect_mesh()


def restarts(cluster: Cluster, node: str) -> int:
    """How often the running agent of a node was restarted; 0 while it does not run."""
    pod = cluster.agent_pod(node)
    (status,) = pod["status"]["containerStatuses"]
    return int(status["restartCount"]) if status["ready"] else 0


@in_clusters_of(IPTABLES)
def test_a_rolling_upgrade_costs_no_packet_and_no_connection(cluster: Cluster) -> None:
    images = [f"{container}={PROBE_IMAGE}" for container in ("agent", "install-plugins")]
    with unbroken(cluster):
        cluster.kubectl("-n", "kube-system", "set", "image", "ds/wigglenet-operator", *images)
        cluster.rolled_out("wigglenet-operator")
        for node in cluster.nodes():
            settled(cluster, node)
    for node in cluster.nodes():
        assert cluster.agent(node, "ls", "/probe.py") == "/probe.py\n", "the newer image runs"
    cluster.expect_mesh()


@in_clusters_of(IPTABLES)
def test_a_node_that_is_deleted_is_forgotten_and_is_back_when_it_joins(cluster: Cluster) -> None:
    *staying, leaving = sorted(cluster.nodes())

    def peers(node: str) -> int:
        return len(cluster.agent(node, "wg", "show", "wigglenet", "peers").split())

    cluster.on_node(leaving, "systemctl", "stop", "kubelet")
    cluster.kubectl("delete", "node", leaving)
    configured = ("find", "/etc/cni/net.d", "-name", "10-wigglenet.conflist")
    eventually(lambda: not cluster.on_node(leaving, *configured), what="no pod starts there with the network of before")
    there = ("-A", f"--field-selector=spec.nodeName={leaving}")
    cluster.kubectl("delete", "pods", *there, "--force", "--grace-period=0")  # the control plane does it in a minute
    for node in staying:
        eventually(lambda n=node: peers(n) == 1, what=f"{node} has one peer", seconds=90)  # type: ignore[misc]  # bool
    cluster.on_node(leaving, "systemctl", "start", "kubelet")
    eventually(lambda: leaving in cluster.nodes(), what=f"{leaving} has joined", seconds=60)
    cluster.ready()
    for probe in ("probe", "node-probe"):
        cluster.rolled_out(probe, namespace="default")
    cluster.expect_mesh(seconds=60)


OURS = r"""
ip -o link show wigglenet
ip route show proto 157; ip -6 route show proto 157
nft list tables | grep wigglenet
find /etc/cni/net.d /etc/wigglenet /run/wigglenet ! -type d | grep -v -e loopback
"""
"""What the agent leaves on a node, a line each."""
LEASES = "find /run/cni-ipam-state ! -type d"


def test_what_the_documents_say_to_remove_it_all_leaves_nothing_on_a_node(cluster: Cluster) -> None:
    """And the key only until it is purged."""
    end, *jobs, forget, _ = commands("## Remove it all")
    for name in cluster.nodes():
        cluster.on_node(name, "touch", "/etc/wigglenet/private.key.corrupt-1")
    before = {name: set(cluster.get("node", name)["metadata"]["annotations"]) for name in cluster.nodes()}
    cluster.shell(end)
    said = [cluster.shell(command) for command in jobs][-1]

    assert said.count("removed table inet wigglenet\n") == len(before)
    for name, annotated in before.items():
        keys = {f"/etc/wigglenet/private.key{aside}" for aside in ("", ".corrupt-1")}
        assert set(cluster.on_node(name, "sh", "-c", f"{OURS} true").splitlines()) == keys
        now = set(cluster.get("node", name)["metadata"]["annotations"])
        assert now == {each for each in annotated if not each.startswith("wigglenet/")}
    cluster.shell(forget)
    said = [cluster.shell(command.replace("s|THIS", r"s|args: .*|args: [cleanup, --purge]|; s|THIS")) for command in jobs][-1]
    assert said.count("removed /etc/wigglenet/private.key\n") == len(before)
    for name in before:
        assert cluster.on_node(name, "sh", "-c", f"{OURS} {LEASES}") == ""
    cluster.shell(forget)


def commands(section: str) -> list[str]:
    """What the section's command block has an administrator type."""
    text = (ROOT / "docs/upgrade.md").read_text().partition(f"\n{section}\n")[2]
    return re.findall(r"^\$ (.*)$", text.partition("```console\n")[2].partition("```")[0], re.MULTILINE)


def test_what_was_applied_can_be_deleted_and_the_api_server_has_nothing_of_it(cluster: Cluster) -> None:
    cluster.uninstall()

    everything = "ds,pods,sa,clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings"
    eventually(lambda: "wigglenet-operator" not in named(cluster, everything), what="nothing of ours is left", seconds=60)
    assert "kube-proxy" in named(cluster, everything), "and all that is not ours is"


def named(cluster: Cluster, kinds: str) -> str:
    """Names of what there is, pods that go included."""
    with contextlib.suppress(ToolError):  # of what goes meanwhile kubectl complains
        return cluster.kubectl("get", kinds, "-A", "-o", "name")
    return "wigglenet-operator: could not be asked"
