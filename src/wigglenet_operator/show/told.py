"""What an agent has told of its node - by `/status`, or by its Node's annotation -, as far as it can be read.

Whoever may annotate a Node may have written anything there.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from wigglenet_operator.model.problems import PROBLEMS, Code, Severity
from wigglenet_operator.show.page import EMPTY, Block, Cell, Line, Mood, age

READY = "Ready"
LONGEST = 40
"""Characters of a word in a column: one Node whose status says more would make every line of a table as wide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A problem."""

    code: str
    object: str
    since: str
    """RFC 3339 as it was told; empty if it was not."""
    text: str

    @property
    def severity(self) -> Severity:
        """An unknown code, of a newer agent, is an error."""
        return PROBLEMS[Code[self.code]].severity if self.code in Code.__members__ else Severity.ERROR

    @property
    def remedy(self) -> str:
        """What to do; empty for an unknown code."""
        return PROBLEMS[Code[self.code]].remedy if self.code in Code.__members__ else ""

    def as_json(self) -> dict[str, str]:
        """All of it."""
        words = {"code": self.code, "severity": self.severity.value, "object": self.object, "since": self.since}
        return {**words, "text": self.text, "remedy": self.remedy}


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How an agent says that its node is."""

    phase: str = ""
    """Empty if it has never said anything."""
    version: str = ""
    wireguard: str = ""
    mtu: int | None = None
    peers: int | None = None
    handshaken: int | None = None
    problems: tuple[Told, ...] = ()
    more: int = 0
    """Problems that are not among them."""


def read_status(found: object) -> Status:
    """What a JSON object, or its text, says."""
    if isinstance(found, str):
        try:
            found = json.loads(found)
        except (ValueError, RecursionError):
            return Status(phase="unreadable")
    if not isinstance(found, dict):
        return Status(phase="unreadable")
    listed = found.get("problems")
    return Status(
        phase=_word(found, "phase") or "unreadable",
        version=_word(found, "version"),
        wireguard=_word(found, "wireguard"),
        mtu=_number(found, "mtu"),
        peers=_number(found, "peers"),
        handshaken=_number(found, "handshaken"),
        problems=tuple(map(_problem, listed)) if isinstance(listed, list) else (),
        more=_number(found, "more") or 0,
    )


def _problem(entry: object) -> Told:
    if not isinstance(entry, dict):  # agents of before 0.1.0 told them as text
        return Told(code="", object="", since="", text=str(entry))
    code, subject, since, text = (str(entry.get(name) or "") for name in ("code", "object", "since", "text"))
    return Told(code=code, object=subject, since=since, text=text)


def _word(found: Mapping[str, Any], name: str) -> str:
    return str(found.get(name) or "")[:LONGEST]


def _number(found: Mapping[str, Any], name: str) -> int | None:
    value = found.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 31 else None


NAMED = 5
"""Nodes that one line names before it counts the others."""
MOODS = {Severity.ERROR: Mood.BAD, Severity.WARNING: Mood.DOUBTFUL}


def problem_blocks(told: Mapping[str, Status], *, now: float) -> Iterator[Block]:
    """Problems by node (empty: there is one node only), each once and with what to do; errors first."""
    same: dict[tuple[str, str, str], list[tuple[str, Told]]] = {}
    for node, status in sorted(told.items()):
        for problem in status.problems:
            same.setdefault((problem.code, problem.object, problem.text), []).append((node, problem))
    groups = sorted(same.values(), key=lambda group: (group[0][1].severity is not Severity.ERROR, -len(group)))
    for group in groups:
        yield EMPTY
        yield from _problem_blocks([node for node, _ in group if node], min((p for _, p in group), key=lambda p: p.since), now)
    for node, status in sorted(told.items()):
        if status.more:
            yield EMPTY
            where = (
                f" on node {node}, which its agent's log tells, and `status` there" if node else ", which the agent's log tells"
            )
            text = f"and {status.more} more{where}"
            yield Line(cells=[Cell(text, Mood.DULL)])


def _problem_blocks(nodes: Sequence[str], problem: Told, now: float) -> Iterator[Block]:
    shown = ", ".join(nodes[:NAMED]) + (f" and {len(nodes) - NAMED} more" if len(nodes) > NAMED else "")
    heading = [Cell(f"{problem.severity.value} ", MOODS[problem.severity]), Cell(f"{problem.code or 'problem'} ", Mood.HEAD)]
    heading += [Cell(f"on node{'s' * (len(nodes) > 1)} {shown} ")] if nodes else []
    yield Line(cells=[*heading, Cell(since(problem.since, now), Mood.DULL)])
    yield Line(cells=[Cell(": ".join(filter(None, (problem.object, problem.text))))], indent=2)
    if problem.remedy:
        yield Line(cells=[Cell("what to do: ", Mood.DULL), Cell(problem.remedy)], indent=2)


def since(text: str, now: float) -> str:
    """A time and how long ago it was; empty without one."""
    try:
        return f"since {text} ({age(now - datetime.fromisoformat(text).timestamp())} ago)"
    except (ValueError, OverflowError):
        return f"since {text}" if text else ""
