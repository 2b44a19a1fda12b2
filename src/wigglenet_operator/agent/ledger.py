"""Which problems there are, and since when; it survives a restart by what the own Node's status says."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime

from wigglenet_operator.model.problems import Code
from wigglenet_operator.model.report import Problem, TurnReport

CHARACTERS = 200
"""Of a problem's text that are told to the API server: annotations of a Node have 256 KiB in all."""
LONGEST = CHARACTERS + 300
"""With its subject: a Node's name has 253."""
STATUS_PROBLEMS = 5
"""That a status names."""


class Ledger:
    """Every problem of the last turns with the time when it was first seen."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` gives Unix seconds."""
        self._clock = clock
        self._earlier: dict[Problem, str] | None = None
        self._waited: frozenset[Problem] = frozenset()
        self.since: dict[Problem, str] = {}
        """In RFC 3339, UTC, seconds."""

    def update(self, report: TurnReport, status: str) -> tuple[list[Problem], list[Problem]]:
        """What has come and what has gone, sorted; `status` is what the own Node says of before a restart.

        A turn that waits knows too little to call anything solved, but what one before it has told.
        """
        if self._earlier is None and report.registered:
            self._earlier = parse_problems(status)
        now = _text(self._clock())
        came = sorted(report.problems - self.since.keys())
        gone = sorted((self._waited if report.waiting else self.since.keys()) - report.problems)
        self._waited = report.problems if report.waiting else frozenset()
        for problem in came:
            self.since[problem] = self._began(problem) or now
        for problem in gone:
            del self.since[problem]
        if self._earlier and not report.waiting:  # of what is left nobody else will say that it has gone
            gone += sorted(self._earlier)
            self._earlier = {}
        return came, gone

    def _began(self, problem: Problem) -> str:
        """When an earlier agent saw it first; empty if none did."""
        return (self._earlier or {}).pop(shortened(problem), "")


def refusal(code: Code, text: str) -> frozenset[Problem]:
    """What the API server does not let this agent do; nothing without a text."""
    return frozenset({Problem(code=code, subject="API server", text=text)}) if text else frozenset()


def shortened(problem: Problem) -> Problem:
    """With as much of its text as the API server is told."""
    return replace(problem, text=problem.text[:CHARACTERS]) if len(problem.text) > CHARACTERS else problem


def ranked(problems: Iterable[Problem]) -> list[Problem]:
    """Those that matter most first."""
    return sorted(problems, key=lambda p: (not p.meaning.breaks, p.meaning.severity.value, p))


def render_problems(since: Mapping[Problem, str]) -> list[dict[str, str]]:
    """Objects of code, object, since and text; those that matter most first."""
    return [{"code": p.code, "object": p.subject, "since": since[p], "text": p.text[:CHARACTERS]} for p in ranked(since)]


def parse_problems(status: str) -> dict[Problem, str]:
    """What a status names, as far as it can be read: whoever may annotate a Node may have written anything.

    It is logged and told when it has gone, so no more of it than an agent writes, and nothing that steers a terminal.
    """
    try:
        listed = json.loads(status or "{}").get("problems")
        entries = [each for each in listed[:STATUS_PROBLEMS] if isinstance(each, dict)] if isinstance(listed, list) else []
    except (ValueError, AttributeError, RecursionError):
        return {}
    found: dict[Problem, str] = {}
    for entry in entries:
        code, subject, text, since = (str(entry.get(name, "")) for name in ("code", "object", "text", "since"))
        told = f"{subject}{text}"
        if code in Code.__members__ and _is_time(since) and len(told) <= LONGEST and told.isprintable():
            found[Problem(code=Code[code], subject=subject, text=text)] = since
    return found


def _text(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _is_time(text: str) -> bool:
    try:
        return _text(datetime.fromisoformat(text).timestamp()) == text
    except (ValueError, OverflowError):
        return False
