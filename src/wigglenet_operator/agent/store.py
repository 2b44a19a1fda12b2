"""What has been recorded of the cluster; decides nothing, but knows whether everything has been seen once."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from wigglenet_operator.model.facts import ClusterState, IPNetwork, NodeFacts, NodeName, NodeUID, Version
from wigglenet_operator.model.timing import PRODUCTION, Timing


class ClusterStore:
    """Facts by UID, never by name: events of a Node and of its successor of the same name come in any order."""

    def __init__(
        self, changed: Callable[[], None], *, clock: Callable[[], float] = time.monotonic, timing: Timing = PRODUCTION
    ) -> None:
        """`changed` is called after every change that a plan could see."""
        self._changed, self._clock, self._timing = changed, clock, timing
        self._nodes: dict[NodeUID, NodeFacts] = {}
        self._versions: dict[NodeUID, Version] = {}
        self._said: dict[NodeName, tuple[float, NodeFacts]] = {}
        self._answered: dict[NodeUID, tuple[float, Version]] = {}
        """Until when the answer to a write of our own leads, and its version."""
        self._awaited: set[NodeUID] | None = None
        self._services: frozenset[IPNetwork] = frozenset()
        self._view: ClusterState | None = None
        """The last snapshot, until something that it has changes."""
        self._own: dict[NodeName, NodeFacts | None] = {}
        """Answers of `own`, likewise."""

    @property
    def complete(self) -> bool:
        """Whether every Node of the first census has been recorded; then it stays true."""
        return self._awaited is not None and not self._awaited

    def answer(self, facts: NodeFacts, version: Version) -> None:
        """Record the answer to a write of our own: for a while, events of before may still be on their way."""
        self._answered[facts.uid] = self._clock() + self._timing.answer_leads, version
        self._record(facts, version)

    def put(self, facts: NodeFacts, version: Version = Version("")) -> None:  # noqa: B008 - a string by another name
        """Record a Node as it is now; the same facts again change nothing.

        An event that is older than an answer of a moment ago changes nothing either.
        """
        until, answered = self._answered.get(facts.uid, (0.0, version))
        if self._clock() < until and version != answered and _older(version, answered):
            return
        self._answered.pop(facts.uid, None)
        self._record(facts, version)

    def _record(self, facts: NodeFacts, version: Version) -> None:
        was_complete, before = self.complete, self._nodes.get(facts.uid)
        self._versions[facts.uid] = version
        if before != facts:
            self._nodes[facts.uid] = facts
        if before is not None and _silenced(before, facts):
            self._remember(before)
        elif (kept := self._said.get(facts.name)) and kept[1].uid == facts.uid and not _silenced(kept[1], facts):
            del self._said[facts.name]
        if self._awaited:
            self._awaited.discard(facts.uid)
        if before != facts or self.complete != was_complete:
            self._notify()

    def count(self) -> int:
        """How many have been recorded and not been dropped."""
        return len(self._nodes)

    def knows(self, uid: NodeUID) -> bool:
        """Whether a Node has been recorded and not been dropped."""
        return uid in self._nodes

    def drop(self, uid: NodeUID) -> None:
        """A Node is gone, and what its agent said is told for a while longer; one that is not known is fine."""
        was_complete, before = self.complete, self._nodes.pop(uid, None)
        self._versions.pop(uid, None)
        self._answered.pop(uid, None)
        if before is not None:
            self._remember(before)
        if self._awaited:
            self._awaited.discard(uid)
        if before is not None or self.complete != was_complete:
            self._notify()

    def pass_over(self, uid: NodeUID, version: Version) -> None:
        """Record that this version of a Node has come, and cannot be read: no other watch would tell more."""
        self.drop(uid)
        self._versions[uid] = version

    def touch(self, uid: NodeUID, version: Version) -> bool:
        """Record that a Node is as before in this version; whether it is known, for nothing is recorded of another one."""
        if known := uid in self._versions:
            self._versions[uid] = version
        return known

    def expect(self, uids: Iterable[NodeUID]) -> None:
        """What a census found: complete from when all of it has been recorded. Later calls change nothing."""
        if not self.complete:
            self._awaited = set(uids) - self._nodes.keys()
            if self.complete:
                self._notify()

    def serve(self, services: frozenset[IPNetwork]) -> None:
        """Record the ranges of Services."""
        if services != self._services:
            self._services = services
            self._notify()

    def missing(self, listed: Mapping[NodeUID, Version]) -> dict[NodeUID, NodeName]:
        """What has been recorded and a census lacks."""
        return {uid: facts.name for uid, facts in self._nodes.items() if uid not in listed}

    def behind(self, listed: Mapping[NodeUID, Version]) -> frozenset[tuple[NodeUID, Version]]:
        """What a census found and was not recorded, or in another version; it may be on its way."""
        return frozenset(item for item in listed.items() if self._versions.get(item[0]) != item[1])

    def snapshot(self) -> ClusterState | None:
        """One immutable view; None before the first complete listing: not yet seen is not deleted.

        The same object as before if nothing changed.
        """
        if not self.complete:
            return None
        now = self._clock()
        if over := [name for name, said in self._said.items() if now - said[0] >= self._timing.departed_node]:
            for name in over:
                del self._said[name]
            self._view = None
        if self._view is None:
            departed = (replace(facts, departed=True) for _, facts in self._said.values())
            self._view = ClusterState(nodes=(*self._nodes.values(), *departed), services=self._services)
        return self._view

    def _remember(self, before: NodeFacts) -> None:
        """What an agent said before it, or its word, was gone; of what goes in parts the first."""
        kept = self._said.get(before.name)
        if before.public_key is not None and (kept is None or kept[1].uid != before.uid):
            self._said[before.name] = (self._clock(), before)

    def _notify(self) -> None:
        """A plan could see a change: the next snapshot is another one."""
        self._view = None
        self._own.clear()
        self._changed()

    def own(self, name: NodeName) -> NodeFacts | None:
        """The youngest Node of that name; None without one."""
        if name not in self._own:
            named = (n for n in self._nodes.values() if n.name == name)
            self._own[name] = max(named, key=lambda n: (n.created, n.uid), default=None)
        return self._own[name]

    def published(self, name: NodeName) -> dict[str, str]:
        """The `wigglenet/` annotations of the youngest Node of that name; empty without one."""
        youngest = self.own(name)
        return dict(youngest.annotations) if youngest else {}


def _older(version: Version, than: Version) -> bool:
    """Versions are numbers that grow, but for a server whose storage was restored (Kubernetes, KEP-5504)."""
    return version.isdecimal() and than.isdecimal() and int(version) < int(than)


def _silenced(before: NodeFacts, now: NodeFacts) -> bool:
    """Whether an agent's word has gone, or a part of it that no agent takes back."""
    return bool(before.public_key and not now.public_key) or bool(before.pod_cidrs and not now.pod_cidrs)
