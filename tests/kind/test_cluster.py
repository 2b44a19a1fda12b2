"""What a user of a cluster sees, by kubectl and from inside of pods; the later tests leave the cluster less than whole."""

import contextlib
import json
import re
from collections.abc import Iterator
from functools import partial
from ipaddress import ip_address

from tests.kind.cluster import MANIFESTS, ROOT, Cluster, ToolError, run
from tests.lab.wait import eventually
from wigglenet_operator import __version__

NEWER = "wigglenet-probe:test"
"""The same agent in another image."""


def test_the_rendered_manifests_are_up_to_date() -> None:
    for overlay, rendered in MANIFESTS.items():
        text = run("kubectl", "kustomize", str(ROOT / overlay))
        assert text == (ROOT / rendered).read_text(), f"{rendered} is not what {overlay} says: run `nox -s manifests`"


def test_every_node_is_ready_and_says_so(cluster: Cluster) -> None:
    cluster.ready()
    for node in cluster.get("nodes")["items"]:
        status = json.loads(node["metadata"]["annotations"]["wigglenet/status"])
        assert (status["version"], status["problems"]) == (__version__, []), node["metadata"]["name"]


def test_agents_are_not_restarted_and_have_two_capabilities(cluster: Cluster) -> None:
    for pod in cluster.get("-n", "kube-system", "pods", "-l", "app.kubernetes.io/name=wigglenet-operator")["items"]:
        assert [status["restartCount"] for status in pod["status"]["containerStatuses"]] == [0]
    for node in cluster.nodes():
        bits = next(line for line in cluster.agent(node, "cat", "/proc/1/status").splitlines() if line.startswith("CapEff"))
        assert int(bits.split()[1], 16) == 1 << 12 | 1 << 1  # linux/capability.h: CAP_NET_ADMIN, CAP_DAC_OVERRIDE


def test_pods_reach_pods_of_all_nodes_with_their_own_address(cluster: Cluster) -> None:
    cluster.expect_mesh()
    for one, other, version in cluster.pairs():
        assert one.reaches(other.addresses[version], 8080) == {"pod": other.hostname, "seen": str(one.addresses[version])}


def test_nodes_reach_all_pods_and_pods_their_node(cluster: Cluster) -> None:
    for pod in cluster.pods():
        for host in cluster.probes("node-probe"):
            for version in (4, 6):
                assert host.reaches(pod.addresses[version], 8080)["pod"] == pod.hostname
                if pod.node == host.node:  # to others when masquerading is there
                    assert pod.reaches(host.addresses[version], 18081)["pod"] == host.hostname


def test_services_answer_in_both_families_from_every_node(cluster: Cluster) -> None:
    service = cluster.get("service", "probe")["spec"]
    names = {pod.hostname for pod in cluster.pods()}
    for pod in cluster.pods() + cluster.probes("node-probe"):
        for address in map(ip_address, service["clusterIPs"]):
            answers = {pod.reaches(address, 80)["pod"] for _ in range(3)}
            assert answers <= names


def test_names_are_resolved(cluster: Cluster) -> None:
    addresses = {ip_address(text) for text in cluster.get("service", "probe")["spec"]["clusterIPs"]}
    for pod in cluster.pods():
        name = "probe.default.svc.cluster.local"
        eventually(partial(pod.resolve, name), what=f"{pod.name} resolves {name}", seconds=30)
        assert pod.resolve(name) == addresses


def test_node_ports_and_host_ports_answer_on_every_node(cluster: Cluster) -> None:
    port = cluster.get("service", "probe")["spec"]["ports"][0]["nodePort"]
    on_node = {pod.node: pod.hostname for pod in cluster.pods()}
    for one in cluster.probes("node-probe"):
        for node, addresses in cluster.nodes().items():
            if node != one.node:
                for address in addresses.values():
                    assert one.reaches(address, port)["pod"] in on_node.values()
                    assert one.reaches(address, 18080)["pod"] == on_node[node]


@contextlib.contextmanager
def unbroken(cluster: Cluster) -> Iterator[None]:
    """Echoes every 10 ms and an open connection over every pair of pods; none lost, none broken."""
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


def test_agents_that_are_killed_cost_no_packet_and_no_connection(cluster: Cluster) -> None:
    with unbroken(cluster):
        for node in cluster.nodes():
            cluster.on_node(node, "pkill", "-KILL", "-f", "wigglenet_operator run")
            restarted = partial(restarts, cluster, node)
            eventually(restarted, what=f"the agent of {node} is back", seconds=60)
            settled(cluster, node)
    cluster.expect_mesh()


def restarts(cluster: Cluster, node: str) -> int:
    """How often the running agent of a node was restarted; 0 while it does not run."""
    pod = cluster.agent_pod(node)
    (status,) = pod["status"]["containerStatuses"]
    return int(status["restartCount"]) if status["ready"] else 0


def test_a_rolling_upgrade_costs_no_packet_and_no_connection(cluster: Cluster) -> None:
    images = [f"{container}={NEWER}" for container in ("agent", "install-plugins")]
    with unbroken(cluster):
        cluster.kubectl("-n", "kube-system", "set", "image", "ds/wigglenet-operator", *images)
        cluster.rolled_out("wigglenet-operator")
        for node in cluster.nodes():
            settled(cluster, node)
    for node in cluster.nodes():
        assert cluster.agent(node, "ls", "/probe.py") == "/probe.py\n", "the newer image runs"
    cluster.expect_mesh()


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
