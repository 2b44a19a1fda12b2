"""What the lab's two API servers both keep: one suite on the embedded one and, unless `--api embedded`, on the real one.

Every sentence here is something that the agent, Kopf or the lab relies on.
"""

import contextlib
import ssl
import threading
from collections.abc import Iterator
from http import HTTPStatus
from http.client import IncompleteRead
from itertools import islice
from pathlib import Path

import pytest
import trustme

from tests.lab.api import ApiServer, ApiStatus, Client, Json, api_server
from tests.lab.api.client import METADATA_LIST, METADATA_ONLY
from tests.lab.api.embedded import EmbeddedServer
from tests.lab.api.misbehaviour import Misbehaviour
from tests.lab.api.rest import Request
from tests.lab.faults import api_server as api_faults
from tests.lab.namespaces import Place
from tests.lab.wait import eventually

ADDRESS = "198.51.100.1"
NODES = "/api/v1/nodes"
EVENTS = "/api/v1/namespaces/default/events"
SERVICE_CIDRS = "/apis/networking.k8s.io/v1/servicecidrs"
RBAC = Path(__file__).parents[2] / "manifests/agent/rbac.yaml"
AGENT = "system:serviceaccount:kube-system:wigglenet-operator"
OTHER_UID = "11111111-2222-3333-4444-555555555555"
# A real server believes a token that it has seen for up to 10 s without looking (kubeapiserver/options: TokenSuccessCacheTTL).
TOKEN_CACHE_SECONDS = 20.0
# It sends a bookmark some 2 s before a watch's end, and every minute (storage/cacher: bookmarkFrequency).
BOOKMARK_WATCH_SECONDS = 8
# More than a real server itself writes while it starts.
RESTORED_VERSIONS = 100


@pytest.fixture(scope="module")
def network() -> Iterator[Place]:
    place = Place("contract")
    try:
        place.batch(f"addr add {ADDRESS}/32 dev lo")
        yield place
    finally:
        place.close()


@pytest.fixture(scope="module", params=["embedded", pytest.param("kube", marks=pytest.mark.kube)])
def server(request: pytest.FixtureRequest, network: Place) -> Iterator[ApiServer]:
    running = api_server(request.param, network, ADDRESS)
    running.start()
    try:
        running.admin.apply(RBAC)
        yield running
    finally:
        running.stop()


@pytest.fixture
def admin(server: ApiServer) -> Client:
    """All rights, on a server without Nodes."""
    for node in server.admin.get(NODES)["items"]:
        server.admin.delete_node(node["metadata"]["name"])
    return server.admin


@pytest.fixture
def node_a(admin: Client) -> Json:
    return admin.create_node("a", ["10.2.0.0/24", "fd00:2::/64"], ["192.0.2.1", "2001:db8::1"])


@pytest.fixture
def agent(server: ApiServer, node_a: Json) -> Client:
    """What runs on node a."""
    return server.client(server.admin.token(node_a))


def names(items: list[Json]) -> list[str]:
    return [item["metadata"]["name"] for item in items]


def version(item: Json) -> int:
    return int(item["metadata"]["resourceVersion"])


@contextlib.contextmanager
def refused(code: int, reason: str, message: str) -> Iterator[None]:
    """The server says no in exactly these words, in a body of kind Status."""
    with pytest.raises(ApiStatus) as error:
        yield
    body = error.value.body
    assert (body["code"], body["reason"], body["message"]) == (code, reason, message)
    assert (body["kind"], body["apiVersion"], body["status"]) == ("Status", "v1", "Failure")


# Reading


def test_a_node_keeps_its_networks_and_addresses(node_a: Json) -> None:
    assert node_a["spec"]["podCIDRs"] == ["10.2.0.0/24", "fd00:2::/64"]
    assert [one["address"] for one in node_a["status"]["addresses"]] == ["192.0.2.1", "2001:db8::1"]


def test_pages_of_a_list_add_up_to_the_list_as_it_was_at_the_first_page(admin: Client) -> None:
    for name in "abcde":
        admin.create_node(name)
    pages = [admin.get(NODES, limit=2)]
    admin.delete_node("e")
    admin.create_node("f")
    while token := pages[-1]["metadata"].get("continue"):
        pages.append(admin.get(NODES, limit=2, **{"continue": token}))
    assert [names(page["items"]) for page in pages] == [["a", "b"], ["c", "d"], ["e"]]
    assert len({page["metadata"]["resourceVersion"] for page in pages}) == 1
    assert [page["metadata"].get("remainingItemCount") for page in pages] == [3, 1, None]


def test_a_page_can_be_asked_for_twice(admin: Client) -> None:
    for name in "abc":
        admin.create_node(name)
    token = admin.get(NODES, limit=1)["metadata"]["continue"]
    assert [names(admin.get(NODES, limit=1, **{"continue": token})["items"]) for _ in range(2)] == [["b"], ["b"]]


def test_items_of_a_list_say_neither_kind_nor_version(admin: Client, node_a: Json) -> None:
    listed = admin.get(NODES)
    assert (listed["kind"], listed["apiVersion"]) == ("NodeList", "v1")
    assert set(listed["items"][0]) == {"metadata", "spec", "status"}
    assert listed["items"][0]["metadata"]["uid"] == node_a["metadata"]["uid"]


@pytest.mark.usefixtures("node_a")
def test_a_metadata_only_list_has_names_and_uids_and_no_spec(admin: Client) -> None:
    listed = admin.get(NODES, accept=METADATA_LIST)
    assert (listed["kind"], listed["apiVersion"]) == ("PartialObjectMetadataList", "meta.k8s.io/v1")
    (item,) = listed["items"]
    assert (item["kind"], set(item)) == ("PartialObjectMetadata", {"kind", "apiVersion", "metadata"})
    assert item["metadata"]["uid"]


def test_a_field_selector_lists_one_node(admin: Client) -> None:
    for name in "abc":
        admin.create_node(name)
    assert names(admin.get(NODES, fieldSelector="metadata.name=b")["items"]) == ["b"]


def test_the_ranges_of_services_are_an_object_from_the_start(admin: Client) -> None:
    listed = admin.get(SERVICE_CIDRS)
    assert (listed["kind"], listed["apiVersion"]) == ("ServiceCIDRList", "networking.k8s.io/v1")
    (item,) = listed["items"]
    assert item["metadata"]["name"] == "kubernetes"
    assert item["spec"] == {"cidrs": ["10.96.0.0/16", "fd00:10:96::/112"]}
    assert "finalizers" not in item["metadata"]  # the controller-manager adds one, and there is none here

    def ready() -> bool:
        conditions = admin.get(f"{SERVICE_CIDRS}/kubernetes").get("status", {}).get("conditions", [])
        return [(one["type"], one["status"]) for one in conditions] == [("Ready", "True")]

    eventually(ready, what="the ServiceCIDR is ready")


def test_discovery_names_nodes_as_cluster_scoped_with_a_status(agent: Client) -> None:
    assert agent.get("/api")["versions"] == ["v1"]
    assert "rbac.authorization.k8s.io" in [group["name"] for group in agent.get("/apis")["groups"]]
    resources = {one["name"]: one for one in agent.get("/api/v1")["resources"]}
    assert (resources["nodes"]["kind"], resources["nodes"]["namespaced"]) == ("Node", False)
    assert {"get", "list", "watch", "patch"} <= set(resources["nodes"]["verbs"])
    assert "nodes/status" in resources
    assert agent.get("/version")["major"] == "1"


# Writing


def test_a_merge_patch_deletes_with_null_and_leaves_the_rest(admin: Client, agent: Client) -> None:
    admin.patch(f"{NODES}/a", {"metadata": {"annotations": {"stays": "1", "goes": "1"}}})
    patched = agent.patch(f"{NODES}/a", {"metadata": {"annotations": {"goes": None, "comes": "1", "never-was": None}}})
    assert patched["metadata"]["annotations"] == {"stays": "1", "comes": "1"}
    assert patched["spec"]["podCIDR"] == "10.2.0.0/24"


@pytest.mark.usefixtures("node_a")
def test_the_last_annotation_goes_with_its_map(admin: Client) -> None:
    admin.patch(f"{NODES}/a", {"metadata": {"annotations": {"x": "1"}}})
    assert "annotations" not in admin.patch(f"{NODES}/a", {"metadata": {"annotations": {"x": None}}})["metadata"]


def test_a_patch_that_changes_nothing_makes_no_new_version_and_no_event(admin: Client, agent: Client) -> None:
    before = agent.patch(f"{NODES}/a", {"metadata": {"annotations": {"x": "1"}}})
    same = agent.patch(f"{NODES}/a", {"metadata": {"annotations": {"x": "1"}}})
    assert version(same) == version(before)
    admin.patch(f"{NODES}/a", {"metadata": {"annotations": {"x": "2"}}})
    with contextlib.closing(admin.watch(NODES, resourceVersion=version(before), timeoutSeconds=10)) as events:
        assert next(events)["object"]["metadata"]["annotations"] == {"x": "2"}


def test_replacing_an_old_version_is_a_conflict(admin: Client, node_a: Json) -> None:
    admin.patch(f"{NODES}/a", {"metadata": {"annotations": {"x": "1"}}})
    why = "the object has been modified; please apply your changes to the latest version and try again"
    with refused(409, "Conflict", f'Operation cannot be fulfilled on nodes "a": {why}'):
        admin.put(f"{NODES}/a", node_a)


def test_a_patch_with_an_old_version_is_a_conflict(admin: Client, node_a: Json) -> None:
    admin.patch(f"{NODES}/a", {"metadata": {"annotations": {"x": "1"}}})
    why = "the object has been modified; please apply your changes to the latest version and try again"
    with refused(409, "Conflict", f'Operation cannot be fulfilled on nodes "a": {why}'):
        admin.patch(f"{NODES}/a", {"metadata": {"resourceVersion": str(version(node_a)), "annotations": {"x": "2"}}})


@pytest.mark.usefixtures("node_a")
def test_a_patch_for_another_uid_is_invalid(agent: Client) -> None:
    with refused(422, "Invalid", f'Node "a" is invalid: metadata.uid: Invalid value: "{OTHER_UID}": field is immutable'):
        agent.patch(f"{NODES}/a", {"metadata": {"uid": OTHER_UID, "annotations": {"x": "1"}}})


def test_replacing_another_uid_is_a_conflict(admin: Client, node_a: Json) -> None:
    with pytest.raises(ApiStatus) as error:
        admin.put(f"{NODES}/a", {**node_a, "metadata": {**node_a["metadata"], "uid": OTHER_UID}})
    assert (error.value.code, error.value.reason) == (409, "Conflict")
    found = node_a["metadata"]["uid"]
    # The real one puts its storage's own words between.
    assert error.value.message.endswith(f"Precondition failed: UID in precondition: {OTHER_UID}, UID in object meta: {found}")


@pytest.mark.usefixtures("node_a")
def test_an_annotation_that_is_no_text_is_refused(admin: Client) -> None:
    with pytest.raises(ApiStatus) as error:
        admin.patch(f"{NODES}/a", {"metadata": {"annotations": {"x": 1}}})
    assert (error.value.code, error.value.reason) == (422, "Invalid")
    with pytest.raises(ApiStatus) as error:
        admin.post(NODES, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "b", "annotations": {"x": 1}}})
    assert (error.value.code, error.value.reason) == (400, "BadRequest")


@pytest.mark.usefixtures("node_a")
def test_a_patch_cannot_rename(admin: Client) -> None:
    with refused(400, "BadRequest", "the name of the object (b) does not match the name on the URL (a)"):
        admin.patch(f"{NODES}/a", {"metadata": {"name": "b"}})


@pytest.mark.usefixtures("node_a")
def test_a_node_cannot_be_created_twice(admin: Client) -> None:
    with refused(409, "AlreadyExists", 'nodes "a" already exists'):
        admin.create_node("a")


def test_a_node_without_a_name_is_invalid(admin: Client) -> None:
    with refused(422, "Invalid", 'Node "" is invalid: metadata.name: Required value: name or generateName is required'):
        admin.post(NODES, {"apiVersion": "v1", "kind": "Node", "metadata": {}})


def test_a_node_that_is_not_there_is_not_found(admin: Client) -> None:
    with refused(404, "NotFound", 'nodes "nobody" not found'):
        admin.get(f"{NODES}/nobody")
    with refused(404, "NotFound", 'nodes "nobody" not found'):
        admin.patch(f"{NODES}/nobody", {})
    with refused(404, "NotFound", 'nodes "nobody" not found'):
        admin.delete_node("nobody")


def test_the_main_path_ignores_status_and_the_status_path_ignores_spec(admin: Client, node_a: Json) -> None:
    other = [{"type": "InternalIP", "address": "192.0.2.99"}]
    same = admin.patch(f"{NODES}/a", {"status": {"addresses": other}})
    assert version(same) == version(node_a)
    assert same["status"] == node_a["status"]
    told = admin.patch(f"{NODES}/a/status", {"status": {"addresses": other}, "spec": {"unschedulable": True}})
    assert told["status"]["addresses"] == other
    assert told["spec"] == node_a["spec"]
    replaced = admin.put(f"{NODES}/a", {**told, "status": {}, "spec": {**told["spec"], "unschedulable": True}})
    assert replaced["status"]["addresses"] == other
    assert replaced["spec"]["unschedulable"] is True


def test_a_node_made_anew_has_another_uid(admin: Client, node_a: Json) -> None:
    admin.delete_node("a")
    assert admin.create_node("a")["metadata"]["uid"] != node_a["metadata"]["uid"]


def test_a_deletion_of_another_uid_is_a_conflict(admin: Client, node_a: Json) -> None:
    found = node_a["metadata"]["uid"]
    why = f"the UID in the precondition ({OTHER_UID}) does not match the UID in record ({found})."
    again = "The object might have been deleted and then recreated"
    with refused(409, "Conflict", f'Operation cannot be fulfilled on Node "a": {why} {again}'):
        admin.delete(f"{NODES}/a", {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": OTHER_UID}})


# Watching


def test_a_watch_resumes_after_a_version_in_order(admin: Client, node_a: Json) -> None:
    admin.patch(f"{NODES}/a", {"metadata": {"annotations": {"x": "1"}}})
    admin.create_node("b", addresses=["192.0.2.2"])
    admin.delete_node("a")
    with contextlib.closing(admin.watch(NODES, resourceVersion=version(node_a), timeoutSeconds=10)) as watch:
        events = list(islice(watch, 4))
    assert [(event["type"], event["object"]["metadata"]["name"]) for event in events] == [
        ("MODIFIED", "a"),
        ("ADDED", "b"),
        ("MODIFIED", "b"),  # its status
        ("DELETED", "a"),
    ]
    versions = [version(event["object"]) for event in events]
    assert versions == sorted(set(versions))
    assert versions[0] > version(node_a)
    assert {event["object"]["kind"] for event in events} == {"Node"}


def test_a_watch_tells_what_happens_while_it_runs(admin: Client, node_a: Json) -> None:
    with contextlib.closing(admin.watch(NODES, resourceVersion=version(node_a), timeoutSeconds=10)) as events:
        later = threading.Timer(0.3, admin.patch, (f"{NODES}/a", {"metadata": {"labels": {"x": "1"}}}))
        later.start()
        assert next(events)["object"]["metadata"]["labels"] == {"x": "1"}
        later.join()


def test_a_watch_without_a_version_begins_with_what_is_there(admin: Client) -> None:
    for name in "ab":
        admin.create_node(name)
    admin.post("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "newer-than-any-node"}})
    with contextlib.closing(admin.watch(NODES, timeoutSeconds=10)) as watch:
        events = list(islice(watch, 2))
    assert [event["type"] for event in events] == ["ADDED", "ADDED"]
    assert sorted(names([event["object"] for event in events])) == ["a", "b"]


def test_a_watch_of_one_name_does_not_tell_of_others(admin: Client, node_a: Json) -> None:
    admin.create_node("b")
    admin.delete_node("a")
    selected = admin.watch(NODES, resourceVersion=version(node_a), fieldSelector="metadata.name=a", timeoutSeconds=1)
    assert [event["type"] for event in selected] == ["DELETED"]


def test_a_metadata_only_watch_has_no_spec(admin: Client, node_a: Json) -> None:
    admin.patch(f"{NODES}/a", {"metadata": {"labels": {"x": "1"}}})
    watch = admin.watch(NODES, accept=METADATA_ONLY, resourceVersion=version(node_a), timeoutSeconds=10)
    with contextlib.closing(watch) as events:
        item = next(events)["object"]
    assert (item["kind"], set(item)) == ("PartialObjectMetadata", {"kind", "apiVersion", "metadata"})


def test_a_bookmark_carries_the_version_of_what_the_watch_did_not_tell(admin: Client, node_a: Json) -> None:
    watch = admin.watch(
        NODES,
        resourceVersion=version(node_a),
        fieldSelector="metadata.name=a",
        allowWatchBookmarks=True,
        timeoutSeconds=BOOKMARK_WATCH_SECONDS,
    )
    # Only what happens after the watch began makes a real server send one.
    later = threading.Timer(0.3, admin.create_node, ("b",))
    later.start()
    with contextlib.closing(watch) as events:
        event = next(events)
    later.join()
    assert (event["type"], event["object"]["kind"]) == ("BOOKMARK", "Node")
    assert version(event["object"]) >= version(admin.get(f"{NODES}/b")) > version(node_a)


def test_a_watch_ends_when_its_time_is_over(admin: Client, node_a: Json) -> None:
    assert list(admin.watch(NODES, resourceVersion=version(node_a), timeoutSeconds=1)) == []


def test_a_watch_from_a_forgotten_version_gets_an_error_event_with_410(server: ApiServer, admin: Client, node_a: Json) -> None:
    admin.patch(f"{NODES}/a", {"metadata": {"labels": {"x": "1"}}})
    server.forget_history()
    (event,) = admin.watch(NODES, resourceVersion=version(node_a), timeoutSeconds=5)
    assert event["type"] == "ERROR"
    status = event["object"]
    assert (status["kind"], status["code"], status["reason"]) == ("Status", 410, "Expired")
    assert status["message"].startswith(f"too old resource version: {version(node_a)} (")


def test_a_listing_whose_version_is_forgotten_cannot_be_continued(server: ApiServer, admin: Client) -> None:
    for name in "abc":
        admin.create_node(name)
    token = admin.get(NODES, limit=1)["metadata"]["continue"]
    admin.delete_node("c")
    server.forget_history()
    with pytest.raises(ApiStatus) as error:
        admin.get(NODES, limit=1, **{"continue": token})
    assert (error.value.code, error.value.reason) == (410, "Expired")
    assert error.value.message.startswith("The provided continue parameter is too old to display a consistent list result.")


# Going back


def test_a_restore_brings_objects_and_versions_back(server: ApiServer, admin: Client, node_a: Json, agent: Client) -> None:
    server.snapshot()
    for number in range(RESTORED_VERSIONS):
        last = admin.patch(f"{NODES}/a", {"metadata": {"labels": {"x": str(number)}}})
    lost = admin.create_node("b")
    server.restore()
    assert names(admin.get(NODES)["items"]) == ["a"]
    assert agent.get(f"{NODES}/a") == node_a
    again = admin.create_node("b")
    assert again["metadata"]["uid"] != lost["metadata"]["uid"]
    assert version(node_a) < version(again) < version(last)


def test_a_watch_from_a_version_that_a_restore_took_back_is_silent_until_it_is_reached(
    server: ApiServer, admin: Client
) -> None:
    admin.create_node("a")
    server.snapshot()
    for number in range(RESTORED_VERSIONS):
        last = admin.patch(f"{NODES}/a", {"metadata": {"labels": {"x": str(number)}}})
    server.restore()
    later = threading.Timer(0.3, admin.create_node, ("b",))
    later.start()
    assert list(admin.watch(NODES, resourceVersion=version(last), allowWatchBookmarks=True, timeoutSeconds=2)) == []
    later.join()
    assert names(admin.get(NODES)["items"]) == ["a", "b"]

    number = 0
    while version(admin.patch(f"{NODES}/a", {"metadata": {"labels": {"y": str(number)}}})) <= version(last):
        number += 1
    with contextlib.closing(admin.watch(NODES, resourceVersion=version(last), timeoutSeconds=10)) as events:
        assert version(next(events)["object"]) > version(last)


# Who may


def test_an_agent_may_list_get_and_watch_nodes_and_patch_one(agent: Client, node_a: Json) -> None:
    assert names(agent.get(NODES)["items"]) == ["a"]
    assert agent.get(f"{NODES}/a")["metadata"]["uid"] == node_a["metadata"]["uid"]
    assert agent.patch(f"{NODES}/a", {"metadata": {"annotations": {"x": "1"}}})["metadata"]["annotations"] == {"x": "1"}
    with contextlib.closing(agent.watch(NODES, timeoutSeconds=5)) as events:
        assert next(events)["type"] == "ADDED"


def test_an_agent_tells_of_its_node_by_events(agent: Client, node_a: Json) -> None:
    about = {"apiVersion": "v1", "kind": "Node", "name": "a", "uid": node_a["metadata"]["uid"]}
    event = {"metadata": {"name": "a.x", "namespace": "default"}, "involvedObject": about, "reason": "NoEndpoint", "count": 1}
    made = agent.post(EVENTS, event)
    assert (made["reason"], made["involvedObject"]["name"], made["metadata"]["namespace"]) == ("NoEndpoint", "a", "default")
    with refused(409, "AlreadyExists", 'events "a.x" already exists'):
        agent.post(EVENTS, event)
    assert agent.get(f"{EVENTS}/a.x")["count"] == 1
    assert agent.patch(f"{EVENTS}/a.x", {"count": 2})["count"] == 2


@pytest.mark.parametrize(
    ("verb", "path", "what", "denied"),
    [
        ("get", "/api/v1/namespaces/kube-system/secrets/x", 'secrets "x"', 'get resource "secrets"'),
        ("get", "/api/v1/namespaces/kube-system/configmaps/x", 'configmaps "x"', 'get resource "configmaps"'),
        ("get", "/api/v1/secrets", "secrets", 'list resource "secrets"'),
        ("get", "/api/v1/configmaps", "configmaps", 'list resource "configmaps"'),
        ("get", "/api/v1/namespaces/kube-system", 'namespaces "kube-system"', 'get resource "namespaces"'),
        ("post", NODES, "nodes", 'create resource "nodes"'),
        ("put", f"{NODES}/a", 'nodes "a"', 'update resource "nodes"'),
        ("delete", f"{NODES}/a", 'nodes "a"', 'delete resource "nodes"'),
        ("patch", f"{NODES}/a/status", 'nodes "a"', 'patch resource "nodes/status"'),
    ],
)
def test_an_agent_may_do_nothing_else(agent: Client, verb: str, path: str, what: str, denied: str) -> None:
    where = 'in the namespace "kube-system"' if "/namespaces/" in path else "at the cluster scope"
    with refused(403, "Forbidden", f'{what} is forbidden: User "{AGENT}" cannot {denied} in API group "" {where}'):
        if verb == "get":
            agent.get(path)
        else:
            getattr(agent, verb)(path, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a"}})


def test_a_watch_needs_the_right_to_watch(agent: Client) -> None:
    message = f'secrets is forbidden: User "{AGENT}" cannot watch resource "secrets" in API group "" at the cluster scope'
    with refused(403, "Forbidden", message):
        next(agent.watch("/api/v1/secrets"))


def test_an_unknown_token_is_unauthorized(server: ApiServer) -> None:
    with refused(401, "Unauthorized", "Unauthorized"):
        server.client("not-a-token").get(NODES)
    with refused(401, "Unauthorized", "Unauthorized"):
        next(server.client("not-a-token").watch(NODES))


def test_without_a_token_one_is_nobody_and_may_nothing(server: ApiServer) -> None:
    message = 'nodes is forbidden: User "system:anonymous" cannot list resource "nodes" in API group "" at the cluster scope'
    with refused(403, "Forbidden", message):
        server.client("").get(NODES)


def test_a_token_dies_with_its_node_even_if_the_node_is_made_anew(server: ApiServer, admin: Client, agent: Client) -> None:
    assert agent.get(NODES)
    admin.delete_node("a")
    anew = admin.create_node("a")

    def dead() -> bool:
        try:
            agent.get(NODES)
        except ApiStatus as status:
            return (status.code, status.reason) == (401, "Unauthorized")
        return False

    eventually(dead, what="401 for the old node's token", seconds=TOKEN_CACHE_SECONDS)
    assert server.client(admin.token(anew)).get(NODES)


def test_no_token_is_made_for_another_uid(admin: Client, node_a: Json) -> None:
    why = f"the UID in the bound object reference ({OTHER_UID}) does not match the UID in record."
    again = "The object might have been deleted and then recreated"
    with refused(409, "Conflict", f'Operation cannot be fulfilled on Node "a": {why} {again}'):
        admin.token({"metadata": {"name": node_a["metadata"]["name"], "uid": OTHER_UID}})


def test_a_right_that_the_role_loses_is_lost(admin: Client, agent: Client) -> None:
    role = "/apis/rbac.authorization.k8s.io/v1/clusterroles/wigglenet-operator"
    rules = admin.get(role)["rules"]
    try:
        admin.patch(role, {"rules": [{**rules[0], "verbs": ["get", "list", "watch"]}]})

        def denied() -> bool:
            try:
                agent.patch(f"{NODES}/a", {})
            except ApiStatus as status:
                return status.code == 403
            return False

        eventually(denied, what="403 for patch")
        assert agent.get(NODES)
    finally:
        admin.patch(role, {"rules": rules})


def test_applying_the_manifest_again_changes_nothing(admin: Client) -> None:
    first, second = ([version(one) for one in admin.apply(RBAC)] for _ in range(2))
    assert first == second


# Transport and life


def test_who_does_not_know_the_authority_does_not_talk_to_the_server(server: ApiServer, network: Place) -> None:
    stranger = trustme.CA().cert_pem.bytes().decode()
    client = Client(server.url, ssl.create_default_context(cadata=stranger), network)
    with pytest.raises(ssl.SSLCertVerificationError):
        client.get(NODES)


def test_the_server_is_not_reachable_from_outside_of_its_place(server: ApiServer, place: Place) -> None:
    client = Client(server.url, ssl.create_default_context(cadata=server.ca_pem), place, seconds=1)
    with pytest.raises(OSError, match=r"unreachable|timed out"):
        client.get(NODES)


def test_objects_tokens_and_clients_outlive_a_restart(server: ApiServer, agent: Client, node_a: Json) -> None:
    assert agent.get(NODES)
    server.stop()
    server.stop()
    with pytest.raises(ConnectionRefusedError):
        agent.get(NODES)
    server.start()
    server.start()
    assert agent.get(f"{NODES}/a")["metadata"]["uid"] == node_a["metadata"]["uid"]


def test_a_stop_ends_a_watch(server: ApiServer, admin: Client, node_a: Json) -> None:
    watch = admin.watch(NODES, resourceVersion=version(node_a))
    stopping = threading.Timer(0.3, server.stop)
    stopping.start()
    try:
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            assert list(watch) == []
    finally:
        stopping.join()
        server.start()


def test_many_threads_share_a_client(admin: Client) -> None:
    threads = [threading.Thread(target=admin.create_node, args=(f"n{number}",), daemon=True) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(admin.get(NODES)["items"]) == 16


# What only the embedded one can do


@pytest.fixture
def small(place: Place) -> Iterator[EmbeddedServer]:
    """An embedded server of a test's own, with Node a."""
    place.batch(f"addr add {ADDRESS}/32 dev lo")
    server = EmbeddedServer(place, ADDRESS)
    server.start()
    try:
        server.admin.apply(RBAC)
        server.admin.create_node("a")
        yield server
    finally:
        server.stop()


@pytest.fixture
def victim(small: EmbeddedServer) -> Client:
    """What runs on its node a."""
    return small.client(small.admin.token(small.admin.get(f"{NODES}/a")))


def test_the_embedded_server_counts_requests_by_node(small: EmbeddedServer, victim: Client) -> None:
    before = small.requests
    victim.patch(f"{NODES}/a", {})
    victim.get(NODES)
    assert small.requests - before == {Request("patch", "nodes", AGENT, "a"): 1, Request("list", "nodes", AGENT, "a"): 1}


@pytest.mark.parametrize("status", [401, 403, 410, 429, 500, 503])
def test_a_refusal_is_for_agents_only_and_for_as_long_as_the_fault_is(
    small: EmbeddedServer, victim: Client, status: int
) -> None:
    with small.misbehaving(api_faults.answers(HTTPStatus(status))):
        with pytest.raises(ApiStatus) as listing:
            victim.get(NODES)
        with pytest.raises(ApiStatus) as watching:
            next(victim.watch(NODES))
        assert (listing.value.code, watching.value.code) == (status, status)
        assert victim.get(f"{NODES}/a")
        assert small.admin.get(NODES)
    assert victim.get(NODES)


def test_a_fault_cuts_the_watches_of_before(small: EmbeddedServer, victim: Client) -> None:
    watch = victim.watch(NODES)
    assert next(watch)["type"] == "ADDED"
    with small.misbehaving(api_faults.watches_end_at_once()):
        with contextlib.suppress(ConnectionError, ssl.SSLError, IncompleteRead):
            assert list(watch) == []
        assert list(victim.watch(NODES)) == []


def test_a_watch_that_begins_with_an_error_ends_with_it(small: EmbeddedServer, victim: Client) -> None:
    with small.misbehaving(api_faults.watch_error(HTTPStatus.GATEWAY_TIMEOUT)):
        (event,) = victim.watch(NODES)
    assert (event["type"], event["object"]["code"], event["object"]["reason"]) == ("ERROR", 504, "Timeout")


def test_a_hanging_request_is_counted_and_never_answered(small: EmbeddedServer, place: Place) -> None:
    token = small.admin.token(small.admin.get(f"{NODES}/a"))
    impatient = Client(small.url, ssl.create_default_context(cadata=small.ca_pem), place, token=token, seconds=0.3)
    with contextlib.closing(impatient):
        with small.misbehaving(api_faults.hangs("list")), pytest.raises(TimeoutError):
            impatient.get(NODES)
        assert small.requests[Request("list", "nodes", AGENT, "a")] == 1
        assert impatient.get(NODES)


def test_a_list_whose_continuation_expires_has_one_page(small: EmbeddedServer, victim: Client) -> None:
    small.admin.create_node("b")
    with small.misbehaving(api_faults.expired_continue(page_size=1)):
        page = victim.get(NODES, limit=500)
        assert names(page["items"]) == ["a"]
        with pytest.raises(ApiStatus) as error:
            victim.get(NODES, limit=500, **{"continue": page["metadata"]["continue"]})
    assert (error.value.code, error.value.reason) == (410, "Expired")


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (api_faults.silent_watch(bookmarks=False), set()),
        (api_faults.silent_watch(bookmarks=True), {"BOOKMARK"}),
        (api_faults.loses_deletions(), {"ADDED", "BOOKMARK"}),
    ],
)
def test_a_watch_withholds_what_the_fault_says(
    small: EmbeddedServer, victim: Client, fault: Misbehaviour, told: set[str]
) -> None:
    start = version(small.admin.get(NODES))

    def change() -> None:
        small.admin.create_node("b")
        small.admin.delete_node("b")

    later = threading.Timer(0.3, change)
    later.start()
    with small.misbehaving(fault):
        events = list(victim.watch(NODES, resourceVersion=start, allowWatchBookmarks=True, timeoutSeconds=2))
    later.join()
    assert {event["type"] for event in events} == told


def test_who_knows_the_former_authority_only_does_not_talk_to_the_server(small: EmbeddedServer, place: Place) -> None:
    former = small.ca_pem
    small.change_certificate()
    assert small.ca_pem != former
    assert small.admin.get(NODES)
    with pytest.raises(ssl.SSLCertVerificationError):
        Client(small.url, ssl.create_default_context(cadata=former), place).get(NODES)


def test_a_token_that_expired_is_unauthorized_and_counted_as_nobodys(small: EmbeddedServer, victim: Client) -> None:
    small.expire_tokens()
    with refused(401, "Unauthorized", "Unauthorized"):
        victim.get(NODES)
    assert small.requests[Request("list", "nodes", "", "")] == 1
    assert small.client(small.admin.token(small.admin.get(f"{NODES}/a"))).get(NODES)
