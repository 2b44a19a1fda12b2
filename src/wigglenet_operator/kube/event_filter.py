"""Filter for the watch of Nodes, below Kopf: it drops events that change no used field.

A kubelet updates its Node up to six times a minute, and almost every update changes only heartbeat times.  Kopf needs about
2 ms of CPU for an event, whatever the event changes.  This filter needs a tenth of that.  The resource version of a dropped
event is still recorded, because the census compares versions.  The interfaces are public: Kopf accepts an aiohttp session, and
aiohttp accepts a class of responses.
"""

import json
from collections.abc import AsyncIterator, Callable, Hashable, Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Protocol, cast

from aiohttp import ClientResponse, StreamReader


class NodeReader(Protocol):
    """Decodes Nodes and records versions. Both methods are called in Kopf's thread."""

    def facts(self, body: Mapping[str, Any]) -> Hashable:
        """All used fields of a Node object; equal for two versions that differ in unused fields only."""
        ...

    def unchanged(self, body: Mapping[str, Any]) -> None:
        """Record the resource version of a Node object whose used fields have not changed."""


class NodeEventFilter:
    """Compares each Node with the version that Kopf received last.

    One instance belongs to one operator, which lists and watches in turn.
    """

    def __init__(self, reader: NodeReader) -> None:
        self._reader = reader
        self._received: dict[str, int] = {}
        """Hash of the facts that Kopf received last, by UID of the Node."""

    def response_class(self) -> type[ClientResponse]:
        """The `response_class` of an aiohttp session whose lists and watches are filtered."""
        node_filter = self

        class FilteredResponse(ClientResponse):
            async def start(self, connection: Any) -> ClientResponse:  # noqa: ANN401 - aiohttp's private type
                await super().start(connection)
                if self.status == HTTPStatus.OK and "watch" in self.url.query:
                    self.content = node_filter.filtered(self.content)
                return self

            async def json(self, **how: Any) -> Any:  # noqa: ANN401 - as in aiohttp
                answer = await super().json(**how)
                node_filter.record_list(answer, first_page="continue" not in self.url.query)
                return answer

        return FilteredResponse

    def record_list(self, answer: object, *, first_page: bool = True) -> None:
        """Record a page of a NodeList, which Kopf receives as a whole; the first page replaces all earlier records."""
        if first_page:
            self._received.clear()
        with suppress(LookupError, TypeError):  # Kopf reports an answer that is not a list
            for body in answer["items"]:  # type: ignore[index]
                self._received[body["metadata"]["uid"]] = hash(self._reader.facts(body))

    def filtered(self, content: StreamReader) -> StreamReader:
        """The stream of a watch without the dropped events."""
        return cast("StreamReader", _FilteredStream(content, self.passes))

    def passes(self, line: bytes) -> bool:
        """Whether Kopf receives this line of a watch.

        The line is a JSON object with the keys `type` and `object` (Kubernetes API concepts, "Efficient detection of changes").
        Kopf receives every line that is not an event of a Node, because Kopf handles bookmarks and errors.
        """
        with suppress(ValueError, LookupError, TypeError, RecursionError):
            event = json.loads(line)
            kind, body = event["type"], event["object"]
            uid = body["metadata"]["uid"]
            if kind == "DELETED":
                self._received.pop(uid, None)
            if kind not in {"ADDED", "MODIFIED"}:
                return True
            facts = hash(self._reader.facts(body))
            if self._received.get(uid) == facts:
                self._reader.unchanged(body)
                return False
            self._received[uid] = facts
        return True


class _FilteredStream:
    """The part of a StreamReader that Kopf and aiohttp use; `iter_chunked` yields whole lines."""

    def __init__(self, content: StreamReader, passes: Callable[[bytes], bool]) -> None:
        self._content, self._passes = content, passes

    async def iter_chunked(self, size: int) -> AsyncIterator[bytes]:
        rest = b""
        async for chunk in self._content.iter_chunked(size):
            *lines, rest = (rest + chunk).split(b"\n")
            if passed := [line for line in lines if line and self._passes(line)]:
                yield b"\n".join([*passed, b""])
        if rest:
            yield rest

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any attribute of a StreamReader
        return getattr(self._content, name)
