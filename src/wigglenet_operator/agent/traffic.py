"""What each peer has carried, and how long new peers took to shake hands; it only grows, whatever becomes of the peer.

The kernel's counters begin anew when somebody removes a peer, or the link, and the agent writes it again.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from wigglenet_operator.model.desired import Peer
from wigglenet_operator.model.facts import NodeName, PublicKey

GONE_SECONDS = 3600.0
"""How long it is remembered what a peer that is gone has carried: one that comes back later counts from 0."""


@dataclass(slots=True)
class Account:
    """One peer's, in bytes."""

    peer: Peer
    """As it was last seen."""
    received_before: int = 0
    """Until its counters last began anew."""
    sent_before: int = 0
    gone: float | None = None
    """Since when it is not there."""

    @property
    def received(self) -> int:
        """In all."""
        return self.received_before + self.peer.received

    @property
    def sent(self) -> int:
        """In all."""
        return self.sent_before + self.peer.sent

    def follow(self, peer: Peer) -> None:
        """It is there."""
        if peer.received < self.peer.received or peer.sent < self.peer.sent:
            self.received_before, self.sent_before = self.received, self.sent
        self.peer, self.gone = peer, None

    def leave(self, now: float) -> None:
        """It is not there."""
        self.received_before, self.sent_before = self.received, self.sent
        self.peer, self.gone = replace(self.peer, received=0, sent=0, handshake=0), now


class Traffic:
    """The accounts of all peers, from what is read of them turn by turn; times are Unix seconds."""

    def __init__(self) -> None:
        self._accounts: dict[PublicKey, Account] = {}
        self._joining: dict[PublicKey, float] = {}
        self._names: Mapping[PublicKey, NodeName] = {}

    def enter(
        self, there: Mapping[PublicKey, Peer], names: Mapping[PublicKey, NodeName], *, began: float, now: float
    ) -> list[float]:
        """A turn that began at a time has found these peers, and wants those with a name.

        Seconds from when it was first wanted to its first handshake, for each peer that has just had that.
        """
        accounts, self._names = self._accounts, names
        for key, peer in there.items():
            if key in accounts:
                accounts[key].follow(peer)
            else:
                accounts[key] = Account(peer)
        for key in [*(accounts.keys() - there.keys())]:
            gone = accounts[key].gone
            if gone is None:
                accounts[key].leave(now)
            elif now - gone > GONE_SECONDS:
                del accounts[key]
        for key in names.keys() - accounts.keys():
            self._joining.setdefault(key, began)
        return [*self._met(there, names, now)]

    def accounts(self) -> Iterator[tuple[PublicKey, NodeName, Account]]:
        """Of each peer that is wanted and has been there."""
        for key, name in self._names.items():
            if account := self._accounts.get(key):
                yield key, name, account

    def _met(self, there: Mapping[PublicKey, Peer], names: Collection[PublicKey], now: float) -> Iterator[float]:
        for key, joined in [*self._joining.items()]:
            peer = there.get(key)
            if peer and peer.handshake:  # told in whole seconds: it was later by up to one
                yield max(min(peer.handshake + 1.0, now) - joined, 0.0)
            if key not in names or (peer and peer.handshake):
                del self._joining[key]
