"""Our own Node's annotations, its condition, and Events on it: the only things that this agent writes to the cluster."""

import asyncio
import hashlib
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from wigglenet_operator.errors import ApiError, PendingError
from wigglenet_operator.kube.access import ask
from wigglenet_operator.kube.decode import NETWORK_UNAVAILABLE
from wigglenet_operator.kube.library import ApiClient
from wigglenet_operator.model.changes import Changes
from wigglenet_operator.model.facts import NodeName, NodeUID
from wigglenet_operator.model.report import Problem
from wigglenet_operator.model.timing import PRODUCTION, Timing

MERGE_PATCH = {"Content-Type": "application/merge-patch+json"}
"""RFC 7386: keys that are not named stay as they are."""
STRATEGIC_PATCH = {"Content-Type": "application/strategic-merge-patch+json"}
JSON = {"Content-Type": "application/json"}
COMPONENT = "wigglenet-operator"
REASON = "WigglenetOperator"
"""Of the condition: by it `cleanup` knows it."""


EVENTS = "/api/v1/namespaces/default/events"
"""Events on what has no namespace, such as a Node, are here (client-go, tools/record)."""
MESSAGE = 1024
"""Characters of an Event's message (Kubernetes API, events.k8s.io/v1)."""
NAME = 253
"""Characters of its name, as of any object's; a Node's may have as many."""


class AnnotationTable:
    """Annotations of the own Node."""

    def __init__(  # noqa: PLR0913 - where, what, and whom to tell
        self,
        api: ApiClient,
        node: NodeName,
        *,
        names: Collection[str],
        published: Callable[[], Mapping[str, str]],
        answered: Callable[[Mapping[str, Any]], None],
        ended: Callable[[], None] = lambda: None,
        timing: Timing = PRODUCTION,
    ) -> None:
        """`names` are the table's annotations.

        `published` tells what the cluster has, `answered` is given the Node as the server has it after a write.  `ended` is
        called when a write has ended that `apply` did not wait for.
        """
        self._api = api
        self._node = node
        self._names = names
        self._published = published
        self._answered, self._ended, self._timing = answered, ended, timing
        self._going: asyncio.Task[None] | None = None

    async def observe(self) -> dict[str, str]:
        """What the cluster has of these; may be empty."""
        return {k: v for k, v in self._published().items() if k in self._names}

    async def apply(self, changes: Changes[str, str]) -> None:
        """Write, and read back; PendingError if the server takes its time: then the write goes on, one at a time."""
        going, self._going = self._going, None
        if going is not None and going.done():  # too late for a pass before this one
            going.result()
            going = None
        if going is None:
            going = asyncio.create_task(self.write({**changes.put, **dict.fromkeys(changes.remove)}))
            await asyncio.wait([going], timeout=self._timing.publish_grace)
            if not going.done():
                going.add_done_callback(self._end)
        if not going.done():
            self._going = going
            raise PendingError
        going.result()

    def _end(self, going: asyncio.Task[None]) -> None:
        """Ask for a pass, which gets the result; the agent may end before it does, and asyncio then complains of an error."""
        if not going.cancelled():
            going.exception()
        self._ended()

    async def write(self, annotations: Mapping[str, str | None]) -> None:
        """Merge these annotations into the own Node, None removes one; ApiError if the server has others afterwards."""
        what = f"annotate node {self._node}"
        body = {"metadata": {"annotations": dict(annotations)}}
        node = await ask(self._api, "PATCH", f"/api/v1/nodes/{self._node}", what=what, headers=MERGE_PATCH, body=body)
        have = (node.get("metadata") or {}).get("annotations") or {}
        if missing := [name for name, value in annotations.items() if have.get(name) != value]:
            raise ApiError(f"{what}: the server did not keep {', '.join(missing)}")
        self._answered(node)


async def publish_condition(api: ApiClient, node: NodeName, status: str, message: str, *, moved: bool) -> dict[str, Any]:
    """Set the own Node's condition NetworkUnavailable to `status`, "True" or "False"; the Node as the server has it then.

    `moved` says whether that is another status than before, or the first: else the time of its transition stays.  ApiError
    if it cannot be set.  A strategic merge patch, for conditions are a list by type to which others write as well.
    """
    now = _now()
    condition = {"type": NETWORK_UNAVAILABLE, "status": status, "reason": REASON, "message": message, "lastHeartbeatTime": now}
    return await _patch_conditions(api, node, {**condition, "lastTransitionTime": now} if moved else condition)


async def remove_condition(api: ApiClient, node: NodeName) -> None:
    """Take the own Node's condition NetworkUnavailable away; one that is not there is fine."""
    await _patch_conditions(api, node, {"type": NETWORK_UNAVAILABLE, "$patch": "delete"})


async def _patch_conditions(api: ApiClient, node: NodeName, condition: Mapping[str, str]) -> dict[str, Any]:
    path, what = f"/api/v1/nodes/{node}/status", f"set {NETWORK_UNAVAILABLE} of node {node}"
    body = {"status": {"conditions": [condition]}}
    return await ask(api, "PATCH", path, what=what, headers=STRATEGIC_PATCH, body=body)


def event_name(node: NodeName, problem: Problem, message: str) -> str:
    """By content, so that a restart makes no second Event."""
    digest = hashlib.sha256(f"{problem.code} {message}".encode()).hexdigest()[:16]
    return f"{node[: NAME - len(digest) - 1].rstrip('.-')}.{digest}"


async def publish_event(api: ApiClient, node: NodeName, uid: NodeUID, problem: Problem, *, came: bool) -> None:
    """Tell that a problem has come, or has gone; one that was told before is counted.  ApiError if it cannot be.

    Source of the fields: Kubernetes API, core/v1 Event.
    """
    message = f"{'' if came else 'solved: '}{problem}"[:MESSAGE]
    name = event_name(node, problem, message)
    what, now = f"write an Event on node {node}", _now()
    involved = {"apiVersion": "v1", "kind": "Node", "name": node, "uid": uid}
    body = {
        "metadata": {"name": name, "namespace": "default"},
        "involvedObject": involved,
        "type": "Warning" if came else "Normal",
        "reason": problem.code,
        "message": message,
        "source": {"component": COMPONENT, "host": node},
        "reportingComponent": COMPONENT,
        "reportingInstance": node,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
    try:
        await ask(api, "POST", EVENTS, what=what, headers=JSON, body=body)
    except ApiError as error:
        if error.status != HTTPStatus.CONFLICT:
            raise
        path = f"{EVENTS}/{name}"
        before = await ask(api, "GET", path, what=what, headers={})
        again = {"lastTimestamp": now, "count": (before.get("count") or 1) + 1, "involvedObject": involved}
        await ask(api, "PATCH", path, what=what, headers=MERGE_PATCH, body=again)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
