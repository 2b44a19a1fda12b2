"""The rules of Wigglenet's iptables back-end, recognised by their chains' names at the start, and removed.

By the programs that made them, for what the legacy ones write nftables does not show.  Source: iptables-save(8),
iptables-restore(8).
"""

import logging
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from wigglenet_operator.errors import KernelError
from wigglenet_operator.kernel.program import run
from wigglenet_operator.model.changes import Changes

log = logging.getLogger(__name__)
CHAINS = frozenset(f"WIGGLENET-{name}" for name in ("FIREWALL", "NETPOL", "NETPOL-EGR", "NETPOL-ING", "MASQ"))
TABLES = ("filter", "nat")
LEGACY = {"iptables-legacy": Path("/proc/net/ip_tables_names"), "ip6tables-legacy": Path("/proc/net/ip6_tables_names")}
"""The tables that are there: looking at one that is not would make it."""
PROGRAMS = ("iptables-nft", "ip6tables-nft", *LEGACY)


class LeftoverTable:
    """What to tell iptables-restore, by `program table`; a program that is not installed has left nothing."""

    def __init__(self) -> None:
        self._found: dict[str, str] | None = None

    async def observe(self) -> Mapping[str, str]:
        """Found at the start, until they are removed."""
        if self._found is None:
            places = [(program, table) for program in PROGRAMS for table in _tables(program)]
            saved = {f"{program} {table}": await _saved(program, table) for program, table in places}
            removals = {place: "\n".join(_removal(text.splitlines())) for place, text in saved.items()}
            self._found = {place: text for place, text in removals.items() if text}
        return dict(self._found)

    async def apply(self, changes: Changes[str, str]) -> None:
        """Remove those; each table in one step."""
        for place, text in changes.remove.items():
            program, table = place.split()
            await _run(f"{program}-restore", "--noflush", text=f"*{table}\n{text}\nCOMMIT\n")
        self._found = None


def _tables(program: str) -> tuple[str, ...]:
    if program not in LEGACY:
        return TABLES
    with suppress(OSError):
        there = LEGACY[program].read_text().split()
        return tuple(table for table in TABLES if table in there)
    return ()


def _removal(saved: list[str]) -> Iterator[str]:
    """The jumps of others to our chains, then the chains; nothing without one."""
    chains = [line[1:].split()[0] for line in saved if line.startswith(":") and line[1:].split()[0] in CHAINS]
    for line in saved:
        if line.startswith("-A") and any(chain in line for chain in chains):
            words = _words(line)
            if words[1] not in chains and {*chains}.intersection(_targets(words)):
                yield f"-D{line[2:]}"
    yield from (f"-F {chain}" for chain in chains)
    yield from (f"-X {chain}" for chain in chains)


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:  # a comment of several lines: nothing of ours has one
        return ["-A", ""]


def _targets(words: Sequence[str]) -> Iterator[str]:
    """The chain that a rule calls, if any."""
    return (target for option, target in pairwise(words) if option in {"-j", "-g"})


async def _saved(program: str, table: str) -> str:
    """Its rules; empty, and told, if it cannot say."""
    try:
        return await _run(f"{program}-save", "-t", table)
    except KernelError as error:
        log.warning("rules of Wigglenet in the table %s of %s are not looked for: %s", table, program, error)
        return ""


async def _run(*command: str, text: str = "") -> str:
    """Its standard output; empty if it is not installed."""
    ended = await run(*command, text=text)
    if ended and ended.status:
        raise KernelError(f"{' '.join(command)}: {ended.err}; remove the chains WIGGLENET-* by hand")
    return ended.out if ended else ""
