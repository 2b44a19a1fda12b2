"""The three things that can happen to a Node.  They record, nothing else: what follows is decided in `plan`.

Low-level event handlers, because those never write to the objects that they watch: with N agents on N Nodes a handler that
leaves a mark on each would write N² times.  They must return None, for Kopf writes what they return into the status.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import kopf

from wigglenet_operator.kube.event_filter import NodeReader

NODES = ("", "v1", "nodes")


class Recorder(NodeReader, Protocol):
    """Where the facts go."""

    def began(self) -> None:
        """A watch begins anew: of what vanished meanwhile nobody will tell. Called by the supervisor."""

    def seen(self, body: Mapping[str, Any]) -> None:
        """A Node is as given. Called in Kopf's thread, as is `gone`."""

    def gone(self, body: Mapping[str, Any]) -> None:
        """This Node, by its UID, is no more."""


def register(registry: kopf.OperatorRegistry, recorder: Recorder) -> None:
    """Add the handlers to an operator's registry."""

    @kopf.on.event(*NODES, registry=registry, when=_appears)
    async def node_appeared(body: kopf.Body, **_: object) -> None:
        recorder.seen(body)

    @kopf.on.event(*NODES, registry=registry, when=_changes)
    async def node_changed(body: kopf.Body, **_: object) -> None:
        recorder.seen(body)

    @kopf.on.event(*NODES, registry=registry, when=_goes)
    async def node_gone(body: kopf.Body, **_: object) -> None:
        recorder.gone(body)


def _appears(type: str | None, **_: object) -> bool:  # noqa: A002 - Kopf's name
    return type in {None, "ADDED"}  # None: it is in a listing


def _changes(type: str | None, **_: object) -> bool:  # noqa: A002 - Kopf's name
    return type == "MODIFIED"


def _goes(type: str | None, **_: object) -> bool:  # noqa: A002 - Kopf's name
    return type == "DELETED"
