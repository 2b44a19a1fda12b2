"""What whoever holds the token of one node's agent can do: the policy in `manifests/`, on the real API server."""

from collections.abc import Iterator
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from tests.lab.api import ApiServer, api_server
from tests.lab.api.client import ApiStatus, Client
from tests.lab.namespaces import Place
from tests.lab.wait import eventually

pytestmark = pytest.mark.kube
MANIFESTS = Path(__file__).parents[2] / "manifests"
AGENT = "wigglenet-operator"
ADDRESS = "198.51.100.2"
OWN, OTHER = "/api/v1/nodes/a", "/api/v1/nodes/b"
EVENTS = "/api/v1/namespaces/default/events"


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    """Nodes a and b with what others have put there, and the policy in force."""
    place = Place("admission")
    place.batch(f"addr add {ADDRESS}/32 dev lo")
    running = api_server("kube", place, ADDRESS)
    running.start()
    try:
        running.admin.apply(MANIFESTS / "install.yaml")
        for name in "ab":
            running.admin.create_node(name, ["10.2.0.0/24"] if name == "a" else ["10.3.0.0/24"], ["192.0.2.1"])
            running.admin.patch(
                f"/api/v1/nodes/{name}", {"metadata": {"annotations": {"foreign": "1"}, "labels": {"zone": "x"}}}
            )
        agent = running.client(running.admin.token(running.admin.get(OWN)))
        eventually(lambda: told(agent, OTHER, annotations={"wigglenet/status": "x"}), what="the policy is in force")
        yield running
    finally:
        running.stop()
        place.close()


@pytest.fixture
def agent(server: ApiServer) -> Client:
    """What runs on node a."""
    return server.client(server.admin.token(server.admin.get(OWN)))


def told(agent: Client, path: str, *, annotations: Any = None, **more: Any) -> str:
    """Why a patch is refused; empty if it is not."""
    metadata = {"annotations": annotations} if annotations else {}
    try:
        agent.patch(path, {"metadata": {**metadata, **more.pop("metadata", {})}, **more})
    except ApiStatus as status:
        return str(status.body["message"])
    return ""


def minted(server: ApiServer, namespace: str, **spec: Any) -> str:
    """A token of the agent's account, as a kubelet asks for it."""
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{AGENT}/token"
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600, **spec}}
    return str(server.admin.post(path, asked)["status"]["token"])


def refused(agent: Client, path: str) -> bool:
    """Whether the server does not know the token any more."""
    try:
        agent.patch(path, {"metadata": {"annotations": {"wigglenet/status": "x"}}})
    except ApiStatus as status:
        return status.code == HTTPStatus.UNAUTHORIZED
    return False


def test_an_agent_publishes_on_its_own_node(agent: Client, server: ApiServer) -> None:
    published = {f"wigglenet/{name}": "x" for name in ("public-key", "node-ips", "pod-cidrs", "status")}

    assert told(agent, OWN, annotations=published) == ""
    assert told(agent, OWN, annotations=dict.fromkeys(published)) == ""
    assert server.admin.get(OWN)["metadata"]["annotations"] == {"foreign": "1"}


@pytest.mark.parametrize("name", ["public-key", "node-ips", "pod-cidrs", "status"])
def test_it_changes_nothing_of_another_node(agent: Client, name: str) -> None:
    assert "an agent changes its own Node only" in told(agent, OTHER, annotations={f"wigglenet/{name}": "x"})


@pytest.mark.parametrize(
    "annotations",
    [{"foreign": "2"}, {"foreign": None}, {"new": "1"}, {"wigglenet/other": "1"}, {"wigglenet/status": "1", "new": "1"}],
)
def test_it_changes_no_annotation_of_somebody_else(agent: Client, annotations: dict[str, str | None]) -> None:
    assert "of a Node's annotations an agent changes only" in told(agent, OWN, annotations=annotations)


@pytest.mark.parametrize(
    "change",
    [
        {"metadata": {"labels": {"zone": "y"}}},
        {"metadata": {"labels": {"zone": None}}},
        {"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}},
        {"metadata": {"finalizers": ["example.com/held"]}},
        {"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "b", "uid": "x"}]}},
        {"spec": {"unschedulable": True}},
        {"spec": {"taints": [{"key": "k", "effect": "NoExecute"}]}},
        {"spec": {"providerID": "x://y"}},
    ],
)
def test_it_changes_nothing_else_of_its_own_node(agent: Client, change: dict[str, Any]) -> None:
    assert "an agent changes nothing of a Node but annotations" in told(agent, OWN, **change)


def event(node: str, name: str) -> dict[str, Any]:
    """One about a Node."""
    about = {"apiVersion": "v1", "kind": "Node", "name": node, "uid": "x"}
    return {"metadata": {"name": name, "namespace": "default"}, "involvedObject": about, "reason": "NoEndpoint", "message": "x"}


def test_it_tells_of_its_own_node(agent: Client) -> None:
    agent.post(EVENTS, event("a", "a.1"))
    assert agent.patch(f"{EVENTS}/a.1", {"count": 2})["count"] == 2


def test_it_tells_of_no_other_node_and_changes_no_other_event(agent: Client, server: ApiServer) -> None:
    server.admin.post(EVENTS, event("b", "b.1"))
    for attempt in (
        partial(agent.post, EVENTS, event("b", "b.2")),
        partial(
            agent.post, EVENTS, event("a", "a.2") | {"involvedObject": {"kind": "Pod", "name": "a", "namespace": "default"}}
        ),
        partial(agent.patch, f"{EVENTS}/b.1", {"message": "y"}),
        partial(agent.patch, f"{EVENTS}/b.1", {"involvedObject": {"name": "a"}}),
    ):
        with pytest.raises(ApiStatus, match="an agent's Events are about its own Node only") as refused:
            attempt()
        assert refused.value.code == HTTPStatus.FORBIDDEN, "the agent leaves out what is called invalid"


@pytest.fixture
def conditioned(server: ApiServer) -> Iterator[Client]:
    """The agent with the right that `manifests/modes/node-condition` gives."""
    role = "/apis/rbac.authorization.k8s.io/v1/clusterroles/wigglenet-operator"
    before = server.admin.get(role)["rules"]
    more = {"apiGroups": [""], "resources": ["nodes/status"], "verbs": ["patch"]}
    server.admin.patch(role, {"rules": [*before, more]})
    yield server.client(server.admin.token(server.admin.get(OWN)))
    server.admin.patch(role, {"rules": before})


def condition(kind: str) -> dict[str, Any]:
    """A status with one condition, as a merge patch."""
    return {"conditions": [{"type": kind, "status": "False", "reason": "x", "message": "y"}]}


def test_of_a_status_it_changes_only_its_condition(conditioned: Client) -> None:
    only = "of a Node's status an agent changes only the condition NetworkUnavailable"

    eventually(lambda: "forbidden: User" not in told(conditioned, f"{OWN}/status", status={}), what="the right is there")
    assert told(conditioned, f"{OWN}/status", status=condition("NetworkUnavailable")) == ""
    assert only in told(conditioned, f"{OWN}/status", status={"phase": "Pending"})
    assert only in told(conditioned, f"{OWN}/status", status={"addresses": [{"type": "InternalIP", "address": "192.0.2.9"}]})
    assert only in told(conditioned, f"{OWN}/status", status=condition("Ready"))
    assert "an agent changes its own Node only" in told(conditioned, f"{OTHER}/status", status=condition("NetworkUnavailable"))


def test_others_change_nodes_as_before(server: ApiServer) -> None:
    server.admin.patch(OTHER, {"metadata": {"labels": {"zone": "z"}, "annotations": {"wigglenet/status": "x"}}})

    assert server.admin.get(OTHER)["metadata"]["labels"]["zone"] == "z"


def test_a_token_that_is_bound_to_no_node_changes_none(server: ApiServer) -> None:
    loose = server.client(minted(server, "kube-system"))

    assert "an agent changes its own Node only" in told(loose, OWN, annotations={"wigglenet/status": "x"})


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/secrets",
        "/api/v1/namespaces/kube-system/secrets",
        "/api/v1/namespaces/kube-system/configmaps",
        "/api/v1/pods",
        "/apis/apps/v1/daemonsets",
    ],
)
def test_it_reads_nothing_but_nodes_and_service_ranges(agent: Client, path: str) -> None:
    assert agent.get("/api/v1/nodes")["items"]
    assert agent.get("/apis/networking.k8s.io/v1/servicecidrs")["items"]
    with pytest.raises(ApiStatus, match="403 Forbidden"):
        agent.get(path)


def test_it_mints_no_token_and_writes_no_status(agent: Client) -> None:
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
    with pytest.raises(ApiStatus, match="403 Forbidden"):
        agent.post("/api/v1/namespaces/kube-system/serviceaccounts/wigglenet-operator/token", asked)
    with pytest.raises(ApiStatus, match="403 Forbidden"):
        agent.patch(f"{OWN}/status", {"status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.66"}]}})


def test_it_ends_with_its_node_also_when_another_takes_the_name(server: ApiServer) -> None:
    former = server.client(server.admin.token(server.admin.create_node("c", ["10.4.0.0/24"], ["192.0.2.3"])))
    assert former.get("/api/v1/nodes")["items"]
    server.admin.delete_node("c")
    server.admin.create_node("c", ["10.4.0.0/24"], ["192.0.2.3"])

    eventually(
        partial(refused, former, "/api/v1/nodes/c"), what="the token is worth nothing", seconds=30
    )  # the API server asks anew after 10 s


def test_the_token_that_a_kubelet_gives_the_agents_pod_is_as_narrow_and_ends_with_the_pod(server: ApiServer) -> None:
    path = "/api/v1/namespaces/kube-system/pods"
    spec = {"serviceAccountName": AGENT, "nodeName": "a", "containers": [{"name": "agent", "image": "x"}]}
    pod = server.admin.post(path, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "agent"}, "spec": spec})
    bound = {"kind": "Pod", "apiVersion": "v1", "name": "agent", "uid": pod["metadata"]["uid"]}
    agent = server.client(minted(server, "kube-system", boundObjectRef=bound))

    assert told(agent, OWN, annotations={"wigglenet/status": "x"}) == ""
    assert "an agent changes its own Node only" in told(agent, OTHER, annotations={"wigglenet/status": "x"})

    server.admin.delete(f"{path}/agent?gracePeriodSeconds=0")
    eventually(partial(refused, agent, OWN), what="the token is worth nothing", seconds=30)


def test_the_policy_holds_in_another_namespace_too(server: ApiServer) -> None:
    server.admin.post("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "network"}})
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": AGENT}}
    server.admin.post("/api/v1/namespaces/network/serviceaccounts", account)
    subject = {"kind": "ServiceAccount", "name": AGENT, "namespace": "network"}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": AGENT}
    binding = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "network"}}
    server.admin.post(
        "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding | {"roleRef": role, "subjects": [subject]}
    )
    node = server.admin.get(OWN)["metadata"]
    bound = {"kind": "Node", "apiVersion": "v1", "name": "a", "uid": node["uid"]}
    agent = server.client(minted(server, "network", boundObjectRef=bound))

    assert "an agent changes its own Node only" in told(agent, OTHER, annotations={"wigglenet/status": "x"})


@pytest.mark.parametrize("manifest", ["install.yaml", "install-userspace.yaml"])
def test_what_is_installed_is_valid_to_the_last_field(server: ApiServer, manifest: str) -> None:
    """Each object by the server's strict validation, over what is there and without a trace."""
    before = server.admin.get("/apis/apps/v1/daemonsets")["items"]
    objects = server.admin.apply(MANIFESTS / manifest, dry_run=True)

    assert {one["kind"] for one in objects} >= {"DaemonSet", "ServiceAccount", "ClusterRole", "ValidatingAdmissionPolicy"}
    assert server.admin.get("/apis/apps/v1/daemonsets")["items"] == before


def test_a_field_that_nobody_knows_is_refused(server: ApiServer, tmp_path: Path) -> None:
    """So that the test above can fail."""
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text((MANIFESTS / "agent/daemonset.yaml").read_text().replace("hostNetwork:", "hostNetworks:"))

    with pytest.raises(ApiStatus, match=r"unknown field.*hostNetworks"):
        server.admin.apply(wrong, dry_run=True)
