"""What every adapter offers: a table that can be read as it is and changed by a difference."""

from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from wigglenet_operator.errors import KernelError
from wigglenet_operator.model.changes import Changes
from wigglenet_operator.model.desired import Device, Endpoint, Peer
from wigglenet_operator.model.facts import IPNetwork, Offer, PublicKey

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
TOLD = 5
"""Refusals that one error repeats."""
PORT_TAKEN = "free the UDP port, or set another WIGGLENET_WG_PORT on every node"
"""What to do about EADDRINUSE."""


class KeyedTable(Protocol[K, V]):
    """One kind of state; ours is told from foreign state by what the kernel says, never by memory."""

    async def observe(self) -> Mapping[K, V]:
        """What of ours is there now; may be empty. KernelError if it cannot be read."""
        ...

    async def apply(self, changes: Changes[K, V]) -> None:
        """Write the changes, all that can be written; KernelError naming each that could not."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerOrder:
    """One thing to do to a peer; what is not said stays as it is."""

    key: PublicKey
    known: bool = False
    """Only if the peer is there already."""
    remove: bool = False
    endpoint: Endpoint | None = None
    """WireGuard cannot forget one."""
    keepalive: int | None = None
    unshare: bool = False
    """Forget a preshared key."""
    allow: Sequence[IPNetwork] = ()
    """Allowed IPs that it gets in addition; each is taken, in the same instant, from the peer that had it."""


class NetworkSource(Protocol):
    """Where pod networks are from, apart from the cluster."""

    def offer(self) -> Offer:
        """What it says now; never raises."""
        ...

    async def follow(self, changed: Callable[[], None]) -> None:
        """Call `changed` whenever that may be something else, for ever."""
        ...


class WireGuard(Protocol):
    """A WireGuard device, whoever implements it; MissingLink where there is none, KernelError for all that is refused."""

    async def read_device(self) -> Device:
        """Key, port and mark."""
        ...

    async def read_peers(self) -> dict[PublicKey, Peer]:
        """The peers at one instant; may be empty."""
        ...

    async def write_device(self, device: Device, private_key: bytes) -> None:
        """Give it key, port and mark."""
        ...

    async def write_peers(self, orders: Sequence[PeerOrder]) -> None:
        """Carry out the orders in turn, up to the first that is refused."""
        ...

    async def forget_peers(self) -> None:
        """Remove every peer."""
        ...


async def attempt_all(writes: Iterable[Awaitable[object]]) -> None:
    """Await each, in order, whatever becomes of the others; KernelError naming those that failed, the first few in words."""
    refused: list[str] = []
    for write in writes:
        try:
            await write
        except KernelError as error:
            refused.append(str(error))
    raise_refused(refused)


def raise_refused(reasons: Iterable[str]) -> None:
    """KernelError with the first few reasons in words and the number of the others; nothing without a reason."""
    refused = [*reasons]
    if refused:
        more = f"; and {len(refused) - TOLD} more" if len(refused) > TOLD else ""
        raise KernelError("; ".join(refused[:TOLD]) + more)
