"""The kernel's tables in memory, counting writes; run by the same contract suite as the real ones (`tests/contract`)."""

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import replace
from typing import Generic, TypeVar

from wigglenet_operator.errors import KernelError
from wigglenet_operator.model.changes import Changes, patched
from wigglenet_operator.model.desired import Peer
from wigglenet_operator.model.facts import PublicKey

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class FakeTable(Generic[K, V]):
    """A table that holds what it is told; `broken` makes every call fail with that reason, `broken_writes` only writes.

    `point` is called wherever a process could be killed: before and after each call, and between any two writes.
    """

    def __init__(self, content: Mapping[K, V] | None = None) -> None:
        self.content: dict[K, V] = dict(content or {})
        self.writes = 0
        self.broken = self.broken_writes = ""
        self.point: Callable[[], None] = lambda: None
        self._last: dict[K, V] = {}

    async def observe(self) -> Mapping[K, V]:
        """The content; the same object if it is as in the last listing, as of the kernel's routes."""
        self._fail(self.broken)
        self.point()
        if self._last != self.content:
            self._last = dict(self.content)
        return self._last

    async def apply(self, changes: Changes[K, V]) -> None:
        self._fail(self.broken or self.broken_writes)
        self.writes += 1
        for one in _singly(changes):
            self.point()
            self.write(one)
        self.point()

    def write(self, changes: Changes[K, V]) -> None:
        """One write of the kernel's."""
        self.content = dict(patched(self.content, changes))

    @staticmethod
    def _fail(reason: str) -> None:
        if reason:
            raise KernelError(reason)


def _singly(changes: Changes[K, V]) -> Iterator[Changes[K, V]]:
    """The same, one key at a time."""
    nothing: dict[K, V] = {}
    for key, value in changes.add.items():
        yield Changes(add={key: value}, change=nothing, was=nothing, remove=nothing)
    for key, value in changes.change.items():
        yield Changes(add=nothing, change={key: value}, was={key: changes.was[key]}, remove=nothing)
    for key, value in changes.remove.items():
        yield Changes(add=nothing, change=nothing, was=nothing, remove={key: value})


class FakePeers(FakeTable[PublicKey, Peer]):
    """Cryptokey routing as WireGuard does it: an allowed IP given to one peer is taken from every other."""

    def write(self, changes: Changes[PublicKey, Peer]) -> None:
        super().write(changes)
        for key, peer in changes.put.items():
            for other, held in self.content.items():
                if other != key and other not in changes.put:
                    self.content[other] = replace(held, allowed_ips=held.allowed_ips - peer.allowed_ips)
