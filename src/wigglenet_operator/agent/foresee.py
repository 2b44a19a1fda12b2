"""What would a turn change now?  A whole turn, of the same code, on tables that note down what they are to write."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from wigglenet_operator.agent.mesh import Mesh
from wigglenet_operator.agent.reconcile import Reconciler
from wigglenet_operator.agent.store import ClusterStore
from wigglenet_operator.errors import WigglenetError
from wigglenet_operator.kernel.at_work import agent_at_work
from wigglenet_operator.kernel.keys import KeyFileTable, generate
from wigglenet_operator.kernel.ports import KeyedTable
from wigglenet_operator.kube.access import ApiAccess
from wigglenet_operator.kube.census import list_node_bodies, list_service_ranges
from wigglenet_operator.kube.decode import decode_node
from wigglenet_operator.kube.library import ApiClient
from wigglenet_operator.kube.publish import AnnotationTable
from wigglenet_operator.model.changes import Changes
from wigglenet_operator.model.config import AgentConfig
from wigglenet_operator.model.facts import NodeFacts, NodeName, PublicKey
from wigglenet_operator.model.report import TurnReport
from wigglenet_operator.plan.desired import IDENTITY, PUBLIC_KEY, STATUS


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Foreseen:
    """A turn that has not been; without a repr, as `show.status.View`."""

    report: TurnReport
    changes: Mapping[str, Changes[Any, Any]]
    """What it would write, by table, in the order of writing; no table without a change."""
    bare: frozenset[str]
    """Tables that have nothing in them now."""
    names: Mapping[PublicKey, NodeName]
    new_key: PublicKey | None
    """Stands for the key that an agent would make at its start; None if there is one."""
    doubts: tuple[str, ...] = ()
    """Why a running agent may do less; a sentence each, may be empty."""


@dataclass(slots=True)
class _Noted:
    """A table that is read and never written: what should be written is noted down."""

    table: KeyedTable[Any, Any]
    changes: Changes[Any, Any] | None = None
    bare: bool = False

    async def observe(self) -> Mapping[Any, Any]:
        """What is there."""
        found = await self.table.observe()
        self.bare = not found
        return found

    async def apply(self, changes: Changes[Any, Any]) -> None:
        """Note it down."""
        self.changes = changes


async def foresee(config: AgentConfig, access: ApiAccess) -> Foreseen:
    """The next turn, of the agent at work or of one that starts now; nothing is written, made or removed.

    ApiError if the cluster cannot be seen, KernelError if the node cannot.
    """
    async with access.client() as api:
        store = await _cluster(api, config.node_name)
        published = partial(store.published, config.node_name)
        key, new = await _key(config, published().get(PUBLIC_KEY)) if config.tunnelled else (None, False)
        async with Mesh.watched(config, key) as mesh:
            annotated = IDENTITY | {STATUS} if config.firewall_only else IDENTITY
            annotations = AnnotationTable(api, config.node_name, names=annotated, published=published, answered=lambda _: None)
            noted = {name: _Noted(table) for name, table in {**mesh.tables(), "annotations": annotations}.items()}
            report = await Reconciler(store, config, noted, look=mesh.look).turn()
    snapshot = store.snapshot()
    changes = {name: changes for name in report.steps if (changes := noted[name].changes)}
    names = {node.public_key: node.name for node in (snapshot.nodes if snapshot else ()) if node.public_key}
    return Foreseen(
        report=report,
        changes=changes,
        bare=frozenset(name for name, table in noted.items() if table.bare),
        names=names,
        new_key=key if new else None,
        doubts=_doubts(changes.get("peers"), names, config) if agent_at_work(config.link) else (),
    )


def _doubts(peers: Changes[Any, Any] | None, names: Container[PublicKey], config: AgentConfig) -> tuple[str, ...]:
    """Only a running agent has the facts of a Node that was deleted a moment ago."""
    if peers is None or all(key in names for key in peers.remove):
        return ()
    seconds = config.timing.departed_node
    text = f"the agent keeps peer, routes and firewall elements of a Node for {seconds:g} s after the Node was deleted"
    return (f"{text}; run `diff` again after that time",)


async def _cluster(api: ApiClient, own: NodeName) -> ClusterStore:
    """All Nodes and ranges of Services."""
    store = ClusterStore(lambda: None)
    for body in await list_node_bodies(api):
        decoded = decode_node(body, own=own)
        if isinstance(decoded, NodeFacts):
            store.put(decoded)
    store.expect(())
    store.serve(await list_service_ranges(api) or frozenset())
    return store


async def _key(config: AgentConfig, published: str | None) -> tuple[PublicKey, bool]:
    """The key in force, and whether it stands for one that would be made."""
    path = Path(config.key_path)
    stored = (await KeyFileTable(path, None).observe()).get(str(path))
    async with Mesh.watched(config, None) as mesh:
        try:
            devices = await mesh.tables()["device"].observe()
        except WigglenetError:
            devices = {}
    held = next((device.public_key for device in devices.values()), None)
    words = (stored, PublicKey(published) if published else None, held)
    key = key_in_force(words, remembered=agent_at_work(config.link))
    return (key, False) if key else (generate().public, True)


def key_in_force(words: Sequence[PublicKey | None], *, remembered: bool) -> PublicKey | None:
    """Of file, annotation and device; an agent at work remembers its key, and puts the one back that lost it.

    None if there is none, so that a new one would be made.
    """
    said = [word for word in words if word]
    if remembered:
        return next((word for word in said if said.count(word) > 1), words[0])
    return words[0]
