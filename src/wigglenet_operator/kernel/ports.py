"""What every adapter offers: a table that can be read as it is and changed by a difference."""

from collections.abc import Awaitable, Hashable, Iterable, Mapping
from typing import Protocol, TypeVar

from wigglenet_operator.errors import KernelError
from wigglenet_operator.model.changes import Changes

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
TOLD = 5
"""Refusals that one error repeats."""


class KeyedTable(Protocol[K, V]):
    """One kind of state; ours is told from foreign state by what the kernel says, never by memory."""

    async def observe(self) -> Mapping[K, V]:
        """What of ours is there now; may be empty. KernelError if it cannot be read."""
        ...

    async def apply(self, changes: Changes[K, V]) -> None:
        """Write the changes, all that can be written; KernelError naming each that could not."""
        ...


async def attempt_all(writes: Iterable[Awaitable[object]]) -> None:
    """Await each, in order, whatever becomes of the others; KernelError naming those that failed, the first few in words."""
    refused: list[str] = []
    for write in writes:
        try:
            await write
        except KernelError as error:
            refused.append(str(error))
    if refused:
        more = f"; and {len(refused) - TOLD} more" if len(refused) > TOLD else ""
        raise KernelError("; ".join(refused[:TOLD]) + more)
