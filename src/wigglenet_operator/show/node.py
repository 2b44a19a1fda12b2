"""One look at a node, told: is it well, what is wrong, and all that there is to see."""

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from ipaddress import ip_network
from operator import itemgetter

from wigglenet_operator.model.desired import Peer
from wigglenet_operator.model.facts import IPNetwork, PublicKey
from wigglenet_operator.model.ruleset import FAMILY, TABLE
from wigglenet_operator.show.look import Look
from wigglenet_operator.show.page import EMPTY, Block, Cell, Grid, Line, Mood, Page, Row, age, size
from wigglenet_operator.show.told import READY, problem_blocks, since

NAMED = 5
"""Things that one line names before it counts the others."""
REKEY_SECONDS = 180
"""A session ends so long after its handshake (WireGuard's REJECT_AFTER_TIME): who has sent nothing since has none."""


def faults(look: Look) -> list[str]:
    """What this node lacks, seen in the kernel and whoever else says what; empty where all is there."""
    config, found = look.config, []
    if not look.at_work:
        found.append("no agent is at work: nothing follows the cluster or is repaired; look at its pod and log")
    elif look.ready is None:
        found.append("the agent does not answer: it may hang; look at its log, restart its pod")
    elif not look.ready:
        found += [f"not ready: {reason}" for reason in look.reasons] or ["the agent is not ready"]
    if config.tunnelled:
        found += _tunnel_faults(look)
    if not look.firewall and "firewall" not in look.unread and (config.tunnelled or config.masqueraded or config.filtered):
        found.append(f"there is no table {FAMILY} {TABLE}: no pod is masqueraded or filtered")
    if look.cni is None and "cni" not in look.unread and not config.firewall_only:
        found.append(f"there is no {config.cni_path}: no new pod starts here")
    return found


def _tunnel_faults(look: Look) -> Iterator[str]:
    link, device, config = look.link, look.device, look.config
    if link is None and "link" not in look.unread:
        yield f"there is no link {config.link}: pods of other nodes are not reached"
    elif link and look.wireguard is None:
        yield f"link {config.link} is no WireGuard ({link.kind or 'a device of its own'})"
    elif link and not link.up:
        yield f"link {config.link} is down: pods of other nodes are not reached"
    if device and device.public_key is None:
        yield f"link {config.link} has no key"
    if device and device.port != config.port:
        yield f"link {config.link} listens on UDP port {device.port}, not on {config.port}"
    wanted = _wanted(look)
    for name, what, there in (("tunnel", "route", look.tunnel), ("closed", "closed route", look.closed)):
        if name not in look.unread and (missing := sorted(map(str, wanted - there))):
            more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
            yield f"no {what} to {', '.join(missing[:NAMED])}{more}, which a peer has"


def _wanted(look: Look) -> set[IPNetwork]:
    """Networks of the peers' pods: what they are allowed but for single addresses, the nodes' own."""
    versions = look.config.tunnelled & look.versions
    allowed = (network for peer in look.peers.values() for network in peer.allowed_ips if network.version in versions)
    return {network for network in allowed if network.prefixlen < network.max_prefixlen}


def well(look: Look, found: Sequence[str]) -> bool | None:
    """Whether nothing at all is wrong here; None if nothing is known to be, but not all could be seen. `found`: faults."""
    if found or look.status.phase != READY:
        return False
    return None if look.untold else True


def pod_networks(look: Look) -> list[str]:
    """Of the pods that start now."""
    try:
        ranges = json.loads(look.cni or "")["plugins"][0]["ipam"]["ranges"]
        return [str(ip_network(each["subnet"])) for family in ranges for each in family]
    except (ValueError, LookupError, TypeError):
        return []


def node_page(look: Look, found: Sequence[str]) -> Page:
    """For people."""
    return [
        Line(cells=_title(look, found)),
        *(Line(cells=[Cell("error ", Mood.BAD), Cell(text)], indent=2) for text in found),
        *(Line(cells=[Cell("cannot be told ", Mood.DOUBTFUL), Cell(text)], indent=2) for text in look.untold),
        Grid(rows=[[Cell(name, Mood.DULL), cell] for name, cell in _facts(look)]),
        *_peers(look),
        *problem_blocks({"": look.status}, now=look.at),
    ]


def _title(look: Look, found: Sequence[str]) -> Row:
    name = Cell(f"node {look.config.node_name}  ", Mood.HEAD)
    if well(look, found):
        return [name, Cell("well", Mood.GOOD)]
    if look.ready is None:
        said = f"; the last that its agent said is {look.status.phase}" if look.status.phase else ""
        return [name, Cell("not well", Mood.BAD), Cell(said)]
    return [name, Cell("not well", Mood.BAD) if found else Cell(look.status.phase, Mood.DOUBTFUL)]


def _facts(look: Look) -> Iterator[tuple[str, Cell]]:
    yield "agent", _agent(look)
    if look.config.tunnelled or look.link:
        yield "link", _link(look)
        if look.device:
            key = look.device.public_key
            yield "public key", Cell(key or "none", Mood.PLAIN if key else Mood.BAD)
        met = sum(1 for peer in look.peers.values() if peer.handshake)
        yield "peers", Cell(f"{len(look.peers)}, of which {met} have ever shaken hands")
        text = f"{len(look.tunnel)} into the tunnel, {len(look.closed)} closed to every other way"
        yield "routes", Cell(text)
    else:
        yield "link", Cell("none wanted: " + ("firewall only" if look.config.firewall_only else "native routing"))
    yield "firewall", _firewall(look)
    if not look.config.firewall_only:
        there = Cell(str(look.config.cni_path)) if look.cni is not None else Cell("not there", Mood.BAD)
        yield "CNI file", there
        yield "pod networks", Cell(", ".join(pod_networks(look)) or "none")


def _agent(look: Look) -> Cell:
    version = f", version {look.status.version}" if look.status.version else ""
    if not look.at_work:
        return Cell(f"dead{version and f'; the last was{version[1:]}'}", Mood.BAD)
    if look.ready is None:
        return Cell(f"does not answer{version}", Mood.BAD)
    at_work = f", at work {since(look.started, look.at)}" if look.started else ""
    return Cell(f"ready{version}{at_work}", Mood.GOOD) if look.ready else Cell(f"not ready{version}{at_work}", Mood.BAD)


def _link(look: Look) -> Cell:
    link = look.link
    if link is None:
        return Cell(f"{look.config.link} is not there", Mood.BAD)
    holder = f"{look.wireguard.value} WireGuard" if look.wireguard else "no WireGuard"
    port = f", UDP port {look.device.port}" if look.device else ""
    state = "up" if link.up else "down"
    return Cell(f"{look.config.link} {state}, mtu {link.mtu}{port}, {holder}", Mood.PLAIN if link.up else Mood.BAD)


def _firewall(look: Look) -> Cell:
    if not look.firewall:
        return Cell(f"no table {FAMILY} {TABLE}")
    chains = sum(1 for item in look.firewall if item.kind == "chain")
    counts = ", ".join(f"{name} {count}" for name, count in zones(look).items())
    return Cell(f"table {FAMILY} {TABLE}: {chains} chains; elements: {counts or 'none'}")


def zones(look: Look) -> dict[str, int]:
    """How many elements each set and map of our table has, by its name without prefix."""
    counts: dict[str, int] = {}
    for item in sorted(look.firewall):
        if item.kind in {"set", "map"}:
            name = item.name.removeprefix("wt_")
            counts[name] = counts.get(name, 0) + bool(item.element)
    return counts


def _peers(look: Look) -> Iterator[Block]:
    if look.peers:
        named = sorted(((look.names.get(key) or key, peer) for key, peer in look.peers.items()), key=itemgetter(0))
        heads = ("PEER", "ENDPOINT", "HANDSHAKE", "RECEIVED", "SENT")
        yield EMPTY
        yield Grid(heads=heads, rows=[_peer(name, peer, look.at) for name, peer in named])


def _peer(name: str, peer: Peer, now: float) -> Row:
    endpoint = Cell(str(peer.endpoint)) if peer.endpoint else Cell("none", Mood.DOUBTFUL)
    ago = now - peer.handshake
    met = Cell(f"{age(ago)} ago", Mood.DULL if ago > REKEY_SECONDS else Mood.GOOD)
    return [Cell(name), endpoint, met if peer.handshake else Cell("never", Mood.DOUBTFUL)] + [
        Cell(size(count)) for count in (peer.received, peer.sent)
    ]


def node_json(look: Look, found: Sequence[str]) -> dict[str, object]:
    """For scripts; docs/status.md describes it."""
    link, device, status = look.link, look.device, look.status
    return {
        "node": look.config.node_name,
        "well": well(look, found),
        "faults": list(found),
        "untold": list(look.untold),
        "agent": {
            "atWork": look.at_work,
            "started": look.started or None,
            "ready": look.ready,
            "phase": status.phase,
            "version": status.version,
        },
        "link": link
        and {
            "name": look.config.link,
            "up": link.up,
            "mtu": link.mtu,
            "wireguard": look.wireguard and look.wireguard.value,
            "port": device and device.port,
            "publicKey": device and device.public_key,
        },
        "peers": [_peer_json(look, key, peer) for key, peer in look.peers.items()],
        "routes": {"tunnel": _sorted(look.tunnel), "closed": _sorted(look.closed)},
        "firewall": {"there": bool(look.firewall), "elements": zones(look)},
        "cni": {"path": str(look.config.cni_path), "there": look.cni is not None},
        "podNetworks": pod_networks(look),
        "problems": [problem.as_json() for problem in status.problems],
    }


def _peer_json(look: Look, key: PublicKey, peer: Peer) -> dict[str, object]:
    met = datetime.fromtimestamp(peer.handshake, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if peer.handshake else None
    return {
        "node": look.names.get(key),
        "publicKey": key,
        "endpoint": str(peer.endpoint) if peer.endpoint else None,
        "handshake": met,
        "received": peer.received,
        "sent": peer.sent,
        "allowedIPs": _sorted(peer.allowed_ips),
    }


def _sorted(networks: frozenset[IPNetwork]) -> list[str]:
    return [str(network) for network in sorted(networks, key=lambda n: (n.version, n))]
