"""Which networks are routed into the tunnel, and which are closed to every other way out."""

from bisect import bisect_left
from collections.abc import Iterable, Mapping

from wigglenet_operator.model.desired import CLOSED_METRIC, Route, RouteKey, RouteKind
from wigglenet_operator.model.facts import IPNetwork

DEFAULT_METRIC = {4: 0, 6: 1024}
"""What the kernel takes when none is given (net/ipv6/route.c, IP6_RT_PRIO_USER; IPv4 has none)."""
LINGER_SECONDS = 600
"""How long a network stays closed after its claim has gone: pods may still send to it, in clear if it were open."""


def plan_tunnel_routes(networks: Iterable[IPNetwork]) -> dict[RouteKey, Route]:
    """One route through the link for each remote network."""
    return {RouteKey(to=n, metric=DEFAULT_METRIC[n.version]): Route(kind=RouteKind.TUNNEL) for n in networks}


def plan_closed_routes(networks: Iterable[IPNetwork]) -> dict[RouteKey, Route]:
    """One unreachable route for each pod network, own ones too: an unused address must not loop to the router."""
    return {RouteKey(to=n, metric=CLOSED_METRIC): Route(kind=RouteKind.CLOSED) for n in networks}


def keep_closed(
    desired: Mapping[RouteKey, Route],
    actual: Mapping[RouteKey, Route],
    orphaned: Mapping[RouteKey, float],
    *,
    now: float,
) -> tuple[dict[RouteKey, Route], dict[RouteKey, float]]:
    """The closed routes that should be now, and since when (monotonic seconds) each orphan has been one.

    A route whose claim has gone stays for LINGER_SECONDS, but goes at once if somebody claims an overlapping network, for
    the longest prefix beats any metric.  Orphans are found in the kernel, so a restart forgets nothing but the time.
    What is not ours stays.
    """
    claimed = {
        version: sorted((int(k.to.broadcast_address), int(k.to.network_address)) for k in desired if k.to.version == version)
        for version in (4, 6)
    }
    left = {key: route for key, route in actual.items() if key not in desired}
    since = {
        key: orphaned.get(key, now)
        for key, route in left.items()
        if route.ours and not _overlaps(key.to, claimed[key.to.version])
    }
    kept = {k: r for k, r in left.items() if not r.ours or (k in since and now - since[k] < LINGER_SECONDS)}
    return {**desired, **kept}, since


def _overlaps(network: IPNetwork, claimed: list[tuple[int, int]]) -> bool:
    """Whether it shares an address with one of the disjoint ranges (last, first), sorted."""
    at = bisect_left(claimed, (int(network.network_address), -1))
    return at < len(claimed) and claimed[at][1] <= int(network.broadcast_address)
