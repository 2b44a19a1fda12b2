"""Where an agent tells of a problem: its log, its Node's status, Events on its Node, metrics, readiness, its own status page.

A place answers two questions: does the agent of a node tell there of a code, and does it tell that it is over?
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
LOOK_SECONDS = 0.2
"""Between two looks at the API server, whoever waits for what they show."""
LINE = re.compile(r'"message": "(problem|solved): (.*) \[(\w+)\]"')


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What the API server has: the problems of each Node's status, and the Events on each Node."""

    problems: Mapping[str, list[dict[str, str]]]
    events: Mapping[str, list[dict[str, Any]]]


class Onlooker:
    """Looks at one lab for many that wait."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._lock = threading.Lock()
        self._seen = Seen(problems={}, events={})
        self._looked = float("-inf")

    def look(self) -> Seen:
        """What there is, or was a moment ago."""
        with self._lock:
            if (left := self._looked + LOOK_SECONDS - time.monotonic()) > 0:
                time.sleep(left)
            self._seen, self._looked = self._ask(), time.monotonic()
            return self._seen

    def _ask(self) -> Seen:
        nodes = self._lab.api.admin.get("/api/v1/nodes")["items"]
        notes = {node["metadata"]["name"]: node["metadata"].get("annotations", {}) for node in nodes}
        problems = {name: json.loads(said.get(STATUS, "{}")).get("problems", []) for name, said in notes.items()}
        events: dict[str, list[dict[str, Any]]] = {name: [] for name in notes}
        for event in self._lab.api.admin.get(EVENTS)["items"]:
            events.setdefault(event["involvedObject"]["name"], []).append(event)
        return Seen(problems=problems, events=events)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a problem is told."""

    name: str
    tells: Callable[[Onlooker, LabNode, Code], bool]
    over: Callable[[Onlooker, LabNode, Code], bool]

    def __str__(self) -> str:
        return self.name


def logged(node: LabNode, code: Code) -> tuple[bool, bool]:
    """Whether the newest agent says that there is such a problem, and whether it has said that one is solved."""
    said = node.log().rpartition("started version")[2]
    of_code = [(kind, what) for kind, what, name in LINE.findall(said) if name == code]
    there: set[str] = set()
    for kind, what in of_code:
        (there.add if kind == "problem" else there.discard)(what)
    return bool(there), any(kind == "solved" for kind, _ in of_code)


def entries(onlooker: Onlooker, node: LabNode, code: Code) -> list[dict[str, str]]:
    """What the status says of it."""
    return [entry for entry in onlooker.look().problems.get(node.name, []) if entry["code"] == code]


def events(onlooker: Onlooker, node: LabNode, code: Code, kind: str) -> list[dict[str, Any]]:
    """The Events on the Node with that code as their reason, of a type."""
    return [e for e in onlooker.look().events.get(node.name, []) if e["reason"] == code and e["type"] == kind]


def counted(node: LabNode, code: Code) -> float:
    """What the metric says of it; -1 if it cannot be read."""
    status, text = page(node, METRICS, "/metrics")
    found = re.findall(rf'^wigglenet_problems{{code="{code}",.*}} (.*)$', text, re.MULTILINE)
    return sum(map(float, found)) if status == HTTPStatus.OK and found else -1


def listed(node: LabNode, code: Code) -> list[str]:
    """What the agent's own page says of it."""
    status, text = page(node, HEALTH, "/status")
    assert status in {0, HTTPStatus.OK}
    return [one["text"] for one in json.loads(text)["problems"] if one["code"] == code] if text else []


def ready(node: LabNode) -> int:
    """The HTTP status of the probe."""
    return page(node, HEALTH, "/readyz")[0]


LOG = Place(
    name="log",
    tells=lambda _, node, code: logged(node, code)[0],
    over=lambda _, node, code: logged(node, code) == (False, True),
)
STATUS_OF_NODE = Place(
    name="status",
    tells=lambda onlooker, node, code: bool(entries(onlooker, node, code)),
    over=lambda onlooker, node, code: not entries(onlooker, node, code),
)
EVENT = Place(
    name="Event",
    tells=lambda onlooker, node, code: bool(events(onlooker, node, code, "Warning")),
    over=lambda onlooker, node, code: any(e["message"].startswith("solved: ") for e in events(onlooker, node, code, "Normal")),
)
METRIC = Place(
    name="metric",
    tells=lambda _, node, code: counted(node, code) > 0,
    over=lambda _, node, code: counted(node, code) == 0,
)
READY = Place(
    name="readiness",
    tells=lambda _, node, code: not PROBLEMS[code].breaks or ready(node) == HTTPStatus.SERVICE_UNAVAILABLE,
    over=lambda _, node, code: not PROBLEMS[code].breaks or ready(node) == HTTPStatus.OK,
)
PAGE = Place(
    name="status page",
    tells=lambda _, node, code: bool(listed(node, code)),
    over=lambda _, node, code: not listed(node, code),
)
HERE = (LOG, METRIC, READY, PAGE)
"""Without an API server."""
EVERYWHERE = (*HERE, STATUS_OF_NODE, EVENT)
