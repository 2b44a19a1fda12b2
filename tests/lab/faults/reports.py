"""Where an agent reports a problem: log, status and Events of its Node, metrics, readiness, its own status page.

A channel answers two questions: is a problem with this code reported there, and is its end reported there?
"""

import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from tests.lab.lab import Lab
from tests.lab.node import LabNode
from tests.lab.pages import HEALTH, METRICS, page
from wigglenet_operator.model.problems import PROBLEMS, Code

STATUS = "wigglenet/status"
EVENTS = "/api/v1/namespaces/default/events"
READ_SECONDS = 0.2
"""The shortest time between two requests for the same objects, however many threads wait."""
LINE = re.compile(r'"message": "(problem|solved): (.*) \[(\w+)\]"')


@dataclass(frozen=True, kw_only=True)
class Published:
    """The problems in the status of each Node, and the Events of each Node, by the Node's name."""

    problems: Mapping[str, list[dict[str, str]]]
    events: Mapping[str, list[dict[str, Any]]]


class ApiReader:
    """Reads the Nodes and Events of a lab for many waiting threads."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._lock = threading.Lock()
        self._published = Published(problems={}, events={})
        self._read_at = float("-inf")

    def read(self) -> Published:
        """What the API server has, at most READ_SECONDS old."""
        with self._lock:
            if (left := self._read_at + READ_SECONDS - time.monotonic()) > 0:
                time.sleep(left)
            self._published, self._read_at = self._request(), time.monotonic()
            return self._published

    def _request(self) -> Published:
        nodes = self._lab.api.admin.get("/api/v1/nodes")["items"]
        annotations = {node["metadata"]["name"]: node["metadata"].get("annotations", {}) for node in nodes}
        problems = {name: json.loads(of.get(STATUS, "{}")).get("problems", []) for name, of in annotations.items()}
        events: dict[str, list[dict[str, Any]]] = {name: [] for name in annotations}
        for event in self._lab.api.admin.get(EVENTS)["items"]:
            events.setdefault(event["involvedObject"]["name"], []).append(event)
        return Published(problems=problems, events=events)


@dataclass(frozen=True, kw_only=True)
class Channel:
    """A place where problems are reported."""

    name: str
    reports: Callable[[ApiReader, LabNode, Code], bool]
    clears: Callable[[ApiReader, LabNode, Code], bool]

    def __str__(self) -> str:
        return self.name


def logged(node: LabNode, code: Code) -> tuple[bool, bool]:
    """Whether the log of the newest agent has an unsolved problem of this code, and whether it has a solved one."""
    log = node.log().rpartition("started version")[2]
    of_code = [(kind, what) for kind, what, name in LINE.findall(log) if name == code]
    unsolved: set[str] = set()
    for kind, what in of_code:
        (unsolved.add if kind == "problem" else unsolved.discard)(what)
    return bool(unsolved), any(kind == "solved" for kind, _ in of_code)


def status_entries(reader: ApiReader, node: LabNode, code: Code) -> list[dict[str, str]]:
    """The problems of this code in the status of the Node."""
    return [entry for entry in reader.read().problems.get(node.name, []) if entry["code"] == code]


def events(reader: ApiReader, node: LabNode, code: Code, kind: str) -> list[dict[str, Any]]:
    """The Events of the Node with this code as reason and this type (`Warning` or `Normal`)."""
    return [e for e in reader.read().events.get(node.name, []) if e["reason"] == code and e["type"] == kind]


def metric(node: LabNode, code: Code) -> float:
    """The number of problems of this code by the metrics; -1 if they cannot be read."""
    status, text = page(node, METRICS, "/metrics")
    found = re.findall(rf'^wigglenet_problems{{code="{code}",.*}} (.*)$', text, re.MULTILINE)
    return sum(map(float, found)) if status == HTTPStatus.OK and found else -1


def page_entries(node: LabNode, code: Code) -> list[str]:
    """The texts of the problems of this code on the agent's status page; none if the agent does not answer."""
    status, text = page(node, HEALTH, "/status")
    assert status in {0, HTTPStatus.OK}
    return [one["text"] for one in json.loads(text)["problems"] if one["code"] == code] if text else []


def readiness(node: LabNode) -> int:
    """The HTTP status of the readiness probe."""
    return page(node, HEALTH, "/readyz")[0]


IN_LOG = Channel(
    name="log",
    reports=lambda _, node, code: logged(node, code)[0],
    clears=lambda _, node, code: logged(node, code) == (False, True),
)
IN_STATUS = Channel(
    name="status",
    reports=lambda reader, node, code: bool(status_entries(reader, node, code)),
    clears=lambda reader, node, code: not status_entries(reader, node, code),
)
IN_EVENTS = Channel(
    name="Events",
    reports=lambda reader, node, code: bool(events(reader, node, code, "Warning")),
    clears=lambda reader, node, code: any(e["message"].startswith("solved: ") for e in events(reader, node, code, "Normal")),
)
IN_METRICS = Channel(
    name="metrics",
    reports=lambda _, node, code: metric(node, code) > 0,
    clears=lambda _, node, code: metric(node, code) == 0,
)
IN_READINESS = Channel(
    name="readiness",
    reports=lambda _, node, code: not PROBLEMS[code].breaks or readiness(node) == HTTPStatus.SERVICE_UNAVAILABLE,
    clears=lambda _, node, code: not PROBLEMS[code].breaks or readiness(node) == HTTPStatus.OK,
)
ON_PAGE = Channel(
    name="status page",
    reports=lambda _, node, code: bool(page_entries(node, code)),
    clears=lambda _, node, code: not page_entries(node, code),
)
LOCAL = (IN_LOG, IN_METRICS, IN_READINESS, ON_PAGE)
"""The channels that need no API server."""
ALL = (*LOCAL, IN_STATUS, IN_EVENTS)
