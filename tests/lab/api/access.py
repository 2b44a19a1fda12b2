"""Who asks, for what, and may they?  The embedded server's authentication and RBAC.

Evaluates the ClusterRoles and ClusterRoleBindings that are stored, so a role that lacks a verb fails here as in a cluster.
Reimplements, as far as the project's manifests go: RequestInfo (apiserver/pkg/endpoints/request/requestinfo.go), node-bound
ServiceAccount tokens (KEP-4193), the RBAC authorizer, and the bootstrap roles for discovery and health.
"""

import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus

from tests.lab.api.client import ApiStatus, Json
from tests.lab.api.refusals import Kind, refusal
from tests.lab.api.store import Key, Store

NODES = Kind("", "v1", "Node", "nodes", has_status=True)
SERVICE_ACCOUNTS = Kind("", "v1", "ServiceAccount", "serviceaccounts", namespaced=True)
ROLES = Kind("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles")
BINDINGS = Kind("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding", "clusterrolebindings")

ANONYMOUS, MASTERS = "system:anonymous", "system:masters"
_HEALTH = ("/healthz", "/livez", "/readyz", "/version")  # ClusterRole system:public-info-viewer: everybody
_DISCOVERY = ("/api", "/apis", "/openapi")  # ClusterRole system:discovery: everybody with a name
_VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


@dataclass(frozen=True, slots=True)
class User:
    """A name and its groups; `node` is where a node-bound token says that its bearer runs."""

    name: str
    groups: frozenset[str] = frozenset()
    node: str = ""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for; `resource` is empty for paths that are none (/version)."""

    path: str
    verb: str
    group: str = ""
    version: str = ""
    resource: str = ""
    namespace: str = ""
    name: str = ""
    subresource: str = ""

    @property
    def full_resource(self) -> str:
        """`nodes` or `nodes/status`, as roles write it."""
        return f"{self.resource}/{self.subresource}" if self.subresource else self.resource


def parse_request(method: str, path: str, *, watch: bool) -> Asked:
    """What a method and a path ask for; total: what looks like no resource is a path."""
    verb = _VERBS.get(method, method.lower())
    match path.strip("/").split("/"):
        case ["api", version, *rest] if rest:
            group = ""
        case ["apis", group, version, *rest] if rest:
            pass
        case _:
            return Asked(path, verb)
    namespace = rest[1] if rest[0] == "namespaces" and len(rest) > 1 else ""
    if namespace and len(rest) > 2 and rest[2] not in ("status", "finalize"):
        rest = rest[2:]
    resource, name, subresource = rest[0], *[*rest[1:], "", ""][:2]
    if not name:
        verb = {"get": "watch" if watch else "list", "delete": "deletecollection"}.get(verb, verb)
    return Asked(path, verb, group, version, resource, namespace, name, subresource)


class Access:
    """The tokens that were issued, and what their bearers may do."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.admin_token = secrets.token_urlsafe(32)
        self._bearers: dict[str, tuple[User, str, float]] = {}  # token: user, UID of the Node, end by time.time()

    def issue(self, account: Key, node: Json, seconds: int) -> str:
        """A token for a ServiceAccount that dies with this very Node."""
        token = secrets.token_urlsafe(32)
        groups = frozenset({"system:serviceaccounts", f"system:serviceaccounts:{account.namespace}", "system:authenticated"})
        metadata = node["metadata"]
        user = User(f"system:serviceaccount:{account.namespace}:{account.name}", groups, node=metadata["name"])
        self._bearers[token] = (user, metadata["uid"], time.time() + seconds)
        return token

    def expire(self) -> None:
        """Make every token that was issued so far worth nothing, as time does; the admin's stays."""
        self._bearers.clear()

    def user(self, authorization: str) -> User:
        """Whoever sent this Authorization header; 401 for a token that is unknown, expired, or of a Node that is gone."""
        if not authorization:
            return User(ANONYMOUS, frozenset({"system:unauthenticated"}))
        token = authorization.removeprefix("Bearer ")
        if secrets.compare_digest(token.encode(), self.admin_token.encode()):
            return User("admin", frozenset({MASTERS, "system:authenticated"}))
        user, uid, end = self._bearers.get(token, (User(""), "", 0.0))
        if end < time.time() or not self._lives(user.node, uid):
            raise refusal(HTTPStatus.UNAUTHORIZED, "Unauthorized", "Unauthorized")
        return user

    def check(self, user: User, asked: Asked) -> None:
        """Nothing, or 403 in the words of a real server."""
        if MASTERS in user.groups:
            return
        if asked.resource:
            if not any(_permits(rule, asked) for rule in self._rules(user)):
                raise _forbidden(user, asked)
            return
        public = _HEALTH if user.name == ANONYMOUS else _HEALTH + _DISCOVERY
        if asked.verb != "get" or not asked.path.startswith(public):
            message = f'forbidden: User "{user.name}" cannot {asked.verb} path "{asked.path}"'
            raise refusal(HTTPStatus.FORBIDDEN, "Forbidden", message)

    def _lives(self, node: str, uid: str) -> bool:
        try:
            return bool(self._store.get(NODES, Key("", node))["metadata"]["uid"] == uid)
        except ApiStatus:
            return False

    def _rules(self, user: User) -> Iterator[Json]:
        for binding in self._store.all(BINDINGS):
            if any(_is(subject, user) for subject in binding.get("subjects", ())):
                for role in self._store.all(ROLES):
                    if role["metadata"]["name"] == binding["roleRef"]["name"]:
                        yield from role.get("rules", ())


def _is(subject: Json, user: User) -> bool:
    match subject["kind"]:
        case "ServiceAccount":
            return bool(user.name == f"system:serviceaccount:{subject['namespace']}:{subject['name']}")
        case "Group":
            return subject["name"] in user.groups
        case _:
            return bool(subject["name"] == user.name)


def _permits(rule: Json, asked: Asked) -> bool:
    names = rule.get("resourceNames")
    return (
        _has(rule.get("verbs", ()), asked.verb)
        and _has(rule.get("apiGroups", ()), asked.group)
        and _has(rule.get("resources", ()), asked.full_resource)
        and (not names or asked.name in names)
    )


def _has(allowed: list[str], wanted: str) -> bool:
    return "*" in allowed or wanted in allowed


def _forbidden(user: User, asked: Asked) -> ApiStatus:
    qualified = f"{asked.resource}.{asked.group}" if asked.group else asked.resource
    what = f'{qualified} "{asked.name}"' if asked.name else qualified
    where = f'in the namespace "{asked.namespace}"' if asked.namespace else "at the cluster scope"
    why = f'User "{user.name}" cannot {asked.verb} resource "{asked.full_resource}" in API group "{asked.group}" {where}'
    named = {"name": asked.name} if asked.name else {}
    return refusal(HTTPStatus.FORBIDDEN, "Forbidden", f"{what} is forbidden: {why}", **named, kind=asked.resource)
