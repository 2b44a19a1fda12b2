"""Who keeps undoing what this agent writes?  A repair that does not last is made ever more slowly, and named.

Two programs that each put back what the other has changed would else do so ten times a second, for ever.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from wigglenet_operator.model.changes import Changes
from wigglenet_operator.model.desired import RouteKey
from wigglenet_operator.model.report import Problem
from wigglenet_operator.model.ruleset import FAMILY, TABLE

AT_ONCE = 5
"""Repairs in a row that are made as soon as they are wanted."""
CALM_SECONDS = 60.0
"""Without a repair for so long, the next one is the first of a row."""
LONGEST_SECONDS = 30.0
NOUNS = {"closed": "route", "routes": "route", "device": "link", "link": "link", "addresses": "address", "peers": "peer"}
NOUNS |= {
    "sysctls": "setting",
    "annotations": "annotation",
    "cni": "file",
    "key": "file",
    "firewall": "table",
    "leftovers": "chains",
}
"""What a key of each table is."""
WHOLE = f"{FAMILY} {TABLE}"
"""Stands for all that is in the firewall's table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ident:
    """One thing that is written; another one after our link was made anew, for then all that it had must be written again."""

    table: str
    key: Hashable
    link: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """How often the same value has been written in a row."""

    value: object
    """None: removed."""
    count: int
    last: float
    """Monotonic seconds."""

    def pause(self) -> float:
        """Seconds from the last time until it may be written again."""
        return min(0.5 * 2 ** (self.count - AT_ONCE), LONGEST_SECONDS) if self.count >= AT_ONCE else 0.0


Repairs = Mapping[Ident, Repair]


def hold_back(
    differences: Mapping[str, Changes[Any, Any]], repairs: Repairs, *, link: int, now: float
) -> tuple[dict[str, Changes[Any, Any]], dict[Ident, Repair], frozenset[Problem]]:
    """What may be written now, what to remember if it succeeds, and what is fought over."""
    remember = {ident: repair for ident, repair in repairs.items() if now - repair.last < CALM_SECONDS}
    allowed: dict[str, Changes[Any, Any]] = {}
    for table, changes in differences.items():
        held: set[Hashable] = set()
        for key, value in _units(table, changes).items():
            ident = Ident(table=table, key=key, link=link)
            before = remember.get(ident)
            again = before if before and before.value == value else None
            if again and now < again.last + again.pause():
                held.add(key)
            else:
                remember[ident] = Repair(value=value, count=again.count + 1 if again else 1, last=now)
        allowed[table] = _without(changes, {*changes.put, *changes.remove} if WHOLE in held else held) if held else changes
    text = "something else keeps changing it back, so it is repaired only now and then; find out what, and stop one of the two"
    fought = {ident for ident, repair in remember.items() if repair.count > AT_ONCE}
    problems = frozenset(Problem(subject=f"{NOUNS[i.table]} {_shown(i.key)}", text=text) for i in fought)
    return allowed, remember, problems


def _units(table: str, changes: Changes[Any, Any]) -> dict[Hashable, object]:
    """What is written or held back as one, and its new value; None: removed."""
    if table == "firewall":  # one transaction, and parts of it need others
        return {WHOLE: (changes.put, changes.remove)} if changes else {}
    return {**changes.put, **dict.fromkeys(changes.remove)}


def _without(changes: Changes[Any, Any], held: set[Hashable]) -> Changes[Any, Any]:
    def kept(part: Mapping[Any, Any]) -> dict[Any, Any]:
        return {key: value for key, value in part.items() if key not in held}

    return Changes(add=kept(changes.add), change=kept(changes.change), was=kept(changes.was), remove=kept(changes.remove))


def _shown(key: Hashable) -> str:
    return str(key.to) if isinstance(key, RouteKey) else str(key)
