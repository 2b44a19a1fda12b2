"""Whose address is seen, and who may reach a pod, with real Services: from pods, and from a machine outside of the cluster."""

from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_network
from itertools import repeat

from tests.kind import test_cluster
from tests.kind.cluster import Cluster, Json, Outside
from tests.lab.wait import eventually

INSIDE = (
    test_cluster.test_every_node_is_ready_and_says_so,
    test_cluster.test_pods_reach_pods_of_all_nodes_with_their_own_address,
    test_cluster.test_nodes_and_pods_of_all_nodes_reach_each_other,
    test_cluster.test_pods_of_all_nodes_reach_the_api_server,
    test_cluster.test_services_answer_in_both_families_from_every_node,
    test_cluster.test_names_are_resolved,
    test_cluster.test_node_ports_and_host_ports_answer_on_every_node,
    test_cluster.test_a_node_port_of_its_own_node_answers_a_pod,
)
BACK_ENDS = ("iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy")


def test_the_world_sees_the_nodes_address(cluster: Cluster, outside: Outside) -> None:
    nodes = cluster.nodes()
    for pod in cluster.pods():
        for version, address in outside.addresses.items():
            assert pod.reaches(address, 8080) == {"pod": outside.hostname, "seen": str(nodes[pod.node][version])}


def test_a_node_port_with_policy_cluster_is_answered_by_every_pod_which_sees_the_node(
    cluster: Cluster, outside: Outside
) -> None:
    port = node_port(cluster, "probe")
    for node, addresses in cluster.nodes().items():
        own = {ip_network(network) for network in cluster.pod_networks(node)}
        itself = {str(address) for address in addresses.values()} | {str(network[1]) for network in own}
        for address in addresses.values():
            assert outside.reaches_all(address, port, cluster.pods()) <= itself, f"the node's, not {outside.addresses}"


def test_a_node_port_with_policy_local_is_answered_by_the_nodes_pod_which_sees_the_client(
    cluster: Cluster, outside: Outside
) -> None:
    port = node_port(cluster, "probe-local")
    on_node = {pod.node: pod.hostname for pod in cluster.pods()}
    for node, addresses in cluster.nodes().items():
        for version, address in addresses.items():
            assert outside.reaches(address, port) == {"pod": on_node[node], "seen": str(outside.addresses[version])}


def test_without_the_filter_pods_answer_the_world(cluster: Cluster, outside: Outside) -> None:
    for pod in cluster.pods():
        for version, address in pod.addresses.items():
            assert outside.reaches(address, 8080) == {"pod": pod.hostname, "seen": str(outside.addresses[version])}


def test_with_the_filter_the_world_reaches_pods_through_services_only(cluster: Cluster, outside: Outside) -> None:
    talks = [outside.talk(address) for pod in cluster.pods() for address in pod.addresses.values()]
    unmasked = ",".join(str(ip_network(address)) for address in outside.addresses.values())
    cluster.set_environment("FILTER_IPV4=on", "FILTER_IPV6=on", f"NON_MASQUERADE_CIDRS={unmasked}")
    eventually(lambda: not who_answers(cluster, outside), what="no pod answers the world", seconds=20)
    for talk in talks:
        assert "lines came back" in (said := talk.said()), f"{talk.title} was there before the filter: {said}"

    renewed(cluster)  # kubelets take them for ready
    expect_inside(cluster)
    test_a_node_port_with_policy_cluster_is_answered_by_every_pod_which_sees_the_node(cluster, outside)
    test_a_node_port_with_policy_local_is_answered_by_the_nodes_pod_which_sees_the_client(cluster, outside)
    for pod in cluster.pods():
        assert "serving port 8080" in cluster.kubectl("logs", pod.pod)
        for version, address in outside.addresses.items():
            answer = pod.reaches(address, 8080)
            assert answer == {"pod": outside.hostname, "seen": str(pod.addresses[version])}, "NON_MASQUERADE_CIDRS"
    assert not who_answers(cluster, outside)


def test_without_the_settings_it_is_as_before(cluster: Cluster, outside: Outside) -> None:
    cluster.set_environment("FILTER_IPV4-", "FILTER_IPV6-", "NON_MASQUERADE_CIDRS-")
    test_without_the_filter_pods_answer_the_world(cluster, outside)
    test_the_world_sees_the_nodes_address(cluster, outside)


def expect_inside(cluster: Cluster) -> None:
    """Whatever is filtered, pods and nodes reach each other and the Services."""
    with ThreadPoolExecutor(2) as pool:  # what kubectl takes is mostly waiting
        list(pool.map(lambda works: works(cluster), INSIDE))


def who_answers(cluster: Cluster, outside: Outside) -> list[Json]:
    """The pods that the machine outside reaches by their own addresses, both families."""
    addresses = [address for pod in cluster.pods() for address in pod.addresses.values()]
    with ThreadPoolExecutor() as pool:  # each that does not answer takes 2 s
        return [answer for answer in pool.map(outside.ask, addresses, repeat(8080)) if answer]


def test_an_agent_that_starts_removes_the_rules_of_the_iptables_back_end(cluster: Cluster) -> None:
    node = next(node for node in cluster.nodes() if "worker" in node)
    for program in BACK_ENDS:
        for table, ours, caller in (("filter", "WIGGLENET-FIREWALL", "FORWARD"), ("nat", "WIGGLENET-MASQ", "POSTROUTING")):
            cluster.on_node(node, program, "-t", table, "-N", ours)
            cluster.on_node(node, program, "-t", table, "-I", caller, "-j", ours)
    cluster.kubectl("-n", "kube-system", "delete", "pod", cluster.agent_pod(node)["metadata"]["name"])

    def left() -> str:
        return "".join(cluster.on_node(node, f"{program}-save") for program in BACK_ENDS)

    eventually(lambda: "WIGGLENET" not in left(), what="nothing of that back-end is left", seconds=60)
    assert "KUBE-FIREWALL" in left(), "and all that is not of it is"


def node_port(cluster: Cluster, service: str) -> int:
    """Of the only port of a Service."""
    return int(cluster.get("service", service)["spec"]["ports"][0]["nodePort"])


def renewed(cluster: Cluster) -> None:
    """Every probe in the pod network is another pod, and ready."""
    before = {pod.pod for pod in cluster.pods()}
    cluster.kubectl("delete", "pods", "-l", "app=probe")
    eventually(lambda: len({pod.pod for pod in cluster.pods()} - before) == len(before), what="new probes run", seconds=60)
    cluster.kubectl("wait", "--for=condition=Ready", "pods", "-l", "app=probe", "--timeout=60s")
