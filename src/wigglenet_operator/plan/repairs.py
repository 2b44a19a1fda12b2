"""Who keeps undoing what this agent writes?  A repair that does not last is made ever more slowly, and named.

Two programs that each put back what the other has changed would else do so ten times a second, for ever.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from wigglenet_operator.model.changes import Changes
from wigglenet_operator.model.desired import RouteKey
from wigglenet_operator.model.problems import Code
from wigglenet_operator.model.report import Problem
from wigglenet_operator.model.ruleset import FAMILY, TABLE, Item
from wigglenet_operator.model.timing import PRODUCTION, Timing

AT_ONCE = 5
"""Repairs in a row that are made as soon as they are wanted."""
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


REMOVED = "removed"
"""The value of what is not there; None is that of what has none, such as an address."""


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
    """Of the table, or REMOVED."""
    count: int
    last: float
    """Monotonic seconds."""

    def pause(self, timing: Timing) -> float:
        """Seconds from the last time until it may be written again."""
        doubled = timing.repair_pause * 2 ** (self.count - AT_ONCE)
        return min(doubled, timing.repair_pause_most) if self.count >= AT_ONCE else 0.0


Repairs = Mapping[Ident, Repair]
"""In the order of writing, so that those which are forgotten come first."""


def hold_back(  # noqa: PLR0913 - the differences, what is known of earlier ones, and the time
    differences: Mapping[str, Changes[Any, Any]],
    repairs: Repairs,
    settled: Mapping[str, Mapping[Any, Any]],
    *,
    link: int,
    now: float,
    timing: Timing = PRODUCTION,
) -> tuple[dict[str, Changes[Any, Any]], dict[Ident, Repair], frozenset[Problem]]:
    """What may be written now, what to remember if it succeeds, and what is fought over.

    `settled` is the desired content that each state table was brought to.  What is written for the first time is no repair.
    """
    remember = dict(repairs)  # a copy does not hash every key again
    oldest = now - timing.repair_calm
    for ident in [*takewhile(lambda ident: repairs[ident].last <= oldest, repairs)]:
        del remember[ident]
    allowed: dict[str, Changes[Any, Any]] = {}
    for table, changes in differences.items():
        if not changes:
            allowed[table] = changes
            continue
        wanted: dict[Hashable, object] = {**changes.put, **dict.fromkeys(changes.remove, REMOVED)}
        idents = {key: Ident(table=table, key=key, link=link) for key in wanted}
        again = {k: r for k in wanted if (r := remember.pop(idents[k], None)) and r.last > oldest and r.value == wanted[k]}
        held = {key for key, repair in again.items() if now < repair.last + repair.pause(timing)}
        if table == "firewall" and held != wanted.keys():  # one transaction: what others in it may need is not put off
            held = {
                item for item in held if isinstance(item, Item) and item.element and item._replace(element="") not in wanted
            }
        remember |= {idents[key]: again[key] for key in held}
        for key in wanted.keys() - held:
            count = again[key].count + 1 if key in again else 1
            if count > 1 or _undoes(wanted[key], key, settled.get(table)):
                remember[idents[key]] = Repair(value=wanted[key], count=count, last=now)
        allowed[table] = _without(changes, held) if held else changes
    text = "something else keeps changing it back, so it is repaired only now and then; find out what, and stop one of the two"
    fought = {_subject(ident) for ident, repair in remember.items() if repair.count > AT_ONCE and repair.last > oldest}
    return allowed, remember, frozenset(Problem(code=Code.RepairUndone, subject=subject, text=text) for subject in fought)


def count_repairs(differences: Mapping[str, object], settled: Mapping[str, Mapping[Any, Any]]) -> dict[str, int]:
    """By table, how many of the changes undo what came after it had been brought to `settled`; tables without are left out."""
    counts: dict[str, int] = {}
    for table, changes in differences.items():
        if isinstance(changes, Changes) and changes:
            put = sum(1 for key, value in changes.put.items() if _undoes(value, key, settled.get(table)))
            counts[table] = put + sum(1 for key in changes.remove if _undoes(REMOVED, key, settled.get(table)))
    return {table: count for table, count in counts.items() if count}


def _undoes(value: object, key: Hashable, settled: Mapping[Any, Any] | None) -> bool:
    """Whether writing this value, or REMOVED, restores what the state table was brought to earlier; None: it never was."""
    return settled is not None and (key not in settled if value is REMOVED else key in settled and settled[key] == value)


def _without(changes: Changes[Any, Any], held: set[Hashable]) -> Changes[Any, Any]:
    def kept(part: Mapping[Any, Any]) -> dict[Any, Any]:
        return {key: value for key, value in part.items() if key not in held}

    return Changes(add=kept(changes.add), change=kept(changes.change), was=kept(changes.was), remove=kept(changes.remove))


def _subject(ident: Ident) -> str:
    """What people call it; the firewall's table is one thing."""
    key = f"{FAMILY} {TABLE}" if ident.table == "firewall" else ident.key
    return f"{NOUNS[ident.table]} {key.to if isinstance(key, RouteKey) else key}"
