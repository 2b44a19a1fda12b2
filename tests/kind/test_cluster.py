"""What a user of a cluster sees, by kubectl and from inside of pods."""

import json
from contextlib import suppress
from functools import partial
from ipaddress import ip_address
from pathlib import Path

import pytest

from tests.kind.cluster import MANIFESTS, RENDERED, Cluster, overlay, run
from tests.lab.wait import NotSeenError, eventually
from wigglenet_operator import __version__


def test_the_rendered_manifests_are_up_to_date(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    for components, name in RENDERED.items():
        rendered, text = MANIFESTS / name, run("kubectl", "kustomize", str(overlay(tmp_path, *components)))
        if request.config.getoption("--update-golden"):
            rendered.write_text(text)
        assert text == rendered.read_text(), f"{name} is not what the manifests say: run `nox -s manifests`"


def test_every_node_is_ready_and_says_so(cluster: Cluster) -> None:
    cluster.ready()
    for node in cluster.nodes():
        said = partial(cluster.annotation, node, "status")
        with suppress(NotSeenError):  # a change of the mode was one of the status, which is written once a minute at most
            eventually(lambda said=said: not said()["problems"], what=f"{node} has no problems", seconds=70)  # type: ignore[misc]
        assert (said()["version"], said()["problems"]) == (__version__, []), node


def test_kube_proxy_runs_in_the_mode_that_is_tested(cluster: Cluster) -> None:
    for host in cluster.probes("node-probe"):
        assert host.exec("python3", "/probe.py", "fetch", "http://127.0.0.1:10249/proxyMode").strip() == cluster.setup.proxy


def test_agents_are_not_restarted_and_have_three_capabilities(cluster: Cluster) -> None:
    for pod in cluster.get("-n", "kube-system", "pods", "-l", "app.kubernetes.io/name=wigglenet-operator")["items"]:
        assert [status["restartCount"] for status in pod["status"]["containerStatuses"]] == [0]
    for node in cluster.nodes():
        bits = next(line for line in cluster.agent(node, "cat", "/proc/1/status").splitlines() if line.startswith("CapEff"))
        raw, admin, override = 1 << 13, 1 << 12, 1 << 1  # linux/capability.h: CAP_NET_RAW, CAP_NET_ADMIN, CAP_DAC_OVERRIDE
        assert int(bits.split()[1], 16) == raw | admin | override


def test_pods_reach_pods_of_all_nodes_with_their_own_address(cluster: Cluster) -> None:
    cluster.expect_mesh()
    for one, other, version in cluster.pairs():
        assert one.reaches(other.addresses[version], 8080) == {"pod": other.hostname, "seen": str(one.addresses[version])}


def test_nodes_and_pods_of_all_nodes_reach_each_other(cluster: Cluster) -> None:
    nodes = cluster.nodes()
    for pod in cluster.pods():
        for host in cluster.probes("node-probe"):
            for version in cluster.families:
                assert host.reaches(pod.addresses[version], 8080)["pod"] == pod.hostname
                source = pod.addresses[version] if pod.node == host.node else nodes[pod.node][version]
                answer = pod.reaches(host.addresses[version], 18081)
                assert answer == {"pod": host.hostname, "seen": str(source)}, "only for other machines it is masqueraded"


def test_pods_of_all_nodes_reach_the_api_server(cluster: Cluster) -> None:
    (control_plane,) = cluster.get("nodes", "-l", "node-role.kubernetes.io/control-plane")["items"]
    doors = [("443", ip_address(text)) for text in cluster.get("service", "kubernetes")["spec"]["clusterIPs"]]
    doors += [("6443", address) for address in cluster.nodes()[control_plane["metadata"]["name"]].values()]
    for pod in cluster.pods():
        for port, address in doors:
            host = f"[{address}]" if address.version == 6 else str(address)
            assert json.loads(pod.exec("python3", "/probe.py", "fetch", f"https://{host}:{port}/version"))["gitVersion"]


def test_services_answer_in_both_families_from_every_node(cluster: Cluster) -> None:
    service = cluster.get("service", "probe")["spec"]
    for pod in cluster.pods() + cluster.probes("node-probe"):
        for address in map(ip_address, service["clusterIPs"]):
            pod.reaches_all(address, 80, cluster.pods())


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
            for address in addresses.values():
                assert one.reaches(address, port)["pod"] in on_node.values()
                assert one.reaches(address, 18080)["pod"] == on_node[node]


def test_a_node_port_of_its_own_node_answers_a_pod(cluster: Cluster) -> None:
    port = cluster.get("service", "probe")["spec"]["ports"][0]["nodePort"]
    nodes = cluster.nodes()
    for pod in cluster.pods():
        for address in nodes[pod.node].values():
            pod.reaches_all(address, port, cluster.pods())
