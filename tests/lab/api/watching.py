"""Which bytes does a watch send, and when?  Views of objects, and the stream of events from a `Store`.

Source: https://kubernetes.io/docs/reference/using-api/api-concepts/, sections on watches, bookmarks and metadata-only.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus

from tests.lab.api.client import Json
from tests.lab.api.refusals import Kind, refusal
from tests.lab.api.store import Change, Store

Write = Callable[[bytes], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Selection:
    """Objects of one kind that somebody asked for, and how to show them; empty `namespace` and `name` mean any."""

    kind: Kind
    namespace: str = ""
    name: str = ""
    metadata_only: bool = False

    def has(self, item: Json) -> bool:
        """Whether an object of this kind is one of them."""
        metadata = item["metadata"]
        return self.name in ("", metadata["name"]) and self.namespace in ("", metadata.get("namespace", ""))

    def view(self, item: Json) -> Json:
        """The object, or its PartialObjectMetadata."""
        if not self.metadata_only:
            return item
        return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": item["metadata"]}

    def event(self, change: Change) -> bytes:
        """The line of a change."""
        return line(change.type, self.view(change.object)) if self.metadata_only else change.line

    def bookmark(self, version: int) -> bytes:
        """The line that says: you have seen everything up to `version`."""
        bare = {"kind": self.kind.kind, "apiVersion": self.kind.api_version, "metadata": {"resourceVersion": str(version)}}
        return line("BOOKMARK", self.view(bare))


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """One watch: what is selected, where its lines go, how often a bookmark is due (None: never).

    Events of the types in `withheld` are not sent: a misbehaviour.
    """

    store: Store
    selection: Selection
    write: Write
    bookmark_seconds: float | None
    withheld: frozenset[str] = frozenset()

    async def run(self, *, start: int, seconds: float) -> None:
        """Write what came after version `start` (0: what is there, and then what comes) until `seconds` are over."""
        queue: asyncio.Queue[Change] = asyncio.Queue()
        # No await between these two: no change falls between the past and the future.  A version that is yet to come, as a
        # restore leaves them behind, is waited for in silence.
        known = max(start, self.store.version)
        past = _present(self.store, self.selection.kind) if start == 0 else self.store.since(self.selection.kind, start)
        unsubscribe = self.store.subscribe(queue.put_nowait)
        try:
            if past is None:
                # Once a watch was accepted a real server tells of its end by an event, not by the HTTP status.
                message = f"too old resource version: {start} ({self.store.version})"
                await self.write(line("ERROR", refusal(HTTPStatus.GONE, "Expired", message).body))
                return
            for change in past:
                await self._tell(change)
            await self._follow(queue, known, seconds)
        finally:
            unsubscribe()

    async def _follow(self, queue: "asyncio.Queue[Change]", known: int, seconds: float) -> None:
        now = asyncio.get_running_loop().time
        end = now() + seconds
        bookmark = now() + (self.bookmark_seconds or seconds)
        while now() < end:
            try:
                async with asyncio.timeout_at(min(end, bookmark)):
                    change = await queue.get()
            except TimeoutError:
                # An event of the last moment goes first: a bookmark promises that nothing older is to come.  And none
                # at all before the kind's first change since the watch began: a real server sends none either.
                newest = self.store.newest(self.selection.kind)
                if self.bookmark_seconds and queue.empty():
                    bookmark = now() + self.bookmark_seconds
                    if newest > known and "BOOKMARK" not in self.withheld:
                        await self.write(self.selection.bookmark(newest))
            else:
                if change.version > known:
                    await self._tell(change)

    async def _tell(self, change: Change) -> None:
        mine = change.kind == self.selection.kind and self.selection.has(change.object)
        if mine and change.type not in self.withheld:
            await self.write(self.selection.event(change))


def _present(store: Store, kind: Kind) -> list[Change]:
    """What is there, as if it were added now."""
    return [Change(int(one["metadata"]["resourceVersion"]), kind, "ADDED", one) for one in store.all(kind)]


def line(event: str, item: Json) -> bytes:
    """An event as a watch sends it."""
    return json.dumps({"type": event, "object": item}).encode() + b"\n"
