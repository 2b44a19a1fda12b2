"""What is stored, in which version, and what happened since?  The embedded server's etcd: objects, versions, history.

Knows nothing of HTTP, users or time-outs.  An object in the store is never mutated, only replaced, so snapshots are
references.  Errors are those of `refusals`.  Not thread-safe: it belongs to the server's event loop.
"""

import base64
import binascii
import json
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from http import HTTPStatus
from itertools import takewhile
from typing import NamedTuple

from tests.lab.api.client import Json
from tests.lab.api.refusals import RECREATED, Kind, UnreadableError, bad_request, conflict, invalid, refusal

HISTORY = 100_000  # changes; a lab of 1,000 nodes makes 5,000
SNAPSHOTS = 100  # unfinished listings
TOO_OLD_PAGE = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list without the "
    "continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing "
    "with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the "
    "time the first chunk was returned and now may show up in the list."
)


class Key(NamedTuple):
    """Where an object is; the order of a list.  `namespace` is empty for what is not in one."""

    namespace: str
    name: str


@dataclass(frozen=True)
class Change:
    """One event of a watch: `type` is ADDED, MODIFIED or DELETED, and `version` is the object's then."""

    version: int
    kind: Kind
    type: str
    object: Json

    @cached_property
    def line(self) -> bytes:
        """The event as a watch sends it; encoded once, however many watch."""
        return json.dumps({"type": self.type, "object": self.object}).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class Page:
    """Some of a list as of `version`; `token` asks for the rest and is empty on the last page."""

    objects: list[Json]
    version: int
    token: str
    remaining: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that was stored at a time; what had happened before is not in it."""

    version: int
    objects: Mapping[Kind, Mapping[Key, Json]]
    newest: Mapping[Kind, int]


class Store:
    """Objects of every kind under one version counter."""

    def __init__(self) -> None:
        self.version = 1
        self._objects: dict[Kind, dict[Key, Json]] = {}
        self._history: deque[Change] = deque(maxlen=HISTORY)
        self._forgotten = 0  # the newest version that history does not reach back to
        self._snapshots: OrderedDict[str, tuple[int, list[Json]]] = OrderedDict()
        self._newest: dict[Kind, int] = {}
        self._watchers: set[Callable[[Change], None]] = set()

    def get(self, kind: Kind, key: Key) -> Json:
        """The object; 404 if there is none."""
        found = self._objects.get(kind, {}).get(key)
        if found is None:
            message = f'{kind.qualified} "{key.name}" not found'
            raise refusal(HTTPStatus.NOT_FOUND, "NotFound", message, name=key.name, kind=kind.plural)
        return found

    def all(self, kind: Kind, namespace: str = "") -> list[Json]:
        """The objects (of one namespace), sorted by namespace and name."""
        objects = self._objects.get(kind, {})
        return [objects[key] for key in sorted(objects) if namespace in ("", key.namespace)]

    def page(self, objects: list[Json], limit: int, token: str = "") -> Page:
        """At most `limit` (0: all) of `objects`, or of the listing that `token` continues; 410 if that is forgotten."""
        version, start, snapshot = self.version, 0, ""
        if token:
            snapshot, start = _read_token(token)
            if snapshot not in self._snapshots:
                raise refusal(HTTPStatus.GONE, "Expired", TOO_OLD_PAGE)
            version, objects = self._snapshots[snapshot]
        end = start + limit if limit else len(objects)
        remaining = max(0, len(objects) - end)
        if remaining and not snapshot:
            snapshot = uuid.uuid4().hex
            self._snapshots[snapshot] = (version, objects)
            if len(self._snapshots) > SNAPSHOTS:
                self._snapshots.popitem(last=False)
        return Page(objects[start:end], version, _write_token(snapshot, end) if remaining else "", remaining)

    def create(self, kind: Kind, key: Key, wanted: Json) -> Json:
        """The new object; 409 AlreadyExists."""
        if key in self._objects.get(kind, {}):
            message = f'{kind.qualified} "{key.name}" already exists'
            raise refusal(HTTPStatus.CONFLICT, "AlreadyExists", message, name=key.name, kind=kind.plural)
        born = {"uid": str(uuid.uuid4()), "creationTimestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}
        return self._commit(kind, key, "ADDED", _shaped(kind, key, wanted, born))

    def replace(self, kind: Kind, key: Key, wanted: Json) -> Json:
        """The object with this content; itself if nothing changes; 409 Conflict if `wanted` names another version or UID."""
        found = self.get(kind, key)["metadata"]["uid"]
        if (uid := wanted.get("metadata", {}).get("uid", found)) != found:
            why = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {found}"
            raise conflict(kind.qualified, kind.plural, key.name, why)
        return self._update(kind, key, wanted)

    def patch(self, kind: Kind, key: Key, wanted: Json) -> Json:
        """As replace(), but 422 for what no patch can make of an object: another UID, annotations that are not text."""
        found = self.get(kind, key)["metadata"]["uid"]
        if (uid := wanted["metadata"].get("uid", found)) != found:
            raise invalid(kind, key.name, "metadata.uid", f'Invalid value: "{uid}": field is immutable')
        try:
            return self._update(kind, key, wanted)
        except UnreadableError as error:
            raise invalid(kind, key.name, "patch", f"Invalid value: {error}") from error

    def _update(self, kind: Kind, key: Key, wanted: Json) -> Json:
        old = self.get(kind, key)
        metadata = old["metadata"]
        asked = wanted.get("metadata", {})
        if (asked.get("resourceVersion") or metadata["resourceVersion"]) != metadata["resourceVersion"]:
            changed = "the object has been modified; please apply your changes to the latest version and try again"
            raise conflict(kind.qualified, kind.plural, key.name, changed)
        born = {name: metadata[name] for name in ("uid", "creationTimestamp")}
        new = _shaped(kind, key, wanted, born | {"resourceVersion": metadata["resourceVersion"]})
        return old if new == old else self._commit(kind, key, "MODIFIED", new)

    def delete(self, kind: Kind, key: Key, uid: str = "") -> Json:
        """What was deleted; 409 Conflict if `uid` is another's."""
        old = self.get(kind, key)
        if uid and uid != old["metadata"]["uid"]:
            found = old["metadata"]["uid"]
            why = f"the UID in the precondition ({uid}) does not match the UID in record ({found}). {RECREATED}"
            raise conflict(kind.kind, kind.kind, key.name, why)
        self._commit(kind, key, "DELETED", old)
        return old

    def since(self, kind: Kind, version: int) -> list[Change] | None:
        """Every change of a kind after `version`, in order; None if history does not reach back so far."""
        if version < self._forgotten:
            return None
        newer = takewhile(lambda change: change.version > version, reversed(self._history))
        return [change for change in newer if change.kind == kind][::-1]

    def newest(self, kind: Kind) -> int:
        """The version of a kind's last change; 0 if there was none."""
        return self._newest.get(kind, 0)

    def subscribe(self, told: Callable[[Change], None]) -> Callable[[], None]:
        """Call `told` with every change from now on, until the returned function is called."""
        self._watchers.add(told)
        return lambda: self._watchers.discard(told)

    def forget_history(self) -> None:
        """As after a compaction: older versions can neither be watched from nor listed on."""
        self._history.clear()
        self._snapshots.clear()
        self._forgotten = self.version

    def snapshot(self) -> Snapshot:
        """Objects and versions as they are now."""
        return Snapshot(self.version, {kind: dict(objects) for kind, objects in self._objects.items()}, dict(self._newest))

    def restore(self, snapshot: Snapshot) -> None:
        """Objects and versions as they were then; the next version is one that has been given before, to something else."""
        self.version, self._newest = snapshot.version, dict(snapshot.newest)
        self._objects = {kind: dict(objects) for kind, objects in snapshot.objects.items()}
        self.forget_history()

    def _commit(self, kind: Kind, key: Key, event: str, content: Json) -> Json:
        self.version += 1
        self._newest[kind] = self.version
        new: Json = {**content, "metadata": {**content["metadata"], "resourceVersion": str(self.version)}}
        if event == "DELETED":
            del self._objects[kind][key]
        else:
            self._objects.setdefault(kind, {})[key] = new
        if len(self._history) == HISTORY:
            self._forgotten = self._history[0].version
        change = Change(self.version, kind, event, new)
        self._history.append(change)
        for told in tuple(self._watchers):
            told(change)
        return new


def merged(target: Json, patch: Json) -> Json:
    """RFC 7396 for objects: null deletes, objects merge, everything else replaces; neither argument is touched."""
    result = dict(target)
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, dict):
            inner = result.get(name)
            result[name] = merged(inner if isinstance(inner, dict) else {}, value)
        else:
            result[name] = value
    return result


def _shaped(kind: Kind, key: Key, wanted: Json, owned: Mapping[str, str]) -> Json:
    """`wanted` with the metadata that is the server's to say; UnreadableError if labels or annotations are not text."""
    metadata = {**wanted.get("metadata", {}), "name": key.name, **owned}
    if key.namespace:
        metadata["namespace"] = key.namespace
    for field in ("annotations", "labels"):
        values = metadata.pop(field, None)
        if values and not all(isinstance(value, str) for value in values.values()):
            raise UnreadableError(f"metadata.{field} holds what is not a string")
        if values:
            metadata[field] = values
    return {**wanted, "apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata}


def _write_token(snapshot: str, start: int) -> str:
    return base64.urlsafe_b64encode(f"{snapshot}:{start}".encode()).decode()


def _read_token(token: str) -> tuple[str, int]:
    try:
        snapshot, start = base64.urlsafe_b64decode(token).decode().split(":")
        return snapshot, int(start)
    except (binascii.Error, ValueError) as error:
        raise bad_request(f"invalid continue token: continue key is not valid: {error}") from error
