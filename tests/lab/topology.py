"""The topology of the firewall tests: two nodes, a router with hosts behind it, a network that node a routes, and Services."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from types import TracebackType
from typing import Self

from tests.lab.exchange import PORT, Exchange, Heard, Host, Protocol
from tests.lab.flows import HOST_PORT, SERVICES, Flow, Service
from tests.lab.lab import ApiKind, Lab
from tests.lab.namespaces import Place
from tests.lab.pod import Pod
from tests.lab.wait import eventually
from wigglenet_operator.kernel.nft_text import parse
from wigglenet_operator.model.facts import IPAddress, WireGuardKind
from wigglenet_operator.model.ruleset import Item

ADDRESSES = {
    "router": "192.0.2.200 2001:db8::c8",
    "outside": "203.0.113.1 2001:db8:1::1",
    "direct": "198.51.200.1 2001:db8:200::1",
    "link-local": "169.254.77.1",
    "multicast": "224.0.0.251 ff02::fb",
    "lan": "198.18.0.2 fd99::2",
    "lan's router": "198.18.0.1 fd99::1",
    "service b1": "10.96.0.1 fd96::1",
    "service a1": "10.96.0.2 fd96::2",
    "service node b": "10.96.0.3 fd96::3",
    "load balancer": "203.0.113.80 2001:db8:1::80",
}
NON_MASQUERADE = "198.51.200.0/24, 2001:db8:200::/64"
Rules = Callable[[str], Mapping[int, str]]
DEFAULT = {4: "0.0.0.0/0", 6: "::/0"}
PARALLEL_FLOWS = 24
"""Number of flows that are tested at the same time."""


def addresses(name: str) -> dict[int, IPAddress]:
    """The addresses of a name in `ADDRESSES`, by IP version."""
    return {a.version: a for a in map(ip_address, ADDRESSES[name].split())}


class Topology:
    """A lab of two nodes with a router, hosts outside of the cluster and addresses of Services; `close` removes everything."""

    def __init__(self, *, api: ApiKind, wireguard: WireGuardKind) -> None:
        self.lab = Lab(api=api, wireguard=wireguard)
        self.places: list[Place] = []
        try:
            self._build()
        except BaseException:
            self.lab.close()
            for place in self.places:
                place.close()
            raise

    def _build(self) -> None:
        a, b = self.lab.add_node("a"), self.lab.add_node("b")
        for node in (a, b):
            node.environment["NON_MASQUERADE_CIDRS"] = NON_MASQUERADE
            # Only the firewall may drop a forged packet in these tests.
            node.place.run("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.default.rp_filter=0")
        self.outside, self.lan = Place("outside"), Place("lan")
        self.places += [self.outside, self.lan]
        self._connect_outside()
        self._connect_lan()
        ports = [{"hostPort": HOST_PORT, "containerPort": PORT, "protocol": p, "hostIP": ""} for p in ("udp", "tcp")]
        pods = {"a1": a.pod("a1", runtime={"portMappings": ports}), "a2": a.pod("a2"), "b1": b.pod("b1")}
        for pod in pods.values():
            pod.wait_connected()
        self.lab.expect_mesh()
        self.hosts = {name: _of_pod(pod, a.place if name != "b1" else b.place) for name, pod in pods.items()}
        for node in (a, b):
            own: dict[int, IPAddress] = {address.version: address for address in node.addresses}
            gateways: dict[int, IPAddress] = {
                v: ip_address(f"10.1.{node.number}.1" if v == 4 else f"fd00:10:1:{node.number:x}::1") for v in own
            }
            self.hosts |= {f"node {node.name}": Host(f"node {node.name}", node.place, own)}
            self.hosts |= {f"gateway {node.name}": Host(f"gateway {node.name}", node.place, gateways)}
        for name in ("router", "outside", "direct", "link-local", "multicast"):
            self.hosts[name] = Host(name, self.outside, addresses(name))
        self.hosts["lan"] = Host("lan", self.lan, addresses("lan"))
        self.exchange = Exchange({address: host.name for host in self.hosts.values() for address in host.addresses.values()})

    def _connect_outside(self) -> None:
        a, b = self.lab.nodes.values()
        self.lab.place.batch(
            f"link add u-x type veth peer name eth0 netns {self.outside.pid}", "link set u-x master underlay up"
        )
        for name in ("router", "outside", "direct", "link-local"):
            for version, address in addresses(name).items():
                prefix = {4: 24, 6: 64}[version] if name == "router" else address.max_prefixlen
                nodad = "nodad" if version == 6 else ""
                self.outside.batch(f"addr add {address}/{prefix} dev eth0 {nodad}")
        self.outside.batch("link set eth0 up")
        routing = ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        self.outside.run("sysctl", "-qw", *routing, "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.eth0.rp_filter=0")
        for node in (a, b):
            for version, via in enumerate(node.addresses):
                self.outside.batch(f"route add {node.pod_cidrs[version]} via {via}")
            for version, via in addresses("router").items():
                node.place.batch(f"route add {DEFAULT[version]} via {via}")
            node.place.batch(f"route add {ADDRESSES['link-local']} dev eth0")
        names = ("lan", "load balancer", "service a1")
        for version, via in zip((4, 6), a.addresses, strict=True):
            self.outside.batch(*(f"route add {addresses(name)[version]} via {via}" for name in names))
            b.place.batch(f"route add {addresses('lan')[version]} via {via}")

    def _connect_lan(self) -> None:
        a = self.lab.nodes["a"]
        self.lab.place.batch(f"link add eth0 netns {self.lan.pid} type veth peer name lan0 netns {a.place.pid}")
        for version, router in addresses("lan's router").items():
            prefix, nodad = {4: 24, 6: 64}[version], "nodad" if version == 6 else ""
            a.place.batch(f"addr add {router}/{prefix} dev lan0 {nodad}")
            self.lan.batch(f"addr add {addresses('lan')[version]}/{prefix} dev eth0 {nodad}")
        a.place.batch("link set lan0 up")
        self.lan.batch("link set eth0 up")
        for version, router in addresses("lan's router").items():
            self.lan.batch(f"route add {DEFAULT[version]} via {router}")

    def listen(self) -> None:
        """Open the listening sockets of every host."""
        for host in self.hosts.values():
            if host.name == "multicast":
                for group in host.addresses.values():
                    self.exchange.listen(host, (), group=group)
            else:
                self.exchange.listen(host, host.addresses.values())

    def configure(self, *, masqueraded: frozenset[int], filtered: frozenset[int]) -> None:
        """Restart the agents with these settings; return when every node's rules have them."""
        for node in self.lab.nodes.values():
            node.stop_agent()
            for version in (4, 6):
                node.environment[f"MASQUERADE_IPV{version}"] = "on" if version in masqueraded else "off"
                node.environment[f"FILTER_IPV{version}"] = "yes" if version in filtered else "no"
            node.start_agent()
        wanted = {f"masquerade {v}": v in masqueraded for v in (4, 6)} | {f"filter {v}": v in filtered for v in (4, 6)}
        for node in self.lab.nodes.values():
            eventually(lambda p=node.place: self.in_force(p) == wanted, what=f"{node.name} has {wanted}", seconds=20)  # type: ignore[misc]  # bool

            node.wait_working()

    @staticmethod
    def in_force(place: Place) -> dict[str, bool]:
        """Whether the rules of a node masquerade and filter, by feature and IP version, e.g. `filter 6`."""
        rules = parse(place.run("nft", "-s", "list", "table", "inet", "wigglenet", check=False))
        postrouting = "\n".join(rules.get(Item("chain", "wt_postrouting"), ()))
        masquerade = {f"masquerade {v}": f"@wt_own{v} " in postrouting for v in (4, 6)}
        inbound = {v: rules.get(Item("chain", f"wt_inbound{v}"), ()) for v in (4, 6)}
        return masquerade | {f"filter {v}": "ct status dnat accept" in lines for v, lines in inbound.items()}

    def flush_caches(self) -> None:
        """Flush the neighbour tables of all hosts and the connection tracking of the nodes."""
        for node in self.lab.nodes.values():
            node.place.run("conntrack", "-F")
        for host in self.hosts.values():
            within = ("ip", "netns", "exec", host.netns) if host.netns else ()
            host.place.run(*within, "ip", "neigh", "flush", "all")

    def target(self, name: str, version: int) -> tuple[IPAddress, int] | None:
        """Address and port of a host or Service; None if it has no address of this IP version."""
        if name == "hostPort of a1":
            return self.hosts["node a"].addresses[version], HOST_PORT
        service = SERVICES.get(name)
        if service:
            at = addresses(service.address) if service.address else self.hosts[f"node {service.node}"].addresses
            return at[version], service.port
        return (self.hosts[name].addresses[version], PORT) if version in self.hosts[name].addresses else None

    def endpoint(self, service: Service, version: int) -> IPAddress:
        """The address of the endpoint of a Service."""
        return self.hosts[service.to].addresses[version]

    def send_all(self, rows: list[tuple[Flow, int, Protocol, str]]) -> Iterator[Heard]:
        """Send one message for each (flow, IP version, protocol, expected source), many in parallel; the results in order."""
        with ThreadPoolExecutor(PARALLEL_FLOWS) as pool:
            yield from pool.map(lambda row: self._try(*row), rows)

    def _try(self, flow: Flow, version: int, protocol: Protocol, expected: str) -> Heard:
        to = self.target(flow.to, version)
        assert to, f"{flow.to} has no address of IPv{version}"
        forged = flow.source or ("outside" if flow.origin == "outside" else "")  # `outside` has several addresses; use this one
        source = self.hosts[forged].addresses[version] if forged else None
        hopeless = not expected or not flow.answered

        def say() -> Heard:
            host = self.hosts[flow.origin]
            return self.exchange.say(host, to, protocol=protocol, source=source, size=flow.size, hopeless=hopeless)

        heard = say()
        # The first message that is too long may only teach the sender the path MTU.
        return say() if flow.size and expected and not heard.source else heard

    def close(self) -> None:
        """Close the lab and the namespaces of the hosts."""
        self.lab.close()
        for place in self.places:
            place.close()

    def __enter__(self) -> Self:
        self.exchange.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.exchange.__exit__(kind, error, trace)
        self.close()


def _of_pod(pod: Pod, place: Place) -> Host:
    return Host(pod.name, place, pod.addresses, netns=pod.name)
