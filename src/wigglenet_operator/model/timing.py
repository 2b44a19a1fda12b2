"""Every time that somebody who tests the agent would have to wait for, in one value.

The command line makes it and passes it down; production uses the defaults. Times that other software or a protocol gives
(WireGuard's session, a TCP time-out) stay beside the code that depends on them.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds, unless a field says something else."""

    # The start: cli.py and logs.py

    start: float = 10.0
    """For the start of the agent; after this time it logs where it hangs."""

    # The reconcile loop: agent/loop.py and agent/run.py

    pass_interval: float = 0.1
    """Between the starts of two reconcile passes; a burst of events becomes one pass."""
    resync: float = 10.0
    """The longest time without a pass. WireGuard sends no event when a peer changes, so peers are read this often."""
    retries: tuple[float, ...] = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
    """Before the next pass after the first, second, ... failed pass in a row; the last one for ever."""
    after_write: float = 1.0
    """From a pass that wrote something to one more: what follows from a write, such as a handshake, has no event."""

    # Repairs, in plan/repairs.py

    repair_pause: float = 0.5
    """Before the sixth repair of the same thing in a row; doubled for each further one."""
    repair_pause_most: float = 30.0
    """The longest pause between two repairs of the same thing."""
    repair_calm: float = 60.0
    """After this time without a repair, the next one is the first of a row."""

    # What is kept after its source has gone: agent/store.py and plan/routes.py and plan/tunnel.py

    departed_node: float = 60.0
    """How long the last facts of a Node count that was deleted, or lost its annotations; it may come back unchanged."""
    answer_leads: float = 5.0
    """How long the answer to a write counts for more than an event of an older version, which is late then."""
    orphaned_route: float = 600.0
    """How long the unreachable route of a pod network stays when no Node claims the network any more.

    Pods may still send to the network; without the route their packets would leave in clear.
    """
    silent_peer: float = 15.0
    """After this time without traffic, a peer that has not answered since its endpoint changed is given the wanted endpoint."""

    # Requests to the API server, in kube/

    connect: float = 10.0
    """To open a connection for the watch."""
    answer: float = 20.0
    """For the answer to a list of the watch."""
    request: float = 10.0
    """For the answer to any other request."""
    publish_grace: float = 0.1
    """How long a reconcile pass waits for the answer to a write of annotations; a slow answer is an event for a later pass."""
    request_retry: float = 1.0
    """Before the second attempt of the watch; doubled for each further one, with up to a half more at random."""
    request_retry_most: float = 15.0
    """The longest pause between two attempts of the watch, without the random part."""
    watch: int = 100
    """After this time the server ends a watch, which is then resumed: a healthy watch sends a request this often."""
    watch_silent: float = 180.0
    """A watch that has sent no request and received no answer for this time is replaced by a new one."""
    watch_stable: float = 60.0
    """After a life of this time, a watch that ends is replaced without a longer pause than the first one."""
    refused: float = 30.0
    """A refusal that lasts this long is a problem; before, the API server may be restarting."""
    unauthorized: float = 1.0
    """Before an answer with status 401 is passed on; Kopf repeats the request at once, 40 times a second."""
    request_interval: float = 1.0
    """Between two requests of the watch in the long run: a server may end each watch at once, 2,000 times a second."""
    request_burst: int = 60
    """Number of requests of the watch that need not keep `request_interval`."""

    # Relists, in agent/census.py

    relist_per_node: float = 0.3
    """Between two relists, for each Node: N agents list N Nodes, so the server's load grows with N, not with its square."""
    relist_least: float = 10.0
    """The shortest time between two relists."""
    relist_most: float = 300.0
    """The longest time between two relists."""
    relist_retry: float = 5.0
    """After a list that failed, and between the lists before the store is complete."""
    relist_spread: float = 1.0
    """The longest random delay of a relist that somebody asked for; all agents may ask at the same time."""
    relist_patience: tuple[float, ...] = (2.0, 4.0, 8.0, 15.0, 30.0, 60.0)
    """How long an event may be on its way that a relist has found missing; the next one after each watch that did not help."""

    # Reports: the status annotation, the condition, Events: agent/kept.py and agent/condition.py and agent/events.py

    report_settle: float = 2.0
    """Between a change and its report: a start or a join changes several things in a row."""
    report_retry: float = 15.0
    """After a report that the API server did not take."""
    status_per_node: float = 0.3
    """Between two writes of the status, for each Node: every write wakes every agent."""
    status_least: float = 60.0
    """The shortest time between two writes of the status in the long run."""
    status_most: float = 300.0
    """The longest time between two writes of the status. Urgent writes may come sooner, up to this budget."""
    event_interval: float = 10.0
    """Between two Events in the long run; the API server keeps each of them for an hour."""
    condition_doubt: float = 15.0
    """A fault that lasts less, such as one failed reading, does not taint the node."""

    # This node, in kernel/wg_uapi.py

    device: float = 5.0
    """For an answer of the userspace WireGuard; one that hangs must not hang the agent."""

    # The agent's own HTTP server: agent/serve.py and agent/health.py

    listen_retry: float = 5.0
    """Between two attempts to listen, and between two readings of the TLS files (a link may lead to another file)."""
    hang: float = 120.0
    """The agent is not live when no pass has ended for this time."""
    silence: float = 600.0
    """The agent is not live when its watch has sent and received nothing for this time."""


PRODUCTION = Timing()
