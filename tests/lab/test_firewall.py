"""The firewall over time: connections that outlive a change, errors that get through, neighbours that interfere."""

import json
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from ipaddress import ip_network

import pytest

from tests.lab.exchange import FAMILIES, Heard
from tests.lab.lab import ApiKind, Lab
from tests.lab.node import LabNode
from tests.lab.topology import Topology
from tests.lab.wait import eventually
from wigglenet_operator.kernel.nft_text import parse
from wigglenet_operator.kernel.nft_watch import NftWatch
from wigglenet_operator.model.facts import WireGuardKind
from wigglenet_operator.model.ruleset import Ruleset

BOTH, NONE = frozenset({4, 6}), frozenset[int]()
TABLE = ("inet", "wigglenet")
NFT = "/usr/sbin/nft"


@pytest.fixture(scope="module")
def topology(api_kind: ApiKind, request: pytest.FixtureRequest) -> Iterator[Topology]:
    with Topology(api=api_kind, wireguard=WireGuardKind(request.config.getoption("--wireguard"))) as made:
        made.listen()
        yield made


def heard(topology: Topology, origin: str, to: str, version: int, *, hopeless: bool = False) -> Heard:
    target = topology.target(to, version)
    assert target
    source = topology.hosts[origin].addresses[version] if origin == "outside" else None
    return topology.exchange.say(topology.hosts[origin], target, protocol="udp", source=source, hopeless=hopeless)


def generation(node: LabNode) -> int:
    with node.place.network(), closing(NftWatch()) as watch:
        return watch.generation()


def table(node: LabNode) -> str:
    return node.place.run("nft", "-s", "list", "table", *TABLE, check=False)


def rules(node: LabNode) -> Ruleset:
    return parse(table(node))


@contextmanager
def connected(topology: Topology, origin: str, to: str, version: int) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a TCP connection."""
    near, far = topology.hosts[origin], topology.hosts[to]
    with far.place.network(far.netns):
        server = socket.create_server((str(far.addresses[version]), 9090), family=FAMILIES[version])
    with server, near.place.network(near.netns):
        client = socket.create_connection(
            (str(far.addresses[version]), 9090), timeout=5, source_address=(str(near.addresses[version]), 0)
        )
        accepted, _ = server.accept()
    with client, accepted:
        accepted.settimeout(5)
        yield client, accepted


def talks(one: socket.socket, other: socket.socket) -> bool:
    """Whether both hear each other."""
    one.sendall(b"there")
    other.sendall(b"and back")
    return (other.recv(100), one.recv(100)) == (b"there", b"and back")


@pytest.mark.alone
@pytest.mark.parametrize("version", [4, 6])
def test_connections_outlive_a_change_of_the_rules(topology: Topology, version: int) -> None:
    topology.configure(masqueraded=BOTH, filtered=NONE)
    with connected(topology, "outside", "a1", version) as inward, connected(topology, "a1", "outside", version) as outward:
        topology.configure(masqueraded=NONE, filtered=BOTH)

        try:
            assert talks(*inward)
            assert talks(*outward)
        except OSError as error:
            error.add_note(topology.hosts["node a"].place.run("conntrack", "-L", "-p", "tcp", "--dport", "9090"))
            raise
        assert heard(topology, "outside", "a1", version, hopeless=True).source == ""
        assert heard(topology, "a1", "outside", version).source == "a1"


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("masqueraded", [BOTH, NONE], ids=["masqueraded", "not-masqueraded"])
def test_the_path_mtu_is_learnt_through_filter_and_masquerade(
    topology: Topology, version: int, masqueraded: frozenset[int]
) -> None:
    topology.configure(masqueraded=masqueraded, filtered=BOTH)
    a1, direct = topology.hosts["a1"], topology.hosts["outside"].addresses[version]
    target = ip_network(f"{direct}/{24 if version == 4 else 64}", strict=False)[99]
    topology.outside.run("ip", "link", "add", "narrow", "mtu", "1300", "type", "veth", "peer", "name", "end")
    topology.outside.batch("link set narrow up", "link set end up", f"route add {target} dev narrow")
    try:
        with a1.place.network(a1.netns):
            client = socket.socket(FAMILIES[version], socket.SOCK_DGRAM)
        with client:
            discover, known = {4: (10, 14), 6: (23, 24)}[version]  # IP_MTU_DISCOVER, IP_MTU; the same of IPv6
            level = socket.IPPROTO_IP if version == 4 else socket.IPPROTO_IPV6
            client.setsockopt(level, discover, 2)  # PMTUDISC_DO
            client.connect((str(target), 9))

            def learnt() -> bool:
                try:
                    client.send(bytes(1350))
                except OSError:
                    return client.getsockopt(level, known) == 1300
                return False

            eventually(learnt, what="the pod knows that no more than 1300 bytes get through", seconds=5)
    finally:
        topology.outside.batch("link del narrow")


@pytest.mark.parametrize("version", [4, 6])
def test_what_enters_the_tunnel_has_an_mss_that_fits(topology: Topology, version: int) -> None:
    topology.configure(masqueraded=BOTH, filtered=NONE)
    b1, b = topology.hosts["b1"], topology.lab.nodes["b"]
    target = topology.hosts["b1"].addresses[version]
    a = topology.lab.nodes["a"]
    with b1.place.network(b1.netns):
        sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons({4: 0x0800, 6: 0x86DD}[version]))
    sniffer.settimeout(5)
    network = {4: "198.18.0.0/24", 6: "fd99::/64"}[version]
    key = next(key for key, peer in b.wireguard().items() if f"{a.addresses[0]}/32" in peer.allowed_ips)
    with sniffer:
        # A host behind node a whose packets the tunnel takes: its MSS is of a link of 1500.
        b.place.run("wg", "set", "wigglenet", "peer", key, "allowed-ips", f"{b.wireguard()[key].allowed_ips},{network}")
        with topology.lan.network():
            client = socket.socket(FAMILIES[version], socket.SOCK_STREAM)
        client.settimeout(0)
        client.connect_ex((str(target), 7777))
        with client:
            syn = next(p for p in iter(lambda: sniffer.recv(200), b"") if is_syn(p, version))
    assert mss(syn, version) == a.mtu() - (40 if version == 4 else 60)


def tcp_of(packet: bytes, version: int) -> bytes:
    return packet[(packet[0] & 15) * 4 :] if version == 4 else packet[40:]


def is_syn(packet: bytes, version: int) -> bool:
    protocol = packet[9] if version == 4 else packet[6]
    tcp = tcp_of(packet, version)
    return protocol == socket.IPPROTO_TCP and tcp[13] & 0x12 == 2 and int.from_bytes(tcp[2:4]) == 7777


def mss(packet: bytes, version: int) -> int:
    options = tcp_of(packet, version)[20:]
    assert options[:2] == b"\x02\x04", "the MSS comes first"
    return int.from_bytes(options[2:4])


def test_a_restart_writes_nothing(topology: Topology) -> None:
    topology.configure(masqueraded=BOTH, filtered=BOTH)
    node = topology.lab.nodes["a"]
    eventually(lambda: len(node.wireguard()) == 1, what="all is in force")
    before = generation(node)
    node.stop_agent()
    said = len(node.log())
    node.start_agent()
    eventually(lambda: "started" in node.log()[said:], what="the agent is back", seconds=20)
    node.wait_working()

    assert generation(node) == before


WORDS = 1000
"""New connections while the rules change, at least."""


def test_no_packet_sees_a_half_state(topology: Topology) -> None:
    """While the filter comes and goes, Nodes too, and others put things into our table, every new connection is masqueraded."""
    topology.configure(masqueraded=BOTH, filtered=NONE)
    topology.flush_caches()  # a source port may come again, and its connection keeps what it had
    node, admin = topology.lab.nodes["a"], topology.lab.api.admin
    seen: Counter[str] = Counter()
    stopped = threading.Event()

    def speak() -> None:
        while not stopped.is_set() or seen.total() < WORDS:
            for version in (4, 6):
                seen[heard(topology, "a1", "outside", version).source] += 1

    with ThreadPoolExecutor(1) as pool:
        speaker = pool.submit(speak)
        try:
            for number, filtered in enumerate((BOTH, NONE, BOTH)):
                topology.configure(masqueraded=BOTH, filtered=filtered)
                name, network = f"passing-{number}", f"10.1.{100 + number}.0/24"
                admin.create_node(name, [network], [f"192.0.2.{100 + number}"])
                eventually(lambda n=network[:-3]: n in table(node), what=f"{network} is known")  # type: ignore[misc]  # bool
                node.place.run("nft", f"add counter inet wigglenet {name}")
                eventually(lambda n=name: n not in table(node), what=f"{name} is removed")  # type: ignore[misc]  # bool
                admin.delete_node(name)
        finally:
            stopped.set()
        speaker.result()

    assert set(seen) == {"node a"}


def test_a_chain_that_drops_what_is_forwarded_is_named_until_it_does_not(topology: Topology) -> None:
    topology.configure(masqueraded=BOTH, filtered=NONE)
    node = topology.lab.nodes["a"]
    text = "problem: chain ip filter FORWARD: "
    node.place.run("iptables", "-P", "FORWARD", "DROP")
    try:
        eventually(lambda: text in node.log(), what="Docker's policy is named")
        assert heard(topology, "a1", "outside", 4, hopeless=True).source == ""
        assert heard(topology, "a1", "outside", 6).source == "node a"
    finally:
        node.place.run("iptables", "-P", "FORWARD", "ACCEPT")
    eventually(lambda: "solved: chain ip filter FORWARD" in node.log(), what="it is solved")
    assert heard(topology, "a1", "outside", 4).source == "node a"


FIREWALLD = """table inet firewalld {{}}
delete table inet firewalld
table inet firewalld {{
  chain filter_FORWARD {{
    type filter hook forward priority filter + 10; policy accept;
    ct state {{ established, related }} accept
    ct status dnat accept
    {accepts}
    reject with icmpx admin-prohibited
  }}
}}
"""
NETWORKD = """table ip io.systemd.nat {
  set masq_saddr { type ipv4_addr; flags interval; elements = { 192.168.77.0/24 }; }
  map map_port_ipport { type inet_proto . inet_service : ipv4_addr . inet_service; }
  chain prerouting {
    type nat hook prerouting priority dstnat + 1
    fib daddr type local dnat ip to meta l4proto . th dport map @map_port_ipport
  }
  chain postrouting {
    type nat hook postrouting priority srcnat + 1
    ip saddr @masq_saddr masquerade
  }
}
"""


def test_it_works_beside_firewalld_and_networkd(topology: Topology) -> None:
    topology.configure(masqueraded=BOTH, filtered=BOTH)
    node = topology.lab.nodes["a"]
    accepts = "\n".join(f"{'ip6' if ':' in n else 'ip'} {way} {n} accept" for n in node.pod_cidrs for way in ("saddr", "daddr"))
    try:
        node.place.run("nft", "-f", "-", stdin=NETWORKD)
        said = len(node.log())
        node.place.run("nft", "-f", "-", stdin=FIREWALLD.format(accepts=""))
        name = "chain inet firewalld filter_FORWARD"
        eventually(lambda: f"problem: {name}" in node.log()[said:], what="a zone that rejects is named")
        for _ in range(3):  # reloads
            node.place.run("nft", "-f", "-", stdin=FIREWALLD.format(accepts=accepts))
        eventually(lambda: f"solved: {name}" in node.log()[said:], what="one that accepts pods is none")

        for version in (4, 6):
            assert heard(topology, "a1", "outside", version).source == "node a"
            assert heard(topology, "a1", "b1", version).source == "a1"
            assert heard(topology, "outside", "a1", version, hopeless=True).source == ""
        assert "was changed by" not in node.log()[said:]
    finally:
        node.place.run("nft", "delete table inet firewalld; delete table ip io.systemd.nat", check=False)


OLD = """*filter
:WIGGLENET-FIREWALL - [0:0]
:WIGGLENET-NETPOL - [0:0]
-I FORWARD -j WIGGLENET-FIREWALL
-A WIGGLENET-FIREWALL -j WIGGLENET-NETPOL
-A WIGGLENET-FIREWALL -p udp -j DROP
COMMIT
*nat
:WIGGLENET-MASQ - [0:0]
-A POSTROUTING -m comment --comment "of old" -j WIGGLENET-MASQ
-A WIGGLENET-MASQ -p 254 -j MASQUERADE
COMMIT
"""


def test_the_rules_of_the_predecessor_go_when_ours_are_in_force(topology: Topology) -> None:
    node = topology.lab.nodes["a"]
    node.place.run("iptables", "-A", "FORWARD", "-p", "253", "-j", "ACCEPT")
    node.place.run("nft", "delete table inet wigglenet; add table inet wigglenet; add chain inet wigglenet of-old")
    for program in ("iptables", "ip6tables"):
        node.place.run(f"{program}-restore", "--noflush", stdin=OLD)
    topology.configure(masqueraded=BOTH, filtered=NONE)

    for program in ("iptables", "ip6tables"):
        eventually(lambda p=program: "WIGGLENET" not in node.place.run(f"{p}-save"), what=f"they are gone from {program}")  # type: ignore[misc]  # bool
    assert "-A FORWARD -p 253 -j ACCEPT" in node.place.run("iptables-save")
    assert heard(topology, "a1", "outside", 4).source == "node a"
    assert "leftovers=-2" in node.log() or "leftovers=-4" in node.log()


def test_with_firewall_only_nothing_else_is_touched(api_kind: ApiKind, topology: Topology) -> None:
    """Another plugin has made the pods and the routes; masquerade and filter are this agent's."""
    with Lab(api=api_kind) as lab:
        a, b = lab.add_node("a", agent=False), lab.add_node("b", agent=False)
        pods = {}
        for node in (a, b):
            node.environment |= {"FIREWALL_ONLY": "true", "FILTER_IPV4": "true"}
            node.start_agent()
            conflist = json.loads(json.dumps(topology.lab.nodes[node.name].conflist()).replace("wigglenet", "other"))
            pods[node.name] = node.pod(conflist=conflist)
            node.place.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        for one, other in ((a, b), (b, a)):
            one.place.batch(*(f"route add {n} via {via}" for n, via in zip(other.pod_cidrs, other.addresses, strict=True)))
        for node in (a, b):
            eventually(lambda n=node: Topology.in_force(n.place)["filter 4"], what=f"{node.name} has its rules", seconds=20)  # type: ignore[misc]  # bool
        address = pods["a"].addresses[4]
        with pods["b"].listen(4) as server, pods["a"].connect(pods["b"].addresses[4]):
            assert client_of(server) == str(address)
        with b.place.network():
            server = socket.create_server((str(b.addresses[0]), 8080))
        with server, pods["a"].connect(b.addresses[0]):
            assert client_of(server) == str(a.addresses[0])

        for node in (a, b):
            assert not lab.annotations(node.name)
            assert node.conflist() is None
            assert not node.path("/etc/wigglenet").exists()
            assert "wigglenet" not in node.place.run("ip", "link")
            assert "unreachable" not in node.place.run("ip", "route")
            assert node.stop_agent() == 0


def client_of(server: socket.socket) -> str:
    """The address that the next client is seen by."""
    accepted, (address, *_) = server.accept()
    accepted.close()
    return str(address)


@pytest.mark.parametrize(
    "command",
    [
        "flush ruleset",
        "delete table inet wigglenet",
        "flush chain inet wigglenet wt_postrouting",
        "add element inet wigglenet wt_direct4 { 203.0.113.0/24 }",
        "add chain inet wigglenet wt_theirs { type filter hook forward priority 1; policy drop; }",
    ],
)
def test_what_somebody_else_did_to_the_table_is_undone_at_once(topology: Topology, command: str) -> None:
    topology.configure(masqueraded=BOTH, filtered=NONE)
    node = topology.lab.nodes["a"]
    before, said = rules(node), len(node.log())
    node.place.run("nft", command)

    eventually(lambda: rules(node) == before, what="it is undone", seconds=1.0)
    assert heard(topology, "a1", "outside", 4).source == "node a"
    assert "table inet wigglenet was changed by somebody else: process nft, pid" in node.log()[said:]


def test_without_nft_the_mesh_goes_on(topology: Topology) -> None:
    topology.configure(masqueraded=BOTH, filtered=NONE)
    node = topology.lab.nodes["a"]
    before, said = rules(node), len(node.log())
    node.stop_agent()
    node.place.run("mount", "--bind", "/dev/null", NFT)
    node.start_agent()
    try:
        eventually(lambda: "firewall: nft -s list table" in node.log()[said:], what="it says so", seconds=20)
        node.wait_working()
    finally:
        node.place.run("umount", NFT)
    assert rules(node) == before
    node.wait_working()
