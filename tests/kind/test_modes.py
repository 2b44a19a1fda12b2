"""Clusters of one family, IPv6 first, and without podCIDR; nodes whose pods the underlay routes. Two nodes are enough."""

import json
from functools import partial
from ipaddress import ip_address, ip_network
from itertools import permutations
from pathlib import Path

from tests.kind.cluster import MODES, Cluster, Json, ProbePod, Setup, in_clusters_of, overlay
from tests.kind.test_firewall import expect_inside
from tests.kind.test_lifecycle import unbroken
from tests.lab.wait import eventually

IPV4_ONLY = Setup("nftables", "ipv4-only", ("modes/ipv4-only",))
IPV6_ONLY = Setup("iptables", "ipv6-only", ("modes/ipv6-only",))
IPV6_FIRST = Setup("nftables", "ipv6-first")
NO_POD_CIDR = Setup("iptables", "no-pod-cidr", ("modes/file",))
FILE = "/etc/wigglenet/pod-networks"


def expect_everything(cluster: Cluster) -> None:
    """What a cluster of both families has, in each that there is."""
    cluster.ready()
    cluster.expect_mesh()
    service = cluster.get("service", "probe")["spec"]
    assert [ip_address(text).version for text in service["clusterIPs"]] == cluster.families
    for pod in cluster.pods():
        assert sorted(pod.addresses) == sorted(cluster.families), pod.name
    expect_inside(cluster)


@in_clusters_of(IPV4_ONLY, IPV6_ONLY)
def test_a_cluster_of_one_family_has_all_that_one_of_both_has(cluster: Cluster) -> None:
    expect_everything(cluster)


@in_clusters_of(IPV6_FIRST)
class TestIPv6First:
    def test_the_api_server_takes_every_mode_to_the_letter(self, bare: Cluster, tmp_path: Path) -> None:
        for mode in MODES:
            where = str(overlay(tmp_path, mode))
            bare.kubectl("apply", "-k", where, "--dry-run=server", "--validate=strict", "-o", "name")

    def test_pods_that_the_underlay_routes_need_neither_link_nor_key(self, bare: Cluster) -> None:
        bare.install("modes/native-routing")
        bare.ready()
        bare.probe()
        for node, network, via in routes(bare):
            bare.on_node(node, "ip", "route", "add", network, "via", via)

        expect_everything(bare)
        for pod in bare.pods():
            assert mtu(bare.on_node(pod.node, "ip", "-j", "link", "show", "eth0")) == mtu(
                pod.exec("ip", "-j", "link", "show", "eth0")
            )
            assert "wigglenet" not in bare.on_node(pod.node, "ip", "-br", "link")
            assert "proto 157" not in bare.on_node(pod.node, "sh", "-c", "ip route; ip -6 route")
            assert bare.on_node(pod.node, "ls", "-A", "/etc/wigglenet") == ""
            assert bare.annotation(pod.node, "public-key") is None

    def test_the_same_pods_are_connected_by_the_tunnel_when_the_mode_is_left(
        self, bare: Cluster, wireguard: tuple[str, ...]
    ) -> None:
        for node, network, via in routes(bare):
            bare.on_node(node, "ip", "route", "del", network, "via", via)
        bare.install(*wireguard)
        bare.rolled_out("wigglenet-operator")

        expect_everything(bare)
        for pod in bare.pods():
            assert bare.annotation(pod.node, "public-key")
            assert len(bare.agent(pod.node, "wg", "show", "wigglenet", "peers").split()) == 1


@in_clusters_of(NO_POD_CIDR)
class TestFile:
    def test_a_node_waits_for_its_file_and_says_so(self, bare: Cluster, wireguard: tuple[str, ...]) -> None:
        bare.install(*wireguard, *bare.setup.components)
        first, second = sorted(bare.nodes())

        for node in (first, second):
            eventually(partial(waits, bare, node), what=f"{node} says which file it waits for", seconds=60)
            assert bare.pod_networks(node) == []
        write(bare, first, number=1)
        bare.ready(first)
        assert waits(bare, second)
        assert ready_condition(bare, second)["status"] == "False"
        write(bare, second, number=2)

        bare.ready()
        bare.probe()
        bare.expect_mesh()
        for number, node in ((1, first), (2, second)):
            assert bare.annotation(node, "pod-cidrs") == networks(number)[::-1]
        for pod in bare.pods():
            expect_addresses_in(pod, networks(1 if pod.node == first else 2))

    def test_a_changed_file_is_for_new_pods_and_the_old_keep_talking(self, bare: Cluster) -> None:
        node = sorted(bare.nodes())[1]
        with unbroken(bare):
            write(bare, node, number=4)
            both = sorted(networks(2) + networks(4))
            eventually(lambda: sorted(bare.annotation(node, "pod-cidrs")) == both, what=f"{node} announces {both}", seconds=30)
            late = start(bare, "late", node)
            expect_addresses_in(late, networks(4))
            for old in bare.pods():
                for version, address in old.addresses.items():
                    assert late.reaches(address, 8080) == {"pod": old.hostname, "seen": str(late.addresses[version])}
                    assert old.reaches(late.addresses[version], 8080)["seen"] == str(address)

    def test_the_old_network_is_given_up_with_the_last_pod_that_is_in_it(self, bare: Cluster) -> None:
        node = sorted(bare.nodes())[1]
        for item in bare.get("pods", "-A", f"--field-selector=spec.nodeName={node}")["items"]:
            if not item["spec"].get("hostNetwork"):
                bare.kubectl("delete", "pod", item["metadata"]["name"], "-n", item["metadata"]["namespace"])

        new = networks(4)[::-1]
        eventually(lambda: bare.annotation(node, "pod-cidrs") == new, what=f"{node} announces {new} only", seconds=60)
        bare.rolled_out("probe", namespace="default")
        expect_everything(bare)
        (pod,) = [pod for pod in bare.pods() if pod.node == node]
        expect_addresses_in(pod, networks(4))


def routes(cluster: Cluster) -> list[tuple[str, str, str]]:
    """What the underlay has to know where it routes pods: on which node, to which pod network, by which address."""
    nodes = cluster.nodes()
    return [
        (one, network, str(nodes[other][ip_network(network).version]))
        for one, other in permutations(nodes, 2)
        for network in cluster.pod_networks(other)
    ]


def mtu(links: str) -> int:
    """Of the only link in what `ip -j` says."""
    (link,) = json.loads(links)
    return int(link["mtu"])


def networks(number: int) -> list[str]:
    """A node's, IPv4 first."""
    return [f"10.244.{number}.0/24", f"fd00:10:244:{number}::/64"]


def write(cluster: Cluster, node: str, *, number: int) -> None:
    """A node's pod networks into its file, as a whole."""
    text = "\n".join(["# pods of this node", *networks(number), ""])
    script = 'printf %s "$1" > "$2.new" && mv "$2.new" "$2"'
    cluster.on_node(node, "sh", "-c", script, "sh", text, FILE)


def waits(cluster: Cluster, node: str) -> bool:
    """Whether a node says that it waits, and for which file."""
    status = cluster.annotation(node, "status") or {"phase": "", "problems": []}
    return status["phase"] == "Waiting" and FILE in str(status["problems"])


def ready_condition(cluster: Cluster, node: str) -> Json:
    """What a node's kubelet says of pods' network."""
    conditions: list[Json] = cluster.get("node", node)["status"]["conditions"]
    return next(condition for condition in conditions if condition["type"] == "Ready")


def start(cluster: Cluster, name: str, node: str) -> ProbePod:
    """Another probe on a node."""
    override = {"spec": {"nodeName": node, "terminationGracePeriodSeconds": 1}}
    how = ("--image=wigglenet-probe:test", "--restart=Never", f"--labels=app={name}", f"--overrides={json.dumps(override)}")
    cluster.kubectl("run", name, *how, "--command", "--", "python3", "/probe.py", "serve", "8080")
    cluster.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=60s")
    (pod,) = cluster.probes(name)
    return pod


def expect_addresses_in(pod: ProbePod, wanted: list[str]) -> None:
    """One address of each family, each in one of the networks."""
    assert len(pod.addresses) == len(wanted)
    for address in pod.addresses.values():
        assert any(address in ip_network(network) for network in wanted), f"{pod.name}: {address} not in {wanted}"
