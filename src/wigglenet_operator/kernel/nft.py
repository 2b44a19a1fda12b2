"""The table `inet wigglenet`: read back when somebody else has changed it, written by the differences.

A listing of a large table takes 0.2 s and kube-proxy changes its own tables all the time, so what is there is remembered for
as long as the kernel's count of transactions, and its word on which of them touched our table, say that it is still so.
"""

import logging
from collections.abc import Callable, Iterable
from signal import Signals

from wigglenet_operator.errors import KernelError
from wigglenet_operator.kernel.nft_text import parse, render_changes, render_replacement
from wigglenet_operator.kernel.nft_watch import Author, NftWatch
from wigglenet_operator.kernel.program import run
from wigglenet_operator.model.changes import Changes, patched
from wigglenet_operator.model.ruleset import FAMILY, TABLE, Content, Item, Ruleset, in_parts

log = logging.getLogger(__name__)
LISTINGS = 5
"""In a row, each disturbed by a change of our table, until the turn gives up."""


class _RefusedError(KernelError):
    """Nft, or the kernel for it, said no."""


class NftTable:
    """The table as a KeyedTable."""

    def __init__(self, watch: NftWatch) -> None:
        self._watch = watch
        self._actual: Ruleset | None = None
        """None: it must be listed."""
        self._writing = False
        self._changed: Callable[[], None] = lambda: None

    async def observe(self) -> Ruleset:
        """What is in the table; KernelError if nft cannot tell."""
        self._watch.read()
        known = self._actual
        if known is None or self._watch.authors or self._watch.seen != self._watch.generation():
            self._actual, authors = await self._listed()
            if known is not None and known != self._actual:
                by = ", ".join(dict.fromkeys(f"process {author.name}, pid {author.pid}" for author in authors)) or "unknown"
                log.warning("table %s %s was changed by somebody else: %s; it is put back", FAMILY, TABLE, by)
        assert self._actual is not None  # noqa: S101 - it was listed
        return self._actual

    async def apply(self, changes: Changes[Item, Content]) -> None:
        """Change it so that no packet sees a part, or if nft refuses that, as a whole; KernelError in the words of nft."""
        known = self._actual
        actual = await self.observe()
        if known is not None and actual != known:
            raise KernelError(f"table {FAMILY} {TABLE} has just been changed by somebody else; it is looked at anew")
        wanted = patched(actual, changes)
        self._writing, self._actual = True, None
        try:
            made = await self._write(render_changes(actual, changes))
            self._actual = wanted
        except _RefusedError as refused:  # by what others have left in the way
            await nft("-f", "-", text=render_replacement(wanted))
            log.warning("table %s %s was written as a whole: %s", FAMILY, TABLE, refused)
            return
        finally:
            self._writing = False
        self._watch.read()
        if len(self._watch.authors) == made:
            self._watch.authors.clear()
        else:  # another's among them
            self._changed()

    async def watch(self, changed: Callable[[], None]) -> None:
        """Call `changed` when others have changed our table, or a chain that forwarded packets go through, for ever."""
        self._changed = changed

        def news() -> None:
            if not self._writing and (self._watch.authors or self._watch.forward_changed):
                changed()

        await self._watch.watch(news)

    async def _listed(self) -> tuple[Ruleset, list[Author]]:
        """What is in the table, and who has changed it since the last listing, also while this one was made."""
        authors: list[Author] = []
        for _ in range(LISTINGS):
            authors += self._watch.authors
            self._watch.authors.clear()
            self._watch.seen = self._watch.generation()
            listing = await nft("-s", "list", "table", FAMILY, TABLE, missing="")
            self._watch.read()
            if not self._watch.authors:
                return in_parts(parse(listing)), authors
        raise KernelError(f"list table {FAMILY} {TABLE}: others change it all the time")

    @staticmethod
    async def _write(transactions: Iterable[str]) -> int:
        """How many there were."""
        made = 0
        for text in transactions:
            await nft("-f", "-", text=text)
            made += 1
        return made


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
