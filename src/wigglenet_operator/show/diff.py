"""What a turn would change, in the words of people: `wigglenet-operator diff`."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import unified_diff
from itertools import chain, islice
from typing import Any

from wigglenet_operator.model.changes import Changes
from wigglenet_operator.model.desired import Device, Link, Peer, RouteKey, RouteKind
from wigglenet_operator.model.facts import PublicKey
from wigglenet_operator.model.report import TurnReport
from wigglenet_operator.model.ruleset import FAMILY, TABLE, Item
from wigglenet_operator.show.page import Block, Cell, Line, Mood, Page

NEW_KEY = "(a new key)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One change: `route + 10.2.0.0/24 dev wigglenet`."""

    table: str
    """By the names of `plan.desired.STEPS`."""
    noun: str
    sign: str
    """`+`, `~` or `-`."""
    name: str
    detail: tuple[str, ...] = ()
    """More lines."""

    def as_json(self) -> dict[str, object]:
        """All of it."""
        return {"table": self.table, "noun": self.noun, "sign": self.sign, "name": self.name, "detail": [*self.detail]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What is to be known to speak of changes."""

    link: str
    bare: Collection[str] = ()
    """Tables that have nothing in them now."""
    names: Mapping[PublicKey, str]
    """Of nodes."""
    new_key: PublicKey | None = None
    """A key that stands for one that does not exist yet."""


def told(changes: Mapping[str, Changes[Any, Any]], words: Words) -> list[Change]:
    """A line for each change, by table, in the order of writing."""
    return [line for table, found in changes.items() for line in TELLERS[table](table, found, words)]


def _each(changes: Changes[Any, Any]) -> Iterator[tuple[str, Any, Any, Any]]:
    """Sign, key, old and new value, sorted by what the key is in text; what goes comes first."""
    found = chain(
        (("-", key, value, None) for key, value in changes.remove.items()),
        (("~", key, changes.was[key], value) for key, value in changes.change.items()),
        (("+", key, None, value) for key, value in changes.add.items()),
    )
    return iter(sorted(found, key=lambda each: ("-~+".index(each[0]), str(each[1]))))


def _key(table: str, changes: Changes[str, PublicKey], words: Words) -> Iterator[Change]:
    for sign, path, old, new in _each(changes):
        what = NEW_KEY if new == words.new_key else f"the key of {new or old}"
        yield Change(table=table, noun="file", sign=sign, name=f"{path}: {what}")


def _routes(table: str, changes: Changes[RouteKey, Any], words: Words) -> Iterator[Change]:
    for sign, key, old, new in _each(changes):
        way = f"dev {words.link}" if (new or old).kind is RouteKind.TUNNEL else "unreachable"
        more = f" metric {key.metric}" if (new or old).kind is RouteKind.TUNNEL and key.metric not in {0, 1024} else ""
        other = " (of another protocol)" if old and not old.ours else ""
        yield Change(table=table, noun="route", sign=sign, name=f"{key.to} {way}{more}{other}")


def _values(noun: str, *, equals: str = " ") -> Callable[[str, Changes[str, Any], Words], Iterator[Change]]:
    """For tables of a text by a name."""

    def tell(table: str, changes: Changes[str, Any], words: Words) -> Iterator[Change]:
        for sign, name, old, new in _each(changes):
            shown = NEW_KEY if new and new == words.new_key else new
            value = {"-": "", "+": f"{equals}{shown}", "~": f"{equals}{old} -> {shown}"}[sign]
            yield Change(table=table, noun=noun, sign=sign, name=f"{name}{value}")

    return tell


def _states(noun: str) -> Callable[[str, Changes[str, Link | Device], Words], Iterator[Change]]:
    """For link and device: what of them differs."""

    def tell(table: str, changes: Changes[str, Link | Device], words: Words) -> Iterator[Change]:
        for sign, name, old, new in _each(changes):
            yield Change(table=table, noun=noun, sign=sign, name=f"{name}{_fields(old, new, words)}")

    return tell


def _fields(old: Any, new: Any, words: Words) -> str:  # noqa: ANN401 - Link or Device
    if new is None:
        return ""
    told = []
    for each in fields(new):
        name, value, before = each.name, getattr(new, each.name), getattr(old, each.name, None)
        shown = NEW_KEY if value == words.new_key and value else value
        if old is None:
            told.append(f"{name} {shown}")
        elif before != value:
            told.append(f"{name} {before} -> {shown}")
    return f" {', '.join(told)}"


def _addresses(table: str, changes: Changes[Any, None], words: Words) -> Iterator[Change]:
    for sign, address, _, _ in _each(changes):
        yield Change(table=table, noun="address", sign=sign, name=f"{address} dev {words.link}")


def _peers(table: str, changes: Changes[PublicKey, Peer], words: Words) -> Iterator[Change]:
    for sign, key, old, new in _each(changes):
        told = _peer(old, new) if new else ""
        yield Change(table=table, noun="peer", sign=sign, name=f"{words.names.get(key) or key}{told}")


def _peer(old: Peer | None, new: Peer) -> str:
    told = []
    if old is None or old.endpoint != new.endpoint:
        told.append(f"endpoint {new.endpoint}" if old is None else f"endpoint {old.endpoint or 'none'} -> {new.endpoint}")
    before = old.allowed_ips if old else frozenset()
    more, less = new.allowed_ips - before, before - new.allowed_ips
    told += [f"allowed {sign}{network}" for sign, those in (("+", more), ("-", less)) for network in sorted(those, key=str)]
    if (old.keepalive if old else 0) != new.keepalive:
        told.append(f"keepalive {new.keepalive}")
    if old and old.preshared:
        told.append("no preshared key")
    return f" {', '.join(told)}"


def _firewall(table: str, changes: Changes[Item, Any], words: Words) -> Iterator[Change]:
    """Elements of a set on one line; of a chain each rule that comes or goes; of a table that is not there the size."""
    if table in words.bare:
        counts = Counter("elements" if item.element else f"{item.kind}s" for item in changes.add)
        size = ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))
        yield Change(table=table, noun="table", sign="+", name=f"{FAMILY} {TABLE}: {size}")
        return
    elements: dict[tuple[str, str, str], list[str]] = {}
    for sign, item, old, new in _each(changes):
        if item.element:
            verdict = f" : {new}" if new else ""
            elements.setdefault((sign, item.kind, item.name), []).append(f"{item.element}{verdict}")
        else:
            rules = () if sign == "-" else tuple(_lines(old or (), new or ()))
            name = f"{item.name or 'table'} of table {FAMILY} {TABLE}"
            yield Change(table=table, noun=item.kind or "table", sign=sign, name=name, detail=rules)
    for (sign, kind, name), found in elements.items():
        yield Change(table=table, noun=f"{kind} element", sign=sign, name=f"{name}: {', '.join(found)}")


def _lines(old: Any, new: Any) -> Iterator[str]:  # noqa: ANN401 - lines of a chain
    differences = islice(unified_diff([*old], [*new], n=0, lineterm=""), 2, None)  # without the names of files
    yield from (f"{line[0]} {line[1:]}" for line in differences if not line.startswith("@@"))


def _files(table: str, changes: Changes[str, str], _: Words) -> Iterator[Change]:
    for sign, path, old, new in _each(changes):
        lines = () if sign == "-" else tuple(_lines((old or "").splitlines(), new.splitlines()))
        yield Change(table=table, noun="file", sign=sign, name=str(path), detail=lines if old else ())


def _leftovers(table: str, changes: Changes[str, str], _: Words) -> Iterator[Change]:
    for sign, place, _, _ in _each(changes):
        yield Change(table=table, noun="chains of Wigglenet", sign=sign, name=place)


TELLERS: Mapping[str, Callable[[str, Changes[Any, Any], Words], Iterator[Change]]] = {
    "key": _key,
    "closed": _routes,
    "device": _states("device"),
    "link": _states("link"),
    "sysctls": _values("setting"),
    "addresses": _addresses,
    "peers": _peers,
    "firewall": _firewall,
    "routes": _routes,
    "annotations": _values("annotation", equals="="),
    "cni": _files,
    "leftovers": _leftovers,
}
"""By table; a test says that every step has its own."""


SIGNS = {"+": Mood.GOOD, "~": Mood.DOUBTFUL, "-": Mood.BAD}


def untold(report: TurnReport) -> list[str]:
    """What a turn could not do, so that nobody knows what else it would change."""
    found = [f"{name}: {step.error}" for name, step in report.steps.items() if step.error]
    found += [f"{name} waits for {step.waits_for}" for name, step in report.steps.items() if step.waits_for]
    return found + ([f"there is too little to plan with: {p}" for p in sorted(report.problems)] if report.waiting else [])


def unchanged(lines: Sequence[Change], report: TurnReport) -> bool | None:
    """Whether all is as it should be; None if what can be seen is, and not all can."""
    if lines:
        return False
    return None if untold(report) else True


def diff_page(lines: Sequence[Change], report: TurnReport, doubts: Sequence[str] = ()) -> Page:
    """For people; `doubts` are sentences."""
    page: list[Block] = []
    for line in lines:
        page.append(Line(cells=[Cell(f"{line.noun} "), Cell(line.sign, SIGNS[line.sign]), Cell(f" {line.name}")]))
        page += [Line(cells=[Cell(text, SIGNS.get(text[:1], Mood.PLAIN))], indent=4) for text in line.detail]
    page += [Line(cells=[Cell("cannot be told ", Mood.DOUBTFUL), Cell(text)]) for text in (*untold(report), *doubts)]
    return page or [Line(cells=[Cell("nothing would be changed", Mood.GOOD)])]


def diff_json(lines: Sequence[Change], report: TurnReport, doubts: Sequence[str] = ()) -> dict[str, object]:
    """For scripts; docs/status.md describes it."""
    return {"changes": [line.as_json() for line in lines], "untold": [*untold(report), *doubts]}
