"""Which networks are routed into the tunnel, and which are closed to every other way out."""

from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping
from operator import itemgetter

from wigglenet_operator.model.desired import CLOSED_METRIC, Route, RouteKey, RouteKind
from wigglenet_operator.model.facts import ForeignRoute, IPNetwork, bounds
from wigglenet_operator.model.problems import Code
from wigglenet_operator.model.report import Problem
from wigglenet_operator.model.timing import PRODUCTION, Timing
from wigglenet_operator.plan.pod_networks import pod_links

DEFAULT_METRIC = {4: 0, 6: 1024}
"""What the kernel takes when none is given (net/ipv6/route.c, IP6_RT_PRIO_USER; IPv4 has none)."""


def plan_tunnel_routes(networks: Iterable[IPNetwork]) -> dict[RouteKey, Route]:
    """One route through the link for each remote network."""
    return {RouteKey(to=n, metric=DEFAULT_METRIC[n.version]): Route(kind=RouteKind.TUNNEL) for n in networks}


def plan_closed_routes(networks: Iterable[IPNetwork]) -> dict[RouteKey, Route]:
    """One unreachable route for each pod network, own ones too: an unused address must not loop to the router."""
    return {RouteKey(to=n, metric=CLOSED_METRIC): Route(kind=RouteKind.CLOSED) for n in networks}


def plan_bypassed(foreign: Collection[ForeignRoute], ours: Mapping[int, "Ranges"]) -> frozenset[Problem]:
    """Others' routes that win over the tunnel's: by a longer prefix, or for the same network by their metric.

    `ours` are the `ranges` of the tunnel's routes.
    """
    problems: set[Problem] = set()
    pods = {address for _, address in pod_links(foreign)}
    for route in foreign:
        if route.to.prefixlen == route.to.max_prefixlen and route.to.network_address in pods:  # whoever took its network
            continue
        inside = _overlapped(route.to, ours[route.to.version])
        if inside is None or inside.prefixlen > route.to.prefixlen:
            continue
        if inside == route.to and route.metric > DEFAULT_METRIC[inside.version]:
            continue
        text = f"it takes what is for pods of {inside} past the tunnel, in clear; it is left alone, so remove it"
        problems.add(Problem(code=Code.RouteBypassed, subject=f"route {route.to} dev {route.link or '?'}", text=text))
    return frozenset(problems)


def keep_closed(
    desired: Mapping[RouteKey, Route],
    actual: Mapping[RouteKey, Route],
    orphaned: Mapping[RouteKey, float],
    *,
    now: float,
    timing: Timing = PRODUCTION,
) -> tuple[dict[RouteKey, Route], dict[RouteKey, float]]:
    """The closed routes that should be now, and since when (monotonic seconds) each orphan has been one.

    A route whose claim has gone stays for `orphaned_route`, but goes at once if somebody claims an overlapping network, for
    the longest prefix beats any metric.  Orphans are found in the kernel, so a restart forgets nothing but the time.
    What is not ours stays.
    """
    left = {key: route for key, route in actual.items() if key not in desired}
    if not left:
        return dict(desired), {}
    claimed = ranges(desired)
    since = {
        key: orphaned.get(key, now)
        for key, route in left.items()
        if route.ours and _overlapped(key.to, claimed[key.to.version]) is None
    }
    kept = {k: r for k, r in left.items() if not r.ours or (k in since and now - since[k] < timing.orphaned_route)}
    return {**desired, **kept}, since


Ranges = list[tuple[int, int, IPNetwork]]
"""Last and first address of disjoint networks of one family, ascending, and the networks."""


def ranges(routes: Iterable[RouteKey]) -> dict[int, Ranges]:
    """The networks of routes that do not overlap, by IP version, for a search by address."""
    found: dict[int, Ranges] = {4: [], 6: []}
    for key in routes:
        found[key.to.version].append((*bounds(key.to)[::-1], key.to))
    return {version: sorted(of) for version, of in found.items()}


def _overlapped(network: IPNetwork, among: Ranges) -> IPNetwork | None:
    """The first of the networks that has an address in common."""
    first, last = bounds(network)
    at = bisect_left(among, first, key=itemgetter(0))
    return among[at][2] if at < len(among) and among[at][1] <= last else None
