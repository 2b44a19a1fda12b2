"""Which networks are routed into the tunnel, and which are closed to every other way out."""

from collections.abc import Iterable, Mapping

from wigglenet_operator.model.desired import Route, RouteKey, RouteKind
from wigglenet_operator.model.facts import IPNetwork

CLOSED_METRIC = 0xFFFFFFFF
"""The highest: any other route to the same network wins (rtnetlink(7), RTA_PRIORITY is 32 bits)."""
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
    """
    since = {
        key: orphaned.get(key, now)
        for key in actual
        if key not in desired and not any(_overlap(key.to, other.to) for other in desired)
    }
    kept = {key: actual[key] for key, start in since.items() if now - start < LINGER_SECONDS}
    return {**desired, **kept}, since


def _overlap(one: IPNetwork, other: IPNetwork) -> bool:
    return one.version == other.version and (one.subnet_of(other) or other.subnet_of(one))  # type: ignore[arg-type]  # same version
