"""What does an API server answer?  A small synchronous client for the lab and its tests, standard library only.

Its sockets are made inside of a place, so it reaches a server that only that place's network knows.  Not the agent's
client, on purpose: the judge shares no code with the judged.  It knows no kind of object but by the server's discovery.
"""

import contextlib
import http.client
import json
import socket
import ssl
import threading
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import yaml

from tests.lab.namespaces import Place

Json = dict[str, Any]
JSON = "application/json"
METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
NAMESPACE = "kube-system"
SERVICE_ACCOUNT = "wigglenet-operator"
TOKEN_SECONDS = 24 * 3600  # no lab lives longer


class ApiStatus(Exception):  # noqa: N818 - Kubernetes calls it Status
    """The server refused: HTTP status, `reason` as of the API conventions, its message, and the whole body."""

    def __init__(self, body: Json) -> None:
        """Take a body of kind Status."""
        self.code = int(body.get("code", 0))
        self.reason = str(body.get("reason", ""))
        self.message = str(body.get("message", ""))
        self.body = body
        super().__init__(f"{self.code} {self.reason}: {self.message}")


class _Connection(http.client.HTTPSConnection):
    """HTTPS over a socket of `place`."""

    def __init__(self, url: str, context: ssl.SSLContext, place: Place, seconds: float) -> None:
        where = urlsplit(url)
        super().__init__(where.hostname or "", where.port, timeout=seconds)
        self._tls = context
        self._place = place

    def connect(self) -> None:
        """Connect; whichever thread calls, only the socket's birth happens inside of the place."""
        with self._place.network():
            plain = socket.socket(socket.AF_INET6 if ":" in self.host else socket.AF_INET)
        try:
            plain.settimeout(self.timeout)
            plain.connect((self.host, self.port))
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sock = self._tls.wrap_socket(plain, server_hostname=self.host)
        except BaseException:
            plain.close()
            raise


class Client:
    """One user of an API server; thread-safe, keeps connections alive between requests and between servers' restarts."""

    def __init__(self, url: str, tls: ssl.SSLContext, place: Place, *, token: str | None = None, seconds: float = 30.0) -> None:
        """Speak as the bearer of `token` (or of the client certificate in `tls`); give up a silent server after `seconds`."""
        self.url = url
        self._tls = tls
        self._place = place
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._seconds = seconds
        self._idle: list[_Connection] = []
        self._lock = threading.Lock()

    def get(self, path: str, *, accept: str = JSON, **params: str | int) -> Json:
        """An object or a list; ApiStatus from 400 on, as with every verb here, and OSError if nobody answers."""
        return self._call("GET", path + _query(params), None, {"Accept": accept})

    def post(self, path: str, body: Json) -> Json:
        """What the server made of a new object."""
        return self._call("POST", path, body)

    def put(self, path: str, body: Json) -> Json:
        """What the server made of a replacement."""
        return self._call("PUT", path, body)

    def patch(self, path: str, body: Json) -> Json:
        """The object after a JSON merge patch (RFC 7396)."""
        return self._call("PATCH", path, body, {"Content-Type": "application/merge-patch+json"})

    def delete(self, path: str, body: Json | None = None) -> Json:
        """The Status or the object that the server tells of a deletion; `body` is a DeleteOptions."""
        return self._call("DELETE", path, body)

    def ready(self) -> bool:
        """Whether /readyz says ok; False too if nobody listens."""
        try:
            return self._exchange("GET", "/readyz", None, {})[0] == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False

    def watch(self, path: str, *, accept: str = JSON, **params: str | int | bool) -> Generator[Json]:
        """Events in order, ERROR and BOOKMARK among them, until the server ends the watch; close() it to end it sooner."""
        asked = _query({"watch": "true", **params})
        with contextlib.closing(_Connection(self.url, self._tls, self._place, self._seconds)) as connection:
            connection.request("GET", path + asked, headers={**self._headers, "Accept": accept})
            with connection.getresponse() as response:
                if response.status >= http.HTTPStatus.BAD_REQUEST:
                    raise ApiStatus(_status(response.status, response.read()))
                while line := response.readline():
                    yield json.loads(line)

    def close(self) -> None:
        """Close the idle connections; the next request opens one anew."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    # The lab plays the cloud and the kubelet.

    def create_node(self, name: str, pod_cidrs: Sequence[str] = (), addresses: Sequence[str] = ()) -> Json:
        """The Node as it is after both steps: its networks by whoever allocates them, its InternalIPs by its kubelet."""
        spec: Json = {"podCIDR": pod_cidrs[0], "podCIDRs": list(pod_cidrs)} if pod_cidrs else {}
        created = self.post("/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": spec})
        return self._address_node(name, addresses) if addresses else created

    def complete_node(self, name: str, pod_cidrs: Sequence[str], addresses: Sequence[str]) -> Json:
        """The same steps for a Node that has neither."""
        self.patch(f"/api/v1/nodes/{name}", {"spec": {"podCIDR": pod_cidrs[0], "podCIDRs": list(pod_cidrs)}})
        return self._address_node(name, addresses)

    def _address_node(self, name: str, addresses: Sequence[str]) -> Json:
        told = [{"type": "InternalIP", "address": one} for one in addresses]
        return self.patch(f"/api/v1/nodes/{name}/status", {"status": {"addresses": told}})

    def delete_node(self, name: str) -> None:
        """The Node is gone, and with it every token that was bound to it."""
        self.delete(f"/api/v1/nodes/{name}")

    def token(self, node: Json) -> str:
        """A token of the agent's ServiceAccount that lives as long as this very Node (name and UID)."""
        bound = {"apiVersion": "v1", "kind": "Node", "name": node["metadata"]["name"], "uid": node["metadata"]["uid"]}
        asked = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"boundObjectRef": bound, "expirationSeconds": TOKEN_SECONDS},
        }
        path = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{SERVICE_ACCOUNT}/token"
        return str(self.post(path, asked)["status"]["token"])

    def apply(self, manifest: Path, *, dry_run: bool = False) -> list[Json]:
        """Create each object of a YAML file, or merge it into the one that is there; the objects, in the file's order.

        A field that the server does not know is refused, as `kubectl apply` does.
        """
        query = "?fieldValidation=Strict" + ("&dryRun=All" if dry_run else "")
        return [self._apply(one, query) for one in yaml.safe_load_all(manifest.read_text()) if one]

    def _apply(self, wanted: Json, query: str) -> Json:
        version, name, namespace = (
            wanted["apiVersion"],
            wanted["metadata"]["name"],
            wanted["metadata"].get("namespace", "default"),
        )
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        resources = self.get(root)["resources"]
        kind = next((one for one in resources if one["kind"] == wanted["kind"] and "/" not in one["name"]), None)
        if kind is None:
            raise LookupError(f"{self.url} serves no {wanted['kind']} in {version}")
        path = f"{root}/namespaces/{namespace}/{kind['name']}" if kind["namespaced"] else f"{root}/{kind['name']}"
        try:
            return self.post(path + query, wanted)
        except ApiStatus as status:
            if status.reason != "AlreadyExists":
                raise
            return self.patch(f"{path}/{name}{query}", wanted)

    def _call(self, verb: str, path: str, body: Json | None, headers: Mapping[str, str] | None = None) -> Json:
        status, content = self._exchange(verb, path, body, headers or {})
        if status >= http.HTTPStatus.BAD_REQUEST:
            raise ApiStatus(_status(status, content))
        answer: Json = json.loads(content)
        return answer

    def _exchange(self, verb: str, path: str, body: Json | None, headers: Mapping[str, str]) -> tuple[int, bytes]:
        content = None if body is None else json.dumps(body).encode()
        sent = {"Content-Type": JSON, **self._headers, **headers}
        while True:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            used = connection is not None
            connection = connection or _Connection(self.url, self._tls, self._place, self._seconds)
            try:
                connection.request(verb, path, body=content, headers=sent)
                with connection.getresponse() as response:
                    status, answer = response.status, response.read()
            except BaseException as error:
                connection.close()
                # An idle connection may have died with a server that was restarted: it carried nothing. Try the next.
                if used and isinstance(error, ConnectionError | ssl.SSLEOFError):
                    continue
                raise
            if connection.sock is not None:  # http.client drops it when the server says so
                with self._lock:
                    self._idle.append(connection)
            return status, answer


def _query(params: Mapping[str, str | int | bool]) -> str:
    if not params:
        return ""
    return "?" + urlencode({name: str(value).lower() if isinstance(value, bool) else value for name, value in params.items()})


def _status(code: int, content: bytes) -> Json:
    """The Status of a refusal; one made up from plain text, as some paths of a real server answer."""
    with contextlib.suppress(json.JSONDecodeError):
        body = json.loads(content)
        if isinstance(body, dict) and body.get("kind") == "Status":
            return body
    return {"kind": "Status", "code": code, "reason": "", "message": content.decode(errors="replace").strip()}
