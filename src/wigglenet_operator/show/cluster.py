"""The nodes of a cluster as their agents have told it, on their Nodes: what there is to see from anywhere."""

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from wigglenet_operator.plan.desired import POD_CIDRS, STATUS
from wigglenet_operator.show.page import EMPTY, Block, Cell, Grid, Line, Mood, Page, Row
from wigglenet_operator.show.told import READY, Status, problem_blocks, read_status

PHASES = {READY: Mood.GOOD, "Degraded": Mood.BAD, "Waiting": Mood.DOUBTFUL}
HEADS = ("NODE", "PHASE", "VERSION", "WIREGUARD", "MTU", "PEERS", "PROBLEMS", "POD NETWORKS")
LAST = "This is what agents said last: one that has ended says nothing any more. `status` on a node sees for itself."


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """One Node."""

    name: str
    status: Status | None
    """None if no agent has ever told one there."""
    networks: tuple[str, ...]


def view(node: Mapping[str, Any]) -> NodeView:
    """Of a Node object, its metadata suffices."""
    notes = node["metadata"].get("annotations") or {}
    return NodeView(
        name=str(node["metadata"].get("name")),
        status=read_status(notes[STATUS]) if STATUS in notes else None,
        networks=tuple(_networks(notes.get(POD_CIDRS, ""))),
    )


def _networks(text: str) -> Iterator[str]:
    try:
        listed = json.loads(text)
    except (ValueError, RecursionError):
        return
    yield from map(str, listed if isinstance(listed, list) else ())


def well(nodes: Iterable[NodeView]) -> bool:
    """Whether every agent says so of its node, and every node has one."""
    phases = [node.status and node.status.phase for node in nodes]
    return bool(phases) and all(phase == READY for phase in phases)


def cluster_faults(nodes: Iterable[NodeView]) -> list[str]:
    """What no agent alone can see; empty as a rule."""
    found = [*nodes]
    if not found:
        return ["there is no Node"]
    versions = Counter(node.status.version for node in found if node.status)
    texts = []
    if silent := [node.name for node in found if not node.status]:
        text = f"{len(silent)} of {len(found)} nodes have no status: no agent has started there, or one with FIREWALL_ONLY"
        texts.append(text)
    if len(versions) > 1:
        counted = ", ".join(f"{version or 'unknown'} on {count}" for version, count in sorted(versions.items()))
        texts.append(f"agents are of different versions ({counted}): an upgrade is under way, or does not get on")
    return texts


def cluster_page(nodes: Iterable[NodeView]) -> Page:
    """For people."""
    found = sorted(nodes, key=lambda node: node.name)
    return [*_blocks(found)]


def _blocks(found: list[NodeView]) -> Iterator[Block]:
    if found:
        yield Grid(heads=HEADS, rows=[_row(node) for node in found])
    yield EMPTY
    yield from (Line(cells=[Cell("note ", Mood.DOUBTFUL), Cell(text)]) for text in cluster_faults(found))
    yield Line(cells=[Cell(LAST, Mood.DULL)])
    yield from problem_blocks({node.name: node.status for node in found if node.status}, now=time.time())


def _row(node: NodeView) -> Row:
    status = node.status
    if status is None:
        return [Cell(node.name), Cell("no agent", Mood.BAD), *[Cell("-")] * 5, Cell(" ".join(node.networks) or "-")]
    count = len(status.problems) + status.more
    peers = "-" if status.peers is None else f"{status.handshaken}/{status.peers}"
    met = status.handshaken == status.peers
    return [
        Cell(node.name),
        Cell(status.phase, PHASES.get(status.phase, Mood.DOUBTFUL)),
        *(Cell(str(value or "-")) for value in (status.version, status.wireguard, status.mtu)),
        Cell(peers, Mood.PLAIN if met else Mood.DOUBTFUL),
        Cell(str(count), Mood.BAD if count else Mood.PLAIN),
        Cell(" ".join(node.networks) or "none"),
    ]


def cluster_json(nodes: Iterable[NodeView]) -> dict[str, object]:
    """For scripts; docs/status.md describes it."""
    found = sorted(nodes, key=lambda node: node.name)
    return {"well": well(found), "notes": cluster_faults(found), "nodes": [_node_json(node) for node in found]}


def _node_json(node: NodeView) -> dict[str, object]:
    status = node.status or Status()
    return {
        "node": node.name,
        "agent": node.status is not None,
        "phase": status.phase or None,
        "version": status.version or None,
        "wireguard": status.wireguard or None,
        "mtu": status.mtu,
        "peers": status.peers,
        "handshaken": status.handshaken,
        "podNetworks": list(node.networks),
        "problems": [problem.as_json() for problem in status.problems],
        "moreProblems": status.more,
    }
