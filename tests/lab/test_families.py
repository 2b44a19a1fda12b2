"""Clusters of one family, and nodes on which IPv6 is turned off."""

from collections.abc import Iterator
from functools import partial

import pytest

from tests.lab.capture import kinds
from tests.lab.lab import ApiKind, Lab
from tests.lab.node import LabNode
from tests.lab.sources import announced, closed, expect_no_problem, gateways, sources
from tests.lab.underlay import ONLY_IPV4, ONLY_IPV6
from tests.lab.wait import eventually
from wigglenet_operator.model.facts import WireGuardKind

SEGMENTS = {4: ONLY_IPV4, 6: ONLY_IPV6}
ONLY = {4: sources("spec", "none"), 6: sources("none", "spec")}


def turn_ipv6(node: LabNode, *, on: bool) -> None:
    """As an administrator does; the kernel forgets the addresses, so the network's configuration brings them back."""
    value = 0 if on else 1
    node.place.run("sysctl", "-qw", *(f"net.ipv6.conf.{which}.disable_ipv6={value}" for which in ("all", "default")))
    if on:
        node.place.batch(f"addr add {node.addresses[1]}/64 dev eth0 nodad")


@pytest.fixture
def lab(api_kind: ApiKind, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """Without nodes."""
    with Lab(api=api_kind, wireguard=WireGuardKind(request.config.getoption("--wireguard"))) as made:
        yield made


@pytest.mark.parametrize("version", [4, 6])
def test_a_cluster_of_one_family_is_a_mesh_without_a_problem(lab: Lab, version: int) -> None:
    """Its nodes have no address of the other; on one of those of IPv4, IPv6 is turned off."""
    segment, pods = lab.add_segment(SEGMENTS[version]), {4: "10.1.{}.0/24", 6: "fd00:10:1:{}::/64"}[version]
    for name, number in (("a", 1), ("b", 2)):
        node = lab.add_node(name, agent=False, segment=segment, pod_cidrs=[pods.format(number)], environment=ONLY[version])
        if version == 4 and name == "b":
            turn_ipv6(node, on=False)
        lab.start(node)
    lab.expect_mesh()
    capture = lab.capture()
    lab.expect_mesh()
    packets = capture.stop()

    assert kinds(packets)["wireguard"]
    assert set(kinds(packets)) <= {"wireguard", "arp", "nd", "mld"}
    for node in lab.nodes.values():
        assert node.pods[f"pod-{node.name}"].addresses.keys() == {version}
        assert announced(lab, node) == list(node.pod_cidrs) == node.subnets()
        assert len(gateways(node)) == 1
        expect_no_problem(node)


def one_problem(node: LabNode) -> bool:
    """And that is that there is no IPv6."""
    problems = node.problems()
    return len(problems) == 1 and "IPv6" in problems.pop()


def test_where_new_links_have_no_ipv6_running_pods_keep_it_and_no_pod_starts(lab: Lab) -> None:
    a, b = lab.add_node("a"), lab.add_node("b")
    lab.expect_mesh()
    assert all(node.conflist() for node in (a, b))
    with lab.no_loss():
        b.place.run("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
        eventually(partial(one_problem, b), what="b has one problem", seconds=20)
        eventually(lambda: b.conflist() is None, what="no pod starts")
        assert set(b.pod_cidrs) | set(a.pod_cidrs) == closed(b)
        assert set(a.pod_cidrs) == b.routes()
        b.place.run("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=0")
        eventually(b.conflist, what="pods start again", seconds=20)


def test_where_ipv6_is_off_there_is_one_problem_and_ipv4_works(lab: Lab) -> None:
    a, b = lab.add_node("a"), lab.add_node("b", agent=False)
    turn_ipv6(b, on=False)
    lab.start(b)
    eventually(partial(one_problem, b), what="b has one problem", seconds=20)
    eventually(lambda: b.pod_cidrs[0] in a.routes(), what="a routes to b")
    assert b.conflist() is None, "a pod that needs IPv6 would start"
    other, gateway = a.pod("pod-a"), gateways(b)
    assert {g for g in gateway if ":" not in g}
    eventually(
        lambda: b.place.run("ping", "-c1", "-W1", "-n", str(other.addresses[4]), check=False).count("bytes from"), what="IPv4"
    )

    turn_ipv6(b, on=True)
    lab.expect_mesh()
    expect_no_problem(b)
    one, two = lab.pods()
    with lab.no_loss([(one, two, 4), (two, one, 4)]):
        turn_ipv6(b, on=False)
        eventually(partial(one_problem, b), what="b has one problem", seconds=20)
        eventually(lambda: b.conflist() is None, what="no pod starts")
        turn_ipv6(b, on=True)
        eventually(b.conflist, what="pods start again", seconds=20)
        expect_no_problem(b)
    new = b.pod("new")
    new.wait_connected()
    assert new.addresses.keys() == {4, 6}
    for version in (4, 6):
        eventually(partial(new.pings, one.addresses[version], seconds=0.2), what=f"a new pod has IPv{version}")
    assert all(node.log().count("started version") == 1 and "please report" not in node.log() for node in (a, b))
