"""Our own Node's annotations: the only thing that this agent writes to the cluster."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from kubernetes_asyncio.client import ApiClient

from wigglenet_operator.errors import ApiError
from wigglenet_operator.kube.access import ask
from wigglenet_operator.model.changes import Changes
from wigglenet_operator.model.facts import NodeName

MERGE_PATCH = {"Content-Type": "application/merge-patch+json"}
"""RFC 7386: keys that are not named stay as they are."""


class AnnotationTable:
    """Annotations of the own Node."""

    def __init__(
        self,
        api: ApiClient,
        node: NodeName,
        *,
        names: Collection[str],
        published: Callable[[], Mapping[str, str]],
        answered: Callable[[Mapping[str, Any]], None],
    ) -> None:
        """`names` are the table's annotations.

        `published` tells what the cluster has, `answered` is given the Node as the server has it after a write.
        """
        self._api = api
        self._node = node
        self._names = names
        self._published = published
        self._answered = answered

    async def observe(self) -> dict[str, str]:
        """What the cluster has of these; may be empty."""
        return {k: v for k, v in self._published().items() if k in self._names}

    async def apply(self, changes: Changes[str, str]) -> None:
        """Write, and read back."""
        await self.write({**changes.put, **dict.fromkeys(changes.remove)})

    async def write(self, annotations: Mapping[str, str | None]) -> None:
        """Merge these annotations into the own Node, None removes one; ApiError if the server has others afterwards."""
        what = f"annotate node {self._node}"
        body = {"metadata": {"annotations": dict(annotations)}}
        node = await ask(self._api, "PATCH", f"/api/v1/nodes/{self._node}", what=what, headers=MERGE_PATCH, body=body)
        have = (node.get("metadata") or {}).get("annotations") or {}
        if missing := [name for name, value in annotations.items() if have.get(name) != value]:
            raise ApiError(f"{what}: the server did not keep {', '.join(missing)}")
        self._answered(node)
