"""Between the API server and Kopf: a watch event that changes no fact of a Node never reaches Kopf.

A kubelet writes its Node up to six times a minute, nearly always only the time of its conditions.  Kopf takes some 2 ms of CPU
for an event, whatever it changes; to read it here takes a tenth of that.  Of an event that is left out the version of the Node
is recorded, because the census compares versions.
"""

import json
from collections.abc import AsyncIterator, Callable, Hashable, Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Protocol, cast

from aiohttp import ClientResponse, StreamReader


class Reader(Protocol):
    """Who can tell what a Node means to this agent."""

    def facts(self, body: Mapping[str, Any]) -> Hashable:
        """All that is used of a Node; equal for two versions of it that differ in nothing that is used."""
        ...

    def unchanged(self, body: Mapping[str, Any]) -> None:
        """A Node is as before, in another version."""


class Skim:
    """Reads the events of one watch after the other, in Kopf's thread."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._facts: dict[str, int] = {}
        """Hashes of the facts that Kopf was told last, by UID."""

    def response(self) -> type[ClientResponse]:
        """The class of responses by which a session is skimmed (aiohttp, ClientSession, response_class)."""
        skim = self

        class Skimmed(ClientResponse):
            async def start(self, connection: Any) -> ClientResponse:  # noqa: ANN401 - aiohttp's private type
                await super().start(connection)
                if self.status == HTTPStatus.OK and "watch" in self.url.query:
                    self.content = skim.stream(self.content)
                return self

            async def json(self, **how: Any) -> Any:  # noqa: ANN401 - as aiohttp has it
                answer = await super().json(**how)
                skim.listed(answer, goes_on="continue" in self.url.query)
                return answer

        return Skimmed

    def listed(self, answer: object, *, goes_on: bool = False) -> None:
        """Kopf is told of each Node in an answer, and what it was told before is no longer so, unless the listing goes on."""
        if not goes_on:
            self._facts.clear()
        with suppress(LookupError, TypeError):
            for body in answer["items"]:  # type: ignore[index]  # what is no listing is left to Kopf
                self._facts[body["metadata"]["uid"]] = hash(self._reader.facts(body))

    def stream(self, content: StreamReader) -> StreamReader:
        """The events of a watch without those that change nothing, in whole lines; all else is as in `content`."""
        return cast("StreamReader", _Skimmed(content, self.wanted))

    def wanted(self, line: bytes) -> bool:
        """Whether Kopf must have this event (Kubernetes API, watch: an object with type and object, one a line).

        It must have whatever is no event of a Node, for it knows how to complain.
        """
        try:
            event = json.loads(line)
            kind, body = event["type"], event["object"]
            uid = body["metadata"]["uid"]
            if kind == "DELETED":
                self._facts.pop(uid, None)
            if kind not in {"ADDED", "MODIFIED"}:
                return True
            facts = hash(self._reader.facts(body))
            if self._facts.get(uid) == facts:
                self._reader.unchanged(body)
                return False
            self._facts[uid] = facts
        except (ValueError, LookupError, TypeError, RecursionError):
            return True
        return True


class _Skimmed:
    """The part of a StreamReader that Kopf uses."""

    def __init__(self, content: StreamReader, wanted: Callable[[bytes], bool]) -> None:
        self._content, self._wanted = content, wanted

    async def iter_chunked(self, size: int) -> AsyncIterator[bytes]:
        rest = b""
        async for chunk in self._content.iter_chunked(size):
            *lines, rest = (rest + chunk).split(b"\n")
            if kept := [line for line in lines if line and self._wanted(line)]:
                yield b"\n".join([*kept, b""])
        if rest:
            yield rest

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever aiohttp asks of a stream
        return getattr(self._content, name)
