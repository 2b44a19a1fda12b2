"""The kernel's tables in memory, counting writes; run by the same contract suite as the real ones (`tests/contract`)."""

from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import Generic, TypeVar

from wigglenet_operator.errors import KernelError
from wigglenet_operator.model.changes import Changes, patched
from wigglenet_operator.model.desired import Peer
from wigglenet_operator.model.facts import PublicKey

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class FakeTable(Generic[K, V]):
    """A table that holds what it is told; `broken` makes every call fail with that reason."""

    def __init__(self, content: Mapping[K, V] | None = None) -> None:
        self.content: dict[K, V] = dict(content or {})
        self.writes = 0
        self.broken = ""

    async def observe(self) -> Mapping[K, V]:
        self._fail()
        return dict(self.content)

    async def apply(self, changes: Changes[K, V]) -> None:
        self._fail()
        self.writes += 1
        self.content = patched(self.content, changes)

    def _fail(self) -> None:
        if self.broken:
            raise KernelError(self.broken)


class FakePeers(FakeTable[PublicKey, Peer]):
    """Cryptokey routing as WireGuard does it: an allowed IP given to one peer is taken from every other."""

    async def apply(self, changes: Changes[PublicKey, Peer]) -> None:
        await super().apply(changes)
        for key, peer in changes.put.items():
            for other, held in self.content.items():
                if other != key and other not in changes.put:
                    self.content[other] = replace(held, allowed_ips=held.allowed_ips - peer.allowed_ips)
