"""Pod networks from the Node's spec and from a file: late, changed, broken, gone; pods that run lose nothing."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

import pytest

from tests.lab.faults.fault import Act, Fault
from tests.lab.lab import ApiKind, Lab
from tests.lab.namespaces import CommandError
from tests.lab.node import CONFLIST, LabNode
from tests.lab.pod import Pod
from tests.lab.sources import (
    FILE,
    NODE_IPS,
    POD_CIDRS,
    PUBLIC_KEY,
    announced,
    closed,
    expect_no_problem,
    filed,
    first_address,
    gateways,
    ordered,
    replace_file,
    sources,
    wait_announced,
)
from tests.lab.wait import eventually
from wigglenet_operator.model.facts import WireGuardKind

Join = Callable[..., LabNode]
BY_FILE = sources("file", "file")
RESYNC_SECONDS = 12.0
"""Until an agent sees what no event told it, such as a file in a directory that has just been made."""
DIRECTORY = str(PurePath(FILE).parent)


@pytest.fixture(scope="module")
def lab(api_kind: ApiKind, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A node with a pod, to which others come."""
    with Lab(api=api_kind, wireguard=WireGuardKind(request.config.getoption("--wireguard"))) as made:
        made.add_node("peer")
        made.pods()
        yield made


@pytest.fixture(scope="module")
def peer(lab: Lab) -> Pod:
    return lab.nodes["peer"].pods["pod-peer"]


@pytest.fixture
def join(lab: Lab) -> Iterator[Join]:
    """`Lab.add_node`, for one test."""
    names = []

    def joined(name: str, **kind: object) -> LabNode:
        names.append(name)
        return lab.add_node(name, **kind)  # type: ignore[arg-type]  # its own

    yield joined
    for name in names:
        lab.remove_node(name)


@pytest.fixture(scope="module")
def reader(lab: Lab) -> LabNode:
    """A node whose networks are in a file."""
    node = lab.add_node("reader", agent=False, pod_cidrs=(), environment=BY_FILE)
    replace_file(node, *networks(node))
    lab.start(node)
    connected(lab, node, "old")
    return node


def addresses_of(node: LabNode) -> list[str]:
    """As its kubelet tells them."""
    return [str(address) for address in node.addresses]


def networks(node: LabNode, *, generation: int = 0) -> list[str]:
    return [filed(node, version, generation=generation) for version in (4, 6)]


def connected(lab: Lab, node: LabNode, name: str) -> Pod:
    """A pod that reaches the peer's and is reached, in all its families."""
    pod, peer = node.pod(name), lab.nodes["peer"].pods["pod-peer"]
    pod.wait_connected()
    for one, other, version in both_ways(pod, peer):
        eventually(
            lambda o=one, a=other.addresses[version]: o.pings(a, seconds=0.2),  # type: ignore[misc]  # bool
            what=f"{one.name} reaches {other.name} by IPv{version}",
            seconds=20,
        )
    return pod


def both_ways(pod: Pod, peer: Pod) -> list[tuple[Pod, Pod, int]]:
    return [pair for version in pod.addresses for pair in ((pod, peer, version), (peer, pod, version))]


def expect_unconfigured(lab: Lab, node: LabNode) -> None:
    """Nothing is there that a waiting node must not have."""
    assert node.conflist() is None
    assert not gateways(node)
    assert not closed(node)
    assert not {PUBLIC_KEY, NODE_IPS, POD_CIDRS} & lab.annotations(node.name).keys()


def expect_waiting(lab: Lab, node: LabNode, *reason: str) -> None:
    """The log and the status have the reason, and the node is not configured."""
    node.wait_logged("problem", *reason, since=0)
    name = node.name

    def waits() -> bool:
        status = json.loads(lab.annotations(name).get("wigglenet/status", '{"phase": "", "problems": []}'))
        return status["phase"] == "Waiting" and any(all(word in str(p) for word in reason) for p in status["problems"])

    eventually(waits, what=f"the status of {name} has {reason}", seconds=20)
    expect_unconfigured(lab, node)


def test_a_node_without_pod_cidrs_waits_for_them_and_says_so(lab: Lab, join: Join) -> None:
    node = join("late", pod_cidrs=())
    expect_waiting(lab, node, "spec.podCIDRs")

    node.pod_cidrs = (filed(node, 4), filed(node, 6))
    lab.api.admin.complete_node(node.name, node.pod_cidrs, addresses_of(node))
    connected(lab, node, "first")
    wait_announced(lab, node, node.pod_cidrs)


def test_a_node_that_is_registered_anew_with_other_networks_moves_pod_by_pod(lab: Lab, join: Join, peer: Pod) -> None:
    node = join("anew")
    before, after = node.pod_cidrs, (filed(node, 4), filed(node, 6))
    old = connected(lab, node, "old")
    with lab.no_loss(both_ways(old, peer)):
        lab.api.admin.delete_node(node.name)
        eventually(lambda: node.conflist() is None, what="no pod starts without a Node")
        lab.api.admin.create_node(node.name, (), addresses_of(node))
        lab.give_credentials(node)
        wait_announced(lab, node, before, seconds=20)
        assert node.conflist() is None, "a pod could get a network that is no longer this node's"
        lab.api.admin.complete_node(node.name, after, addresses_of(node))
        eventually(lambda: node.subnets() == list(after), what="new pods get the new networks", seconds=20)
        new = connected(lab, node, "new")
        wait_announced(lab, node, (*before, *after))
    assert new.pings(old.addresses[4])
    assert new.pings(old.addresses[6])
    expect_moved(lab, node, old, after)


def expect_moved(lab: Lab, node: LabNode, old: Pod, after: Sequence[str]) -> None:
    """When the last old pod has gone, so has its network, everywhere; a new one loses nothing meanwhile."""
    before = set(announced(lab, node)) - set(after)
    assert before
    new, peer = node.pods["new"], lab.nodes["peer"].pods["pod-peer"]
    with lab.no_loss(both_ways(new, peer)):
        old.delete()
        del node.pods[old.name]
        wait_announced(lab, node, after)
    assert not before & lab.nodes["peer"].routes()
    assert before <= closed(lab.nodes["peer"]), "somebody could still send to it, and that must not leave in clear"


def test_a_file_may_come_after_the_agent_and_so_may_its_directory(lab: Lab, join: Join) -> None:
    node = join("cloud", pod_cidrs=(), environment=BY_FILE)
    expect_waiting(lab, node, FILE)

    replace_file(node, *networks(node))
    eventually(node.conflist, what="the file is noticed", seconds=RESYNC_SECONDS)
    connected(lab, node, "first")
    wait_announced(lab, node, networks(node))


def test_half_a_file_is_not_enough(lab: Lab, join: Join) -> None:
    node = join("half", agent=False, pod_cidrs=(), environment=BY_FILE)
    replace_file(node, filed(node, 4))
    lab.start(node)
    node.wait_logged("problem", FILE, "IPv6", since=0)
    assert node.conflist() is None
    assert filed(node, 6) not in announced(lab, node)

    with node.path(FILE).open("a") as file:
        file.write(f"{filed(node, 6)}\n")
    connected(lab, node, "first")


def file_values(lab: Lab, node: LabNode) -> Mapping[str, str]:
    """The file, the networks in it, an address of the node, and the IPv4 pod network of the other node."""
    networks = {"v4": filed(node, 4), "v6": filed(node, 6), "peer": lab.nodes["peer"].pod_cidrs[0]}
    return {"file": FILE, "own": node.api_address, **networks}


def edit(script: str) -> Act:
    """Run a shell script in which `file_values` are substituted."""

    def act(lab: Lab, node: LabNode) -> None:
        node.place.run("sh", "-ec", script.format_map(file_values(lab, node)))

    return act


def restore_file(_lab: Lab, node: LabNode) -> None:
    node.place.run("rm", "-rf", FILE)
    replace_file(node, *networks(node))


@dataclass(frozen=True)
class FileRow:
    """A fault of the file, and the words that the agent reports it with; `file_values` are substituted in them."""

    fault: Fault
    words: tuple[str, ...]


def file_row(name: str, script: str, *words: str) -> FileRow:
    """A script that damages the file; without other words the agent reports the path of the file."""
    return FileRow(Fault(name, edit(script), restore_file), words or (FILE,))


FILE_ROWS = (
    file_row("removed", "rm {file}"),
    file_row("removed with its directories", "rm -r /run/cloud"),
    file_row("truncated", ": >{file}"),
    file_row("comments only", "echo '# 10.1.3.0/24' >{file}"),
    file_row("bad line, edited in place", "printf '\\n# nothing\\n\\n10.1.3.4.5/24\\n' >>{file}", FILE, "line 6"),
    file_row("bad line, replaced", "printf '{v4}\\n{v6} public\\n' >{file}.new; mv {file}.new {file}", FILE, "line 2"),
    file_row("address of a family that is none", "printf '{v4}\\n{v6}\\n10.1.3.0/33\\n' >{file}", FILE, "line 3"),
    file_row("junk", "head -c 5000 /dev/urandom >{file}"),
    file_row("no UTF-8", "printf '{v4}\\n{v6}\\n\\377\\376\\n' >{file}"),
    file_row("endless", "truncate -s 200M {file}"),
    file_row("a directory", "rm {file}; mkdir {file}"),
    file_row("a link to nowhere", "ln -sf /run/nowhere {file}"),
    file_row("a link to itself", "rm {file}; ln -s {file} {file}"),
    file_row("a pipe", "rm {file}; mkfifo {file}"),
    file_row("default routes", "printf '0.0.0.0/0\\n{v6}\\n' >{file}", "0.0.0.0/0"),
    file_row("a network around all others'", "printf '10.1.0.0/16\\n{v6}\\n' >{file}", "10.1.0.0/16"),
    file_row("the peer's network", "printf '{peer}\\n{v6}\\n' >{file}", "{peer}", "peer"),
    file_row("no IPv6", "printf '{v4}\\n' >{file}", FILE, "IPv6"),
    file_row("no IPv4", "printf '{v6}\\n' >{file}", FILE, "IPv4"),
    file_row("an address of the node", "printf '{own}/30\\n{v6}\\n' >{file}", "own address {own}"),
    file_row("too small for a pod", "printf '{v4}\\n{v6}\\n' | sed 's,/24,/31,' >{file}", "10.1.", "/31"),
)


@pytest.mark.parametrize("row", FILE_ROWS, ids=[row.fault.name for row in FILE_ROWS])
def test_while_the_file_is_of_no_use_no_pod_starts_and_those_that_run_lose_nothing(
    lab: Lab, reader: LabNode, peer: Pod, row: FileRow
) -> None:
    said = reader.log_size()
    with lab.no_loss(both_ways(reader.pods["old"], peer)):
        try:
            with row.fault.injected(lab, reader):
                eventually(lambda: reader.conflist() is None, what="no pod starts", seconds=RESYNC_SECONDS)
                reader.wait_logged("problem", *(word.format_map(file_values(lab, reader)) for word in row.words), since=said)
                assert announced(lab, reader) == ordered(networks(reader))
        finally:
            eventually(lambda: reader.subnets() == networks(reader), what="pods start again", seconds=RESYNC_SECONDS)
            wait_announced(lab, reader, networks(reader))
    expect_no_problem(reader)


def test_comments_blanks_host_bits_and_order_do_not_matter(reader: LabNode) -> None:
    four, six = networks(reader)
    inode = reader.path(CONFLIST).stat().st_ino
    said = reader.log_size()
    replace_file(reader, "# by hand", "", f"\t{six.replace('::', '::9')}  # public", "", f" {four.replace('.0/', '.7/')} ", six)
    reader.place.run("ip", "route", "del", "unreachable", four)
    eventually(lambda: four in closed(reader), what="the agent works")

    assert reader.subnets() == [four, six]
    assert reader.path(CONFLIST).stat().st_ino == inode, "what says the same is not written anew"
    assert "problem" not in reader.path("/run/agent.log").read_bytes()[said:].decode()


def test_a_file_in_a_projected_volume_is_followed(lab: Lab, join: Join) -> None:
    """The kubelet swaps a symbolic link beside the file, which is a link itself (AtomicWriter)."""
    node = join("volume", agent=False, pod_cidrs=(), environment=BY_FILE)

    def project(version: str, *lines: str) -> None:
        content = "\\n".join(lines)
        node.place.run(
            "sh",
            "-ec",
            f"mkdir -p {DIRECTORY}; cd {DIRECTORY}; mkdir ..{version};"
            f"printf '{content}\\n' >..{version}/pod-networks; ln -s ..{version} ..tmp; mv -T ..tmp ..data;"
            "test -L pod-networks || ln -s ..data/pod-networks pod-networks",
        )

    project("one", *networks(node))
    lab.start(node)
    connected(lab, node, "old")
    project("two", *networks(node, generation=1))
    eventually(lambda: node.subnets() == networks(node, generation=1), what="the new file is in force", seconds=3)
    connected(lab, node, "new")


def test_a_pod_has_one_address_of_each_family_and_the_second_range_is_used_when_the_first_is_full(lab: Lab, join: Join) -> None:
    node = join("ranges", agent=False, pod_cidrs=(), environment=BY_FILE)
    base = filed(node, 4).removesuffix("0/24")
    ranges = [
        f"{base}0/30",
        f"{base}8/30",
        filed(node, 6).replace("::/64", "::/126"),
        filed(node, 6).replace("::/64", "::8/126"),
    ]
    replace_file(node, *reversed(ranges))
    lab.start(node)
    pods = [connected(lab, node, name) for name in ("one", "two")]

    assert node.subnets() == ranges
    wait_announced(lab, node, ranges)
    assert {str(pod.addresses[4]) for pod in pods} == {f"{base}2", f"{base}10"}
    assert all(pod.addresses.keys() == {4, 6} for pod in pods)
    assert all(one.pings(other.addresses[v]) for one, other, v in both_ways(pods[0], pods[1]))
    with pytest.raises(CommandError, match="no IP addresses available"):
        node.pod("three")


def test_when_the_file_changes_old_pods_keep_talking_and_new_ones_get_the_new_network(lab: Lab, join: Join, peer: Pod) -> None:
    """The agent is killed in the middle of it: nothing is only in its memory."""
    node = join("changing", agent=False, pod_cidrs=(), environment=BY_FILE)
    before, after = networks(node), networks(node, generation=1)
    replace_file(node, *before)
    lab.start(node)
    old = connected(lab, node, "old")
    with lab.no_loss(both_ways(old, peer)):
        replace_file(node, *after)
        eventually(lambda: node.subnets() == after, what="new pods get the new networks", seconds=3)
        wait_announced(lab, node, before + after)
        node.kill()
        node.start_agent()
        new = connected(lab, node, "new")
        node.place.run("ip", "route", "del", "unreachable", before[0])
        eventually(lambda: before[0] in closed(node), what="the new agent works", seconds=20)
        wait_announced(lab, node, before + after)
        assert node.subnets() == after
        assert all(one.pings(other.addresses[v]) for one, other, v in both_ways(new, old))
    assert [first_address(n) for n in after] != [str(a) for a in new.addresses.values()]
    expect_moved(lab, node, old, after)


def test_a_network_that_comes_back_to_the_file_before_its_last_pod_went_never_went(lab: Lab, join: Join, peer: Pod) -> None:
    node = join("back", agent=False, pod_cidrs=(), environment=BY_FILE)
    before, after = networks(node), networks(node, generation=1)
    replace_file(node, *before)
    lab.start(node)
    old = connected(lab, node, "old")
    with lab.no_loss(both_ways(old, peer)):
        for now, all_of_them in ((after, before + after), (before, before), (before + after, before + after)):
            replace_file(node, *now)
            eventually(lambda n=now: set(node.subnets()) == set(n), what=f"{now} in force", seconds=3)  # type: ignore[misc]  # bool
            wait_announced(lab, node, all_of_them)
