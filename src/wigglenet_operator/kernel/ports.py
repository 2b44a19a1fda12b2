"""What every adapter offers: a table that can be read as it is and changed by a difference."""

from collections.abc import Hashable, Mapping
from typing import Protocol, TypeVar

from wigglenet_operator.model.changes import Changes

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class KeyedTable(Protocol[K, V]):
    """One kind of state; ours is told from foreign state by what the kernel says, never by memory."""

    async def observe(self) -> Mapping[K, V]:
        """What of ours is there now; may be empty. KernelError if it cannot be read."""
        ...

    async def apply(self, changes: Changes[K, V]) -> None:
        """Write the changes, all that can be written; KernelError naming each that could not."""
        ...
