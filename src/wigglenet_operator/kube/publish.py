"""Our own Node's annotations: the only thing that this agent writes to the cluster."""

from collections.abc import Callable, Mapping
from typing import Any

from kubernetes_asyncio.client import ApiClient

from wigglenet_operator.errors import ApiError
from wigglenet_operator.kube.access import ask
from wigglenet_operator.model.changes import Changes
from wigglenet_operator.model.facts import NodeName
from wigglenet_operator.plan.desired import IDENTITY

MERGE_PATCH = {"Content-Type": "application/merge-patch+json"}
"""RFC 7386: keys that are not named stay as they are."""


class AnnotationTable:
    """The identity annotations of the own Node; which ones are ours is what the plan names."""

    def __init__(
        self,
        api: ApiClient,
        node: NodeName,
        *,
        published: Callable[[], Mapping[str, str]],
        answered: Callable[[Mapping[str, Any]], None],
    ) -> None:
        """`published` tells what the cluster has, `answered` is given the Node as the server has it after a write."""
        self._api = api
        self._node = node
        self._published = published
        self._answered = answered

    async def observe(self) -> dict[str, str]:
        """What the cluster has of our identity; may be empty."""
        return {k: v for k, v in self._published().items() if k in IDENTITY}

    async def apply(self, changes: Changes[str, str]) -> None:
        """Write, and read back; a plan always names the whole identity, so nothing is ever removed."""
        await self.write(changes.put)

    async def write(self, annotations: Mapping[str, str]) -> None:
        """Merge these annotations into the own Node; ApiError if the server does not have them afterwards."""
        what = f"annotate node {self._node}"
        body = {"metadata": {"annotations": dict(annotations)}}
        node = await ask(self._api, "PATCH", f"/api/v1/nodes/{self._node}", what=what, headers=MERGE_PATCH, body=body)
        have = (node.get("metadata") or {}).get("annotations") or {}
        if missing := [name for name, value in annotations.items() if have.get(name) != value]:
            raise ApiError(f"{what}: the server did not keep {', '.join(missing)}")
        self._answered(node)
