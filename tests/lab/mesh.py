"""What is asked of pods wherever they run: who reaches whom, and whether anything is lost meanwhile.

One code for the lab's namespaces and for the pods of a real cluster.
"""

import re
from abc import ABC, abstractmethod
from bisect import bisect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import permutations
from typing import Generic, Protocol, TypeVar

from tests.lab.wait import NotSeenError, eventually
from wigglenet_operator.model.facts import IPAddress

LINE = re.compile(r"(?:\[([\d.]+)\] )?(no answer yet for|\d+ bytes from .*) ?icmp_seq=(\d+)(?:.* time=([\d.]+) ms)?")
"""When (`ping -D`, Unix seconds) what happened to which echo, and how long an answer took in milliseconds."""
IN_FLIGHT = 100
"""Echoes that may be unanswered at the end, a second's: a busy machine answers late, and that is no loss."""


class Echoes(Protocol):
    """A running ping."""

    @property
    def title(self) -> str:
        """Who pings whom."""
        ...

    def stop(self) -> tuple[int, list[int]]:
        """End it; how many echoes were sent, and the numbers, from 1 on, of those that were lost."""
        ...


class Reaches(Protocol):
    """A pod with its addresses by IP version."""

    @property
    def name(self) -> str:
        """For a failure's report."""
        ...

    @property
    def addresses(self) -> Mapping[int, IPAddress]:
        """By IP version."""
        ...

    def pings(self, address: IPAddress, *, seconds: float = 1) -> bool:
        """Whether one echo is answered in time."""
        ...

    def stream(self, address: IPAddress) -> Echoes:
        """Echo requests every 20 ms until it is stopped."""
        ...


P = TypeVar("P", bound=Reaches)


class Mesh(ABC, Generic[P]):
    """Pods that should reach each other."""

    @abstractmethod
    def pods(self) -> Sequence[P]:
        """A connected pod of each node."""

    @abstractmethod
    def story(self) -> str:
        """What every agent has said, for a failure's report."""

    def pairs(self) -> Iterator[tuple[P, P, int]]:
        """Every pod to every other, in every family that both have."""
        for one, other in permutations(self.pods(), 2):
            for version in sorted(one.addresses.keys() & other.addresses.keys()):
                yield one, other, version

    def expect_mesh(self, *, seconds: float = 20.0) -> None:
        """Every pod reaches every other in both families, soon."""
        for one, other, version in self.pairs():
            reached = partial(one.pings, other.addresses[version], seconds=0.2)
            try:
                eventually(reached, what=f"{one.name} reaches {other.addresses[version]}", seconds=seconds)
            except NotSeenError as error:
                raise NotSeenError(f"{error}\n{self.story()}") from None

    @contextmanager
    def no_loss(self, pairs: Sequence[tuple[P, P, int]] | None = None) -> Iterator[None]:
        """Echoes every 20 ms over each pair while the block runs; none may be lost."""
        asked = pairs or list(self.pairs())
        streams = [one.stream(other.addresses[version]) for one, other, version in asked]
        try:
            yield
        finally:
            results = [(stream.title, *stream.stop()) for stream in streams]
        quiet = [title for title, sent, _ in results if not sent]
        lost = [f"{title}: {len(numbers)} of {sent}: {numbers[:20]}" for title, sent, numbers in results if numbers]
        assert not quiet, f"nothing was sent: {quiet}"
        lost += [
            f"{one.name} -> {other.name}: at the end"
            for one, other, version in asked
            if not one.pings(other.addresses[version])
        ]
        assert not lost, f"lost: {', '.join(lost)}\n{self.story()}"


def count_echoes(said: str, *, title: str) -> tuple[int, list[int]]:
    """Of a ping that was interrupted: how many echoes were sent, and the numbers of those that were lost.

    The last ones may still be on their way when ping is told to stop: they do not count.
    """
    sent, answered = _sent(said, title), answers(said)
    counted = max(sent - IN_FLIGHT, *answered, 0)
    return counted, [number for number in range(1, counted + 1) if number not in answered]


def when_lost(said: str, *, title: str, began: float, ended: float) -> list[float]:
    """Of a `ping -D` that ran so long (Unix seconds): when each echo that `count_echoes` calls lost was sent.

    Of a lost one ping says, with `-O`, when it sent the next, and else it keeps its pace.
    """
    sent, answered = _sent(said, title), answers(said)
    unanswered = {number + 1: at for number, at, took in _lines(said) if took is None}
    known = sorted(({0: began, sent + 1: ended} | unanswered | answered).items())
    _, lost = count_echoes(said, title=title)
    return [_between(known, number) for number in lost]


def answers(said: str) -> dict[int, float]:
    """When each answered echo was sent, by its number from 1 on; Unix seconds if ping said when answers came (-D)."""
    return {number: at - took for number, at, took in _lines(said) if took is not None}


def _lines(said: str) -> Iterator[tuple[int, float, float | None]]:
    """The number of an echo, when ping said something of it, and how many seconds its answer took, None without one."""
    last = 0
    for at, what, number, took in LINE.findall(said):
        last += (int(number) - last + 0x8000) % 0x10000 - 0x8000  # ping counts to 65535 and then again from 0
        yield last, float(at or 0), None if what.startswith("no") else float(took or 0) / 1000


def _sent(said: str, title: str) -> int:
    match = re.search(r"(\d+) packets transmitted", said)
    assert match, f"{title}: ping said {said[-500:]!r}"
    return int(match.group(1))


def _between(known: Sequence[tuple[int, float]], number: int) -> float:
    at = bisect(known, (number, 0.0))
    (before, then), (after, later) = known[at - 1], known[at]
    return then + (later - then) * (number - before) / (after - before)
