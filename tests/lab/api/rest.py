"""HTTP in, HTTP out: the embedded server's requests, answered from a `Store` for whom `Access` lets in.

Serves exactly the rows of `KINDS`.  What it does not do it refuses (label selectors, dry runs, JSON patches), so nobody
takes silence for support.  Shapes: the Kubernetes API reference, and a real server beside it in the contract suite.
"""

import contextlib
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import NamedTuple

from aiohttp import web

from tests.lab.api.access import BINDINGS, MASTERS, NODES, ROLES, SERVICE_ACCOUNTS, Access, Asked, User, parse_request
from tests.lab.api.client import ApiStatus, Json
from tests.lab.api.discovery import document
from tests.lab.api.misbehaviour import CORRECT, Misbehaviour
from tests.lab.api.refusals import RECREATED, Kind, UnreadableError, bad_request, conflict, invalid, refusal
from tests.lab.api.store import Key, Store, merged
from tests.lab.api.watching import Selection, Watch

NAMESPACES = Kind("", "v1", "Namespace", "namespaces", has_status=True)
SERVICE_CIDRS = Kind("networking.k8s.io", "v1", "ServiceCIDR", "servicecidrs", has_status=True)
EVENTS = Kind("", "v1", "Event", "events", namespaced=True)
KINDS = (NODES, NAMESPACES, SERVICE_ACCOUNTS, ROLES, BINDINGS, SERVICE_CIDRS, EVENTS)
MERGE_PATCH = "application/merge-patch+json"
WATCH_SECONDS = 1800  # what a real server takes at least if it is not told (--min-request-timeout)
TOKEN_SECONDS = 3600  # the same for a TokenRequest
_UNSUPPORTED = ("labelSelector", "dryRun", "sendInitialEvents")
_NOT_FOUND = "the server could not find the requested resource"


class Request(NamedTuple):
    """What is counted: `user` is the name in RBAC's sense, `node` whose token it was (empty for the admin).

    Both are empty where the token is worth nothing.
    """

    verb: str
    resource: str
    user: str
    node: str


class Rest:
    """The handler of every path; lives in one event loop."""

    def __init__(self, store: Store, access: Access, *, bookmark_seconds: float) -> None:
        self._store = store
        self._access = access
        self._bookmark_seconds = bookmark_seconds
        self.misbehaviour = CORRECT
        """Of all answers but those to administrators; may be set by any thread."""
        self._counted: Counter[Request] = Counter()
        self._counting = threading.Lock()  # the server's thread counts, the tests' threads read

    def counted(self) -> "Counter[Request]":
        """Every request so far, also refused ones and those that were answered wrongly on purpose."""
        with self._counting:
            return Counter(self._counted)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """The answer; never raises for what a client did."""
        try:
            asked = parse_request(request.method, request.path, watch=_flag(request, "watch"))
            user = self._who(request, asked)
            behaviour = CORRECT if MASTERS in user.groups else self.misbehaviour
            if (wrong := await behaviour.answer(request, asked)) is not None:
                return wrong
            self._access.check(user, asked)
            if asked.resource:
                return await self._resource(request, asked, behaviour)
            if asked.path in ("/readyz", "/livez", "/healthz"):
                return web.Response(text="ok")
            return web.json_response(document(asked.path, KINDS))
        except UnreadableError as error:
            status = bad_request(f"the object provided is unrecognized: {error}")
            return web.json_response(status.body, status=status.code)
        except ApiStatus as status:
            return web.json_response(status.body, status=status.code)

    def _who(self, request: web.Request, asked: Asked) -> User:
        """Who asks, now counted; 401 for a token that is worth nothing."""
        user = User("")
        try:
            user = self._access.user(request.headers.get("Authorization", ""))
        finally:
            with self._counting:
                self._counted[Request(asked.verb, asked.full_resource or asked.path, user.name, user.node)] += 1
        return user

    async def _resource(self, request: web.Request, asked: Asked, behaviour: Misbehaviour) -> web.StreamResponse:
        kind = _kind(asked)
        for parameter in _UNSUPPORTED:
            if parameter in request.query:
                raise bad_request(f"{parameter} is not supported by the lab's embedded server")
        key = Key(asked.namespace if kind.namespaced else "", asked.name)
        selection = _selection(request, kind, key)
        match asked.verb:
            case "watch":
                return await self._watch(request, selection, behaviour)
            case "list":
                return web.json_response(self._list(request, selection, behaviour))
            case "get":
                return web.json_response(selection.view(self._store.get(kind, key)))
            case "create":
                return web.json_response(self._create(kind, key, asked, await _body(request)), status=HTTPStatus.CREATED)
            case _:
                return web.json_response(self._write(request, kind, key, asked, await _body(request)))

    def _write(self, request: web.Request, kind: Kind, key: Key, asked: Asked, body: Json) -> Json:
        match asked.verb:
            case "delete":
                return self._delete(kind, key, body)
            case "update":
                return self._store.replace(kind, key, self._separated(kind, key, asked, body))
            case "patch" if request.content_type == MERGE_PATCH:
                body = merged(self._store.get(kind, key), body)
                return self._store.patch(kind, key, self._separated(kind, key, asked, body))
            case "patch":
                message = f"the body of the request was in an unknown format - accepted media types include: {MERGE_PATCH}"
                raise refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", message)
            case _:
                message = "the server does not allow this method on the requested resource"
                raise refusal(HTTPStatus.METHOD_NOT_ALLOWED, "MethodNotAllowed", message)

    def _list(self, request: web.Request, selection: Selection, behaviour: Misbehaviour) -> Json:
        objects = [one for one in self._store.all(selection.kind) if selection.has(one)]
        limit = behaviour.page_size or _number(request, "limit")
        page = self._store.page(objects, limit, request.query.get("continue", ""))
        metadata: Json = {"resourceVersion": str(page.version)}
        if page.token:
            metadata |= {"continue": page.token, "remainingItemCount": page.remaining}
        if selection.metadata_only:
            kind, version, items = "PartialObjectMetadataList", "meta.k8s.io/v1", [selection.view(one) for one in page.objects]
        else:
            kind, version = f"{selection.kind.kind}List", selection.kind.api_version
            # Items of a list say neither apiVersion nor kind.
            items = [{name: one[name] for name in one if name not in ("apiVersion", "kind")} for one in page.objects]
        return {"kind": kind, "apiVersion": version, "metadata": metadata, "items": items}

    async def _watch(self, request: web.Request, selection: Selection, behaviour: Misbehaviour) -> web.StreamResponse:
        start = _number(request, "resourceVersion")
        seconds = _number(request, "timeoutSeconds") or WATCH_SECONDS
        every = self._bookmark_seconds if _flag(request, "allowWatchBookmarks") else None
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):  # whoever watched went away
            watch = Watch(
                store=self._store,
                selection=selection,
                write=response.write,
                bookmark_seconds=every,
                withheld=behaviour.withheld,
            )
            await watch.run(start=start, seconds=seconds)
        return response

    def _create(self, kind: Kind, key: Key, asked: Asked, body: Json) -> Json:
        if asked.subresource == "token":
            return self._token(key, body)
        name = body.get("metadata", {}).get("name", "")
        if not name:
            raise invalid(kind, "", "metadata.name", "Required value: name or generateName is required")
        if kind.namespaced:
            self._store.get(NAMESPACES, Key("", key.namespace))
        return self._store.create(kind, Key(key.namespace, name), body)

    def _separated(self, kind: Kind, key: Key, asked: Asked, body: Json) -> Json:
        """The new content without what this path may not change: the spec on /status, the status elsewhere."""
        named = body.get("metadata", {}).get("name", key.name)
        if named != key.name:
            raise bad_request(f"the name of the object ({named}) does not match the name on the URL ({key.name})")
        if kind.has_status:
            kept = "spec" if asked.subresource == "status" else "status"
            old = self._store.get(kind, key)
            body = {name: value for name, value in body.items() if name != kept} | ({kept: old[kept]} if kept in old else {})
        return body

    def _delete(self, kind: Kind, key: Key, options: Json) -> Json:
        deleted = self._store.delete(kind, key, options.get("preconditions", {}).get("uid", ""))
        details = {"name": key.name, "kind": kind.plural, "uid": deleted["metadata"]["uid"]}
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}

    def _token(self, account: Key, body: Json) -> Json:
        self._store.get(SERVICE_ACCOUNTS, account)
        spec = body.get("spec", {})
        bound = spec.get("boundObjectRef", {})
        if bound.get("kind") != "Node":
            raise bad_request("the lab's embedded server binds tokens to Nodes only")
        node = self._store.get(NODES, Key("", bound.get("name", "")))
        if (found := node["metadata"]["uid"]) != (uid := bound.get("uid", found)):
            why = f"the UID in the bound object reference ({uid}) does not match the UID in record. {RECREATED}"
            raise conflict("Node", "Node", bound["name"], why)
        seconds = int(spec.get("expirationSeconds", TOKEN_SECONDS))
        end = (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
        status = {"token": self._access.issue(account, node, seconds), "expirationTimestamp": end}
        return {
            "kind": "TokenRequest",
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": {},
            "spec": spec,
            "status": status,
        }


def _kind(asked: Asked) -> Kind:
    """The row that serves a request; 404 if none does."""
    for kind in KINDS:
        if (kind.group, kind.version, kind.plural) == (asked.group, asked.version, asked.resource):
            allowed = ["", "status"] if kind.has_status else ["", "token"] if kind == SERVICE_ACCOUNTS else [""]
            if asked.subresource in allowed:
                return kind
    raise refusal(HTTPStatus.NOT_FOUND, "NotFound", _NOT_FOUND)


def _selection(request: web.Request, kind: Kind, key: Key) -> Selection:
    field, _, name = request.query.get("fieldSelector", "").replace("==", "=").partition("=")
    if field not in ("", "metadata.name"):
        raise bad_request(f"fieldSelector {field} is not supported by the lab's embedded server")
    return Selection(kind, key.namespace, name, metadata_only="as=PartialObjectMetadata" in request.headers.get("Accept", ""))


async def _body(request: web.Request) -> Json:
    """The body; empty if there is none, 400 if it is no JSON object."""
    if not request.can_read_body:
        return {}
    try:
        body = await request.json()
    except ValueError as error:
        raise bad_request(f"the object provided is unrecognized: {error}") from error
    if not isinstance(body, dict):
        raise bad_request("the object provided is unrecognized: no object")
    return body


def _flag(request: web.Request, name: str) -> bool:
    return request.query.get(name) in ("true", "1")


def _number(request: web.Request, name: str) -> int:
    text = request.query.get(name) or "0"
    if not text.isdecimal():
        raise bad_request(f"invalid value for {name}: {text}")
    return int(text)
