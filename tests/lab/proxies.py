"""The rules that a kube-proxy makes for Services, in its two modes, as far as packets can tell."""

from collections.abc import Iterator

from tests.lab.exchange import PORT
from tests.lab.flows import SERVICES, Service
from tests.lab.topology import Topology

MARK = "0x4000"
"""kube-proxy's for what it masquerades."""


def by_iptables(topology: Topology) -> None:
    """Chains in `nat`, by the iptables of this machine."""
    for node in topology.lab.nodes.values():
        for version, program in ((4, "iptables-restore"), (6, "ip6tables-restore")):
            rules = [rule for s in SERVICES.values() if s.node == node.name for rule in _iptables(topology, s, version)]
            head = ["*nat", ":PROXY - [0:0]", ":PROXY-POST - [0:0]", "-F PROXY", "-F PROXY-POST"]
            jumps = ["-A PREROUTING -j PROXY", "-A OUTPUT -j PROXY", "-A POSTROUTING -j PROXY-POST"]
            post = [f"-A PROXY-POST -m mark --mark {MARK}/{MARK} -j MASQUERADE --random-fully"]
            node.place.run(program, "--noflush", stdin="\n".join([*head, *jumps, *rules, *post, "COMMIT", ""]))


def _iptables(topology: Topology, service: Service, version: int) -> Iterator[str]:
    end = topology.endpoint(service, version)
    for protocol in ("udp", "tcp"):
        for address in _at(topology, service, version):
            match = f"-A PROXY -d {address} -p {protocol} --dport {service.port}"
            hairpin = f"-s {end} " if service.local else ""
            yield f"{match} {hairpin}-j MARK --set-xmark {MARK}/{MARK}"
            yield f"{match} -j DNAT --to-destination {f'[{end}]' if version == 6 else end}:{PORT}"


def by_nftables(topology: Topology) -> None:
    """A table `kube-proxy` for each family."""
    for node in topology.lab.nodes.values():
        for version, ip in ((4, "ip"), (6, "ip6")):
            rules = [rule for s in SERVICES.values() if s.node == node.name for rule in _nftables(topology, s, version)]
            lines = [
                f"table {ip} kube-proxy {{",
                "chain services {",
                *rules,
                "}",
                "chain prerouting { type nat hook prerouting priority dstnat; jump services; }",
                "chain output { type nat hook output priority -100; jump services; }",
                "chain postrouting { type nat hook postrouting priority srcnat;",
                f"meta mark & {MARK} == {MARK} masquerade fully-random; }}",
                "}",
            ]
            node.place.run("nft", "-f", "-", stdin="\n".join([*lines, ""]))


def _nftables(topology: Topology, service: Service, version: int) -> Iterator[str]:
    end, ip = topology.endpoint(service, version), {4: "ip", 6: "ip6"}[version]
    for protocol in ("udp", "tcp"):
        for address in _at(topology, service, version):
            match = f"{ip} daddr {address} {protocol} dport {service.port}"
            hairpin = f"{ip} saddr {end} " if service.local else ""
            yield f"{match} {hairpin}meta mark set meta mark | {MARK}"
            yield f"{match} dnat to {f'[{end}]' if version == 6 else end}:{PORT}"


def _at(topology: Topology, service: Service, version: int) -> Iterator[str]:
    name = next(name for name, one in SERVICES.items() if one is service)
    target = topology.target(name, version)
    assert target
    yield str(target[0])


def removed(topology: Topology) -> None:
    """Neither of the two."""
    for node in topology.lab.nodes.values():
        for ip, save in (("ip", "iptables"), ("ip6", "ip6tables")):
            node.place.run("sh", "-ec", f"{save}-save -t nat | grep -v PROXY | {save}-restore -T nat")
            node.place.run("nft", "-f", "-", stdin=f"table {ip} kube-proxy {{}}\ndelete table {ip} kube-proxy\n")
