"""Kopf receives a watch event only if a used field has changed; of other events the version is recorded."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import StreamReader

from wigglenet_operator.kube.decode import decode_node
from wigglenet_operator.kube.event_filter import NodeEventFilter
from wigglenet_operator.model.facts import NodeName

Json = dict[str, Any]
HEARTBEAT: Json = {"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z"}


class Versions:
    """A NodeReader that keeps the versions of dropped events."""

    def __init__(self) -> None:
        self.versions: list[str] = []

    def facts(self, body: Mapping[str, Any]) -> Any:
        return decode_node(body, own=NodeName("own"))

    def unchanged(self, body: Mapping[str, Any]) -> None:
        self.versions.append(body["metadata"]["resourceVersion"])


def event(
    version: str, *, kind: str = "MODIFIED", name: str = "a", notes: Json | None = None, status: Json | None = None
) -> Json:
    metadata = {"name": name, "uid": f"uid-{name}", "resourceVersion": version, "annotations": notes or {}}
    return {"type": kind, "object": {"metadata": metadata, "spec": {}, "status": status or {}}}


def passed(*events: Json, reader: Versions | None = None) -> list[str]:
    """Versions of the events that a new filter passes, in order."""
    node_filter = NodeEventFilter(reader or Versions())
    return [each["object"]["metadata"]["resourceVersion"] for each in events if node_filter.passes(json.dumps(each).encode())]


def test_a_heartbeat_has_only_its_version_recorded() -> None:
    reader = Versions()
    later = {**HEARTBEAT, "lastHeartbeatTime": "2026-01-01T00:00:10Z"}
    events = [event(str(n), status={"conditions": [beat]}) for n, beat in enumerate([HEARTBEAT, later, HEARTBEAT])]

    assert passed(*events, reader=reader) == ["0"]
    assert reader.versions == ["1", "2"]


@pytest.mark.parametrize(
    "changed",
    [
        {"notes": {"wigglenet/pod-cidrs": '["10.1.0.0/24"]'}},
        {"notes": {"wigglenet/endpoint": "not one"}},
        {"status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}},
        {"name": "own", "notes": {"wigglenet/status": "{}"}},
        {"name": "own", "status": {"conditions": [{"type": "NetworkUnavailable", "status": "True"}]}},
        {"status": {"addresses": "none"}},
    ],
    ids=str,
)
def test_each_change_of_a_used_field_passes(changed: Json) -> None:
    before = {"name": changed.get("name", "a")}

    assert passed(event("1", **before), event("2", **changed), event("3", **changed), event("4", **before)) == ["1", "2", "4"]


def test_the_status_of_another_node_is_nothing() -> None:
    assert passed(event("1"), event("2", notes={"wigglenet/status": "{}"})) == ["1"]


def test_a_node_that_went_and_came_passes_again() -> None:
    assert passed(event("1"), event("2", kind="DELETED"), event("3", kind="ADDED")) == ["1", "2", "3"]


@pytest.mark.parametrize("answer", [{"items": []}, {"kind": "Status"}, None, {"items": [{"metadata": None}]}], ids=str)
def test_after_an_answer_that_lists_no_node_each_passes_again(answer: object) -> None:
    node_filter, line = NodeEventFilter(Versions()), json.dumps(event("1")).encode()
    assert [node_filter.passes(line), node_filter.passes(line)] == [True, False]

    node_filter.record_list(answer)

    assert node_filter.passes(line)


def test_what_a_listing_had_is_dropped_until_it_changes() -> None:
    node_filter = NodeEventFilter(Versions())
    changed = event("2", notes={"wigglenet/endpoint": "192.0.2.1"})
    node_filter.passes(json.dumps(changed).encode())

    node_filter.record_list({"items": [event("3")["object"]]})
    node_filter.record_list({"items": [event("4", name="b")["object"]]}, first_page=False)

    assert not node_filter.passes(json.dumps(event("5")).encode())
    assert not node_filter.passes(json.dumps(event("6", name="b")).encode())
    assert node_filter.passes(json.dumps(changed).encode())


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"null",
        b'"ADDED"',
        b'{"type":"MODIFIED"}',
        b'{"type":"MODIFIED","object":{"metadata":{"uid":["x"]}}}',
        b'{"type":"MODIFIED","object":{"metadata":{"uid":"u"},"status":7}}',
        b'{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9"}}}',
        b'{"type":"ERROR","object":{"kind":"Status","code":410}}',
        b'{"a":' * 100_000,
    ],
)
def test_what_is_no_event_of_a_node_is_passed_to_kopf(line: bytes) -> None:
    node_filter = NodeEventFilter(Versions())
    assert node_filter.passes(line)


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_lines_are_whole_whatever_pieces_they_come_in_and_the_rest_is_not_lost(size: int) -> None:
    lines = [json.dumps(each).encode() for each in (event("1"), event("2"), event("3", name="b"))]
    text = b"\n".join([*lines, b'{"cut'])

    async def pieces(_size: int) -> AsyncIterator[bytes]:
        for start in range(0, len(text), size):
            yield text[start : start + size]

    async def read() -> bytes:
        content = cast("StreamReader", SimpleNamespace(iter_chunked=pieces, total_bytes=5))
        stream = NodeEventFilter(Versions()).filtered(content)
        assert stream.total_bytes == 5
        return b"".join([chunk async for chunk in stream.iter_chunked(100)])

    assert asyncio.run(read()) == b"\n".join([lines[0], lines[2], b'{"cut'])
