"""What has been recorded of the cluster; decides nothing, but knows whether everything has been seen once."""

from collections.abc import Callable, Iterable

from wigglenet_operator.model.facts import ClusterState, NodeFacts, NodeName, NodeUID


class ClusterStore:
    """Facts by UID, never by name: events of a Node and of its successor of the same name come in any order."""

    def __init__(self, changed: Callable[[], None]) -> None:
        """`changed` is called after every change that a plan could see."""
        self._changed = changed
        self._nodes: dict[NodeUID, NodeFacts] = {}
        self._awaited: set[NodeUID] | None = None

    @property
    def complete(self) -> bool:
        """Whether every Node of the first census has been recorded; then it stays true."""
        return self._awaited is not None and not self._awaited

    def put(self, facts: NodeFacts) -> None:
        """Record a Node as it is now; the same facts again change nothing."""
        was_complete, before = self.complete, self._nodes.get(facts.uid)
        self._nodes[facts.uid] = facts
        if self._awaited:
            self._awaited.discard(facts.uid)
        if before != facts or self.complete != was_complete:
            self._changed()

    def knows(self, uid: NodeUID) -> bool:
        """Whether a Node has been recorded and not been dropped."""
        return uid in self._nodes

    def drop(self, uid: NodeUID) -> None:
        """Forget a Node; one that is not known is fine."""
        was_complete, before = self.complete, self._nodes.pop(uid, None)
        if self._awaited:
            self._awaited.discard(uid)
        if before is not None or self.complete != was_complete:
            self._changed()

    def expect(self, uids: Iterable[NodeUID]) -> None:
        """What a census found: complete from when all of it has been recorded. Later calls are for a census that aged."""
        if not self.complete:
            self._awaited = set(uids) - self._nodes.keys()
            if self.complete:
                self._changed()

    def snapshot(self) -> ClusterState | None:
        """One immutable view; None before the first complete listing: not yet seen is not deleted."""
        return ClusterState(nodes=frozenset(self._nodes.values())) if self.complete else None

    def published(self, name: NodeName) -> dict[str, str]:
        """The `wigglenet/` annotations of the youngest Node of that name; empty without one."""
        named = (n for n in self._nodes.values() if n.name == name)
        youngest = max(named, key=lambda n: (n.created, n.uid), default=None)
        return dict(youngest.annotations) if youngest else {}
