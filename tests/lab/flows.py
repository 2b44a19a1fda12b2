"""Every kind of flow that the firewall may see, as a table: who sends to whom, and as whom the far end sees it.

The far end sees the sender's own address (`seen`), unless masquerading is on and the column `masqueraded` says otherwise;
a flow that is `filtered` does not arrive when the filter is on; what nobody may see has an empty `seen`.  Each row holds for
both families and, unless it says which, for UDP and TCP.

The hosts: pods a1 and a2 on node a, b1 on node b; `gateway a` is node a's own address in its pod network; `outside` is a host
of the world behind the nodes' router; `lan` is a host that has nothing to do with pods, and whose router is node a.
"""

from dataclasses import dataclass

from tests.lab.exchange import Protocol

BOTH: tuple[Protocol, ...] = ("udp", "tcp")
FRAGMENTED = 3000
"""Bytes of a datagram that no link takes whole."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """What a kube-proxy makes of a Service, or a load balancer, on one node."""

    node: str
    to: str
    """The endpoint."""
    port: int
    address: str = ""
    """A name of `ADDRESSES` that it is reached by; empty: the node's own addresses."""
    local: bool = True
    """Whether the endpoint sees the client (`externalTrafficPolicy: Local`, ClusterIP); else the node's address."""


SERVICES = {
    "ClusterIP of b1": Service(node="a", to="b1", port=80, address="service b1"),
    "ClusterIP of a1": Service(node="a", to="a1", port=80, address="service a1"),
    "ClusterIP of node b": Service(node="a", to="node b", port=80, address="service node b"),
    "NodePort of a1": Service(node="a", to="a1", port=30080, local=False),
    "NodePort of a1, Local": Service(node="a", to="a1", port=30081),
    "NodePort of b1 at node a": Service(node="a", to="b1", port=30082, local=False),
    "NodePort of b1, Local": Service(node="b", to="b1", port=30083),
    "load balancer of a1": Service(node="a", to="a1", port=80, address="load balancer"),
}
HOST_PORT = 8888
"""Of a1, by the `portmap` plugin."""


@dataclass(frozen=True, kw_only=True)
class Flow:
    """A row."""

    origin: str
    to: str
    seen: str
    masqueraded: str = ""
    """Empty: the same."""
    filtered: bool = False
    source: str = ""
    """Whose address it carries; empty: the origin's, as the kernel chooses it."""
    protocols: tuple[Protocol, ...] = BOTH
    versions: tuple[int, ...] = (4, 6)
    size: int = 0
    """Bytes of UDP payload at least."""
    keyed: bool = False
    """Whether cryptokey routing, or the kernel, which takes no packet from its own address, forbids it without us."""
    answered: bool = True
    """Whether an answer finds its way back, if it arrives at all."""

    def expected(self, *, masquerade: bool, filtered: bool) -> str:
        """As whom the far end sees it; empty if it must not arrive."""
        if self.filtered and filtered:
            return ""
        return (masquerade and self.masqueraded) or self.seen

    def __str__(self) -> str:
        """As in the table."""
        forged = f" as {self.source}" if self.source else ""
        return f"{self.origin}{forged} -> {self.to}" + (f", {self.size} bytes" if self.size else "")


FLOWS = (
    # within the cluster: nobody is masqueraded or filtered
    Flow(origin="a1", to="a2", seen="a1"),
    Flow(origin="a1", to="b1", seen="a1"),
    Flow(origin="b1", to="a1", seen="b1"),
    Flow(origin="a1", to="node a", seen="a1"),
    Flow(origin="a1", to="gateway a", seen="a1"),
    Flow(origin="a1", to="gateway b", seen="a1"),
    Flow(origin="node a", to="a1", seen="gateway a"),
    Flow(origin="node a", to="b1", seen="gateway a"),
    Flow(origin="node b", to="a1", seen="gateway b"),
    Flow(origin="node b", to="a1", source="node b", seen="node b"),
    Flow(origin="node a", to="node a", source="gateway a", seen="gateway a"),
    # the underlay knows no pods: other nodes' addresses are the world
    Flow(origin="a1", to="node b", seen="a1", masqueraded="node a"),
    Flow(origin="b1", to="node a", seen="b1", masqueraded="node b"),
    Flow(origin="a1", to="outside", seen="a1", masqueraded="node a"),
    Flow(origin="b1", to="outside", seen="b1", masqueraded="node b"),
    Flow(origin="a1", to="router", seen="a1", masqueraded="node a"),
    Flow(origin="a1", to="outside", seen="a1", masqueraded="node a", protocols=("udp",), size=FRAGMENTED),
    # NON_MASQUERADE_CIDRS, link-local, multicast
    Flow(origin="a1", to="direct", seen="a1"),
    Flow(origin="a1", to="link-local", seen="a1", versions=(4,)),
    Flow(origin="node a", to="multicast", source="gateway a", seen="gateway a", protocols=("udp",)),
    # to a node, through a node: none of our business
    Flow(origin="outside", to="node a", seen="outside"),
    Flow(origin="outside", to="gateway a", seen="outside"),
    Flow(origin="node a", to="outside", seen="node a"),
    Flow(origin="lan", to="outside", seen="lan"),
    Flow(origin="lan", to="node a", seen="lan"),
    Flow(origin="lan", to="node b", seen="lan"),
    Flow(origin="outside", to="lan", seen="outside"),
    Flow(origin="node b", to="lan", seen="node b"),
    # from the world to a pod
    Flow(origin="outside", to="a1", seen="outside", filtered=True),
    Flow(origin="outside", to="a1", seen="outside", filtered=True, protocols=("udp",), size=FRAGMENTED),
    Flow(origin="outside", to="b1", seen="outside", filtered=True),
    Flow(origin="lan", to="a1", seen="lan", filtered=True),
    Flow(origin="lan", to="b1", seen="", keyed=True),
    # what was sent to a service
    Flow(origin="a2", to="ClusterIP of b1", seen="a2"),
    Flow(origin="a2", to="ClusterIP of a1", seen="a2"),
    Flow(origin="a1", to="ClusterIP of a1", seen="gateway a"),  # hairpin
    Flow(origin="a1", to="ClusterIP of node b", seen="a1", masqueraded="node a"),
    Flow(origin="node a", to="ClusterIP of b1", seen="node a"),
    Flow(origin="outside", to="ClusterIP of a1", seen="outside"),
    Flow(origin="outside", to="NodePort of a1", seen="gateway a"),
    Flow(origin="outside", to="NodePort of a1, Local", seen="outside"),
    Flow(origin="outside", to="NodePort of b1 at node a", seen="gateway a"),
    Flow(origin="outside", to="NodePort of b1, Local", seen="outside"),
    Flow(origin="a1", to="NodePort of b1, Local", seen="", masqueraded="node a"),  # a pod's address, by the underlay: forged
    Flow(origin="a1", to="NodePort of b1 at node a", seen="gateway a"),
    Flow(origin="outside", to="load balancer of a1", seen="outside"),
    Flow(origin="a2", to="load balancer of a1", seen="a2"),
    Flow(origin="outside", to="hostPort of a1", seen="outside"),
    Flow(origin="a2", to="hostPort of a1", seen="gateway a"),
    Flow(origin="a1", to="hostPort of a1", seen="gateway a"),  # hairpin
    # forged senders: by the right door only
    Flow(origin="outside", to="a1", source="b1", seen="", protocols=("udp",)),
    Flow(origin="outside", to="a1", source="a2", seen="", protocols=("udp",)),
    Flow(origin="outside", to="b1", source="a2", seen="", protocols=("udp",)),
    Flow(origin="lan", to="a1", source="b1", seen="", protocols=("udp",)),
    Flow(origin="lan", to="a1", source="a2", seen="", protocols=("udp",)),
    Flow(origin="lan", to="b1", source="a2", seen="", protocols=("udp",)),
    Flow(origin="a1", to="a2", source="b1", seen="", protocols=("udp",)),
    Flow(origin="a1", to="b1", source="a2", seen="", protocols=("udp",)),
    Flow(origin="a1", to="outside", source="b1", seen="", protocols=("udp",)),
    Flow(origin="a1", to="outside", source="lan", seen="", protocols=("udp",)),
    Flow(origin="a1", to="lan", source="outside", seen="", protocols=("udp",)),
    Flow(origin="a1", to="b1", source="node a", seen="", protocols=("udp",), versions=(6,)),
    Flow(origin="a1", to="b1", source="node a", seen="", protocols=("udp",), versions=(4,), keyed=True),  # a martian
    Flow(origin="b1", to="a1", source="a2", seen="", protocols=("udp",), keyed=True),
    Flow(origin="a1", to="outside", source="a2", seen="a2", masqueraded="node a", protocols=("udp",), answered=False),
)
