"""The table `inet wigglenet`: read back when somebody else has changed it, written by the differences.

A listing of a large table takes 0.2 s and kube-proxy changes its own tables all the time, so what is there is remembered for
as long as the kernel's count of transactions, and its word on which of them touched our table, say that it is still so.
"""

import itertools
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from ipaddress import ip_network
from signal import Signals

from wigglenet_operator.errors import KernelError
from wigglenet_operator.kernel.nft_text import parse, render_changes, render_replacement
from wigglenet_operator.kernel.nft_watch import NftWatch
from wigglenet_operator.kernel.program import run
from wigglenet_operator.model.changes import Changes, patched
from wigglenet_operator.model.facts import DroppingChain
from wigglenet_operator.model.ruleset import FAMILY, TABLE, Content, Item, Ruleset

log = logging.getLogger(__name__)
LISTINGS = 5
"""In a row, each disturbed by a change of our table, until the turn gives up."""
VERSIONS = {"ip": frozenset({4}), "ip6": frozenset({6}), "inet": frozenset({4, 6})}
"""Families of tables that see packets of pods."""
ACCEPTED = re.compile(r"\bip6? [sd]addr (\S+) .*\baccept$")
JUMP = re.compile(r"\b(?:jump|goto) (\S+)$")
FINAL = re.compile(r"^(counter )?(drop|reject( with .*)?)$")


class _RefusedError(KernelError):
    """Nft, or the kernel for it, said no."""


class NftTable:
    """The table as a KeyedTable, and what other tables do to forwarded packets."""

    def __init__(self, watch: NftWatch) -> None:
        self._watch = watch
        self._actual: Ruleset | None = None
        """None: it must be listed."""
        self._writing = False
        self._dropping: frozenset[DroppingChain] = frozenset()

    async def observe(self) -> Ruleset:
        """What is in the table; KernelError if nft cannot tell."""
        self._watch.read()
        known = self._actual
        if known is None or self._watch.authors or self._watch.seen != self._watch.generation():
            authors = list(self._watch.authors)
            self._actual = await self._listed()
            if known is not None and known != self._actual:
                by = ", ".join(dict.fromkeys(f"process {author.name}, pid {author.pid}" for author in authors)) or "unknown"
                log.warning("table %s %s was changed by somebody else: %s; it is put back", FAMILY, TABLE, by)
        assert self._actual is not None  # noqa: S101 - it was listed
        return self._actual

    async def apply(self, changes: Changes[Item, Content]) -> None:
        """Change it so that no packet sees a part, or if nft refuses that, as a whole; KernelError in the words of nft."""
        actual = await self.observe()
        wanted = patched(actual, changes)
        self._writing, self._actual = True, None
        try:
            made = await _write(render_changes(actual, changes), instead=render_replacement(wanted))
        finally:
            self._writing = False
        self._watch.read()
        if len(self._watch.authors) == made:  # with another's among them it must be listed
            self._watch.authors.clear()
            self._actual = wanted

    async def watch(self, changed: Callable[[], None]) -> None:
        """Call `changed` when others have changed our table, or a chain that forwarded packets go through, for ever."""

        def news() -> None:
            if not self._writing and (self._watch.authors or self._watch.forward_changed):
                changed()

        await self._watch.watch(news)

    async def dropping(self) -> frozenset[DroppingChain]:
        """Chains of others that drop what is forwarded unless told otherwise; what was known before if nft cannot tell."""
        self._watch.read()
        if self._watch.forward_changed:
            self._watch.forward_changed = False
            try:
                self._dropping = await self._look_for_dropping()
            except KernelError as error:
                log.warning("whether other tables drop pods' packets is not known: %s", error)
        return self._dropping

    async def _listed(self) -> dict[Item, Content]:
        for _ in range(LISTINGS):
            self._watch.authors.clear()
            self._watch.seen = self._watch.generation()
            listing = await nft("-s", "list", "table", FAMILY, TABLE, missing="")
            self._watch.read()
            if not self._watch.authors:
                return parse(listing)
        raise KernelError(f"list table {FAMILY} {TABLE}: others change it all the time")

    async def _look_for_dropping(self) -> frozenset[DroppingChain]:
        listed = json.loads(await nft("-j", "list", "chains"))["nftables"]
        chains = [entry["chain"] for entry in listed if "chain" in entry]
        names: set[str] = set()
        found: set[DroppingChain] = set()
        for chain in chains:
            if chain.get("hook") == "forward" and chain["family"] in VERSIONS and not _ours(chain):
                rules = await _rules(chain["family"], chain["table"], chain["name"])
                called = [match[1] for match in map(JUMP.search, rules) if match]
                names |= {chain["name"], *called}
                if chain.get("policy") == "drop" or (rules and FINAL.match(rules[-1])):
                    more = [await _rules(chain["family"], chain["table"], name) for name in called]
                    found.add(_dropping(chain, [*rules, *itertools.chain.from_iterable(more)]))
        self._watch.follow(names)
        return frozenset(found)


def _dropping(chain: Mapping[str, str], rules: Iterable[str]) -> DroppingChain:
    return DroppingChain(
        name=f"{chain['family']} {chain['table']} {chain['name']}",
        versions=VERSIONS[chain["family"]],
        accepted=frozenset(ip_network(n) for n in _accepted(rules)),
    )


async def _write(transactions: Iterable[str], *, instead: str) -> int:
    """How many transactions it took; `instead` is for what others have left in the way."""
    made = 0
    try:
        for text in transactions:
            await nft("-f", "-", text=text)
            made += 1
    except _RefusedError as refused:
        await nft("-f", "-", text=instead)
        log.warning("table %s %s was written as a whole: %s", FAMILY, TABLE, refused)
        made += 1
    return made


def _ours(chain: Mapping[str, str]) -> bool:
    return (chain["family"], chain["table"]) == (FAMILY, TABLE)


def _accepted(rules: Iterable[str]) -> Iterator[str]:
    for match in filter(None, map(ACCEPTED.search, rules)):
        try:
            yield str(ip_network(match[1]))
        except ValueError:
            continue  # a set, a range: not understood


async def _rules(family: str, table: str, chain: str) -> list[str]:
    """The lines of a chain but for its definition; empty if it has gone."""
    listing = await nft("-s", "list", "chain", family, table, chain, missing="")
    lines = [line.strip() for line in listing.splitlines()]
    return [line for line in lines if line and not line.endswith("{") and line != "}" and not line.startswith("type ")]


async def nft(*arguments: str, text: str = "", missing: str | None = None) -> str:
    """The standard output of nft; `missing` if it says that there is no such thing; KernelError otherwise."""
    what = " ".join(("nft", *arguments))
    ended = await run("nft", *arguments, text=text)
    if ended is None:
        raise KernelError("there is no nft; install the package nftables")
    if ended.status == 0:
        return ended.out
    if missing is not None and "No such file or directory" in ended.err:
        return missing
    if ended.status < 0:
        hint = "a newer nft may have written a table that this one cannot read; remove that table"
        raise KernelError(f"{what}: ended by {Signals(-ended.status).name}: {hint}")
    raise _RefusedError(f"{what}: {ended.err.partition(chr(10))[0] or f'status {ended.status}'}")
