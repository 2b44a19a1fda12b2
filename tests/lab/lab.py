"""A cluster on one machine: an API server, an underlay, nodes.

Reads like a story:

    with Lab() as lab:
        a, b = lab.add_node("a"), lab.add_node("b")
        lab.expect_mesh()
        with lab.no_loss():
            a.kill()
            a.start_agent()

Everything lives in namespaces of the lab's own and is gone with it, also after a kill -9; the machine's own network is
never touched.  Labs may run side by side.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from http.client import HTTPException
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from tests.lab.api import api_server
from tests.lab.capture import Capture, Packet
from tests.lab.mesh import Mesh
from tests.lab.namespaces import Place
from tests.lab.node import LabNode
from tests.lab.pod import Pod
from tests.lab.secrets import search
from tests.lab.underlay import UNDERLAY, Plug, Router, Segment, Wire, plug
from wigglenet_operator.model.facts import WireGuardKind

API_ADDRESS, API_MAC = "198.51.100.1", "02:00:00:00:00:01"
"""The bridge has a fixed hardware address. Otherwise it takes the lowest one of its ports, which may change when a node joins;
nodes that have just resolved the former one would not reach the API server for half a minute."""
MANIFESTS = Path(__file__).parents[2] / "manifests"
ApiKind = Literal["embedded", "kube"]


class Lab(Mesh[Pod]):
    """The control plane's place with two bridges in it - underlay and the way to the API server -, and the nodes."""

    def __init__(self, *, api: ApiKind = "embedded", wireguard: WireGuardKind = WireGuardKind.USERSPACE) -> None:
        self.wireguard = wireguard
        self.nodes: dict[str, LabNode] = {}
        self._routers: list[Router] = []
        self._numbers = count(11)
        self.place = Place("control-plane")
        try:
            self.add_segment(UNDERLAY)
            self.place.batch(
                f"link add mgmt address {API_MAC} type bridge mcast_snooping 0",
                f"addr add {API_ADDRESS}/24 dev mgmt",
                "link set mgmt up",
            )
            self.api = api_server(api, self.place, API_ADDRESS)
            self.api.start()
            # The embedded one has neither admission nor workloads.
            self.api.admin.apply(MANIFESTS / ("install.yaml" if api == "kube" else "agent/rbac.yaml"))
        except BaseException:
            self.close()
            raise

    def add_segment(self, segment: Segment) -> Segment:
        """One more network of the underlay, apart from the others."""
        self.place.batch(f"link add {segment.name} type bridge mcast_snooping 0", f"link set {segment.name} up")
        return segment

    def add_router(self, *segments: Segment) -> Router:
        """A router between segments; nodes that are added with it have their default route by it."""
        self._routers.append(Router(self.place, *segments))
        return self._routers[-1]

    def add_node(  # noqa: PLR0913 - what a machine may be like
        self,
        name: str,
        *,
        agent: bool = True,
        underlay_mtu: int = 1500,
        segment: Segment = UNDERLAY,
        router: Router | None = None,
        wire: Wire | None = None,
        pod_cidrs: Sequence[str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> LabNode:
        """A node with its Node object, credentials and, unless told otherwise, agent and WireGuard; it is not waited for.

        The Node object has the given pod networks, or those of its number.
        """
        number = next(self._numbers)
        node = LabNode(name, number, segment.addresses(number), wireguard=self.wireguard)
        if pod_cidrs is not None:
            node.pod_cidrs = tuple(pod_cidrs)
        try:
            plug(self.place, segment, node.place, Plug(f"u-{name}", "eth0", number, underlay_mtu, wire))
            if router:
                router.lead(node.place, segment)
            self._connect_api(node)
            self.register(node)
            node.environment |= {
                "KUBERNETES_SERVICE_HOST": API_ADDRESS,
                "KUBERNETES_SERVICE_PORT": "6443",
                **(environment or {}),
            }
            if agent:
                self.start(node)
        except BaseException:
            node.close()
            raise
        self.nodes[name] = node
        return node

    def start(self, node: LabNode, *, pythonpath: str | None = None) -> None:
        """Start WireGuard and the agent; with `pythonpath`, the real program with modules of that directory of the node."""
        if self.wireguard is WireGuardKind.USERSPACE:
            node.start_wireguard()
        if pythonpath:
            node.execute_agent(pythonpath=pythonpath)
        else:
            node.start_agent()

    def _connect_api(self, node: LabNode) -> None:
        self.place.batch(
            f"link add m-{node.name} type veth peer name api0 netns {node.place.pid}",
            f"link set m-{node.name} master mgmt up",
        )
        node.place.batch("link set api0 up", f"addr add {node.api_address}/24 dev api0")

    def set_mtu(self, node: LabNode, mtu: int) -> None:
        """Change what a node's underlay link carries, in bytes."""
        self.place.batch(f"link set u-{node.name} mtu {mtu}")
        node.place.batch(f"link set eth0 mtu {mtu}")

    def register(self, node: LabNode) -> None:
        """Create the Node object and give its agent a token that is bound to it, as kubelet and control plane do."""
        self.api.admin.create_node(node.name, node.pod_cidrs, [str(a) for a in node.addresses])
        self.give_credentials(node)

    def give_credentials(self, node: LabNode) -> None:
        """A token that lives as long as its Node object, as the kubelet asks for it."""
        found = self.api.admin.get(f"/api/v1/nodes/{node.name}")
        node.give_credentials(token=self.api.admin.token(found), ca_pem=self.api.ca_pem)

    def remove_node(self, name: str) -> None:
        """The machine goes, then its Node object."""
        # Of a namespace that ends, the kernel removes the links when it has time; a node of that name may come before.
        self.place.batch(f"link del u-{name}", f"link del m-{name}")
        self.expect_no_secret()
        self.nodes.pop(name).close()
        self.api.admin.delete_node(name)

    def annotations(self, name: str) -> dict[str, str]:
        """Of a Node object, as the API server has them."""
        node: dict[str, Any] = self.api.admin.get(f"/api/v1/nodes/{name}")
        return dict(node["metadata"].get("annotations") or {})

    def annotate(self, name: str, values: Mapping[str, str | None]) -> None:
        """Set annotations of a Node; None removes one."""
        self.api.admin.patch(f"/api/v1/nodes/{name}", {"metadata": {"annotations": values}})

    def pods(self) -> list[Pod]:
        """A connected pod of each node, made where there is none."""
        pods = [node.pod(f"pod-{node.name}") for node in self.nodes.values()]
        for pod in pods:
            pod.wait_connected()
        return pods

    def capture(self, wanted: Callable[[Packet], bool] | None = None) -> Capture:
        """Everything, or all that is wanted, that crosses the underlay from now on."""
        return Capture(self.place, ports="u-", wanted=wanted)

    def story(self) -> str:
        """What every agent has said, for a failure's report."""
        return "\n".join(f"--- {name}\n{node.log()[-4000:]}" for name, node in self.nodes.items())

    def expect_no_secret(self) -> None:
        """Nothing that any agent has told gives a key or a token away."""
        told: list[object] = []
        with suppress(OSError, HTTPException):  # a server that is stopped was asked before, or told nobody
            told = [self.api.admin.get(path)["items"] for path in ("/api/v1/nodes", "/api/v1/events")]
        found = search(self.nodes.values(), told)
        assert not found, f"secrets are in {found}"

    def close(self) -> None:
        """End everything; twice is fine."""
        try:
            if self.nodes:
                self.expect_no_secret()
        finally:
            self._close()

    def _close(self) -> None:
        for node in self.nodes.values():
            node.close()
        self.nodes.clear()
        for router in self._routers:
            router.close()
        if hasattr(self, "api"):
            self.api.stop()
        self.place.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
