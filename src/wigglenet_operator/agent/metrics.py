"""What an agent counts, as Prometheus has it: names, types, labels and help in one table, and how they follow from turns.

The first nine names are Wigglenet's, whose dashboards go on to work.  Everything but the requests is fed turn by turn in the
thread that serves it, so that neither counting nor a scrape holds up the agent's loop.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from wigglenet_operator import __version__
from wigglenet_operator.agent.health import Turned
from wigglenet_operator.agent.traffic import Traffic
from wigglenet_operator.model.problems import PROBLEMS
from wigglenet_operator.model.report import StepReport

disable_created_metrics()  # type: ignore[no-untyped-call]  # no rule needs the time when each counter was made, and each would be one more series


class Kind(Enum):
    """Of a metric."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A name that dashboards and alerts may use."""

    name: str
    kind: Kind
    labels: tuple[str, ...] = ()
    help: str
    buckets: tuple[float, ...] = ()
    """Upper bounds, for a histogram."""


PEER = ("public_key", "endpoint", "node")
FAST = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SLOW = (1.0, 2.0, 3.0, 5.0, 10.0, 15.0, 30.0, 60.0, 180.0, 600.0)
"""WireGuard tells a handshake's time in seconds."""

METRICS = (
    Metric(
        name="wigglenet_build_info",
        kind=Kind.GAUGE,
        labels=("version", "firewall_backend"),
        help="Always 1; version and firewall back-end of the agent.",
    ),
    Metric(
        name="wigglenet_firewall_sync_total",
        kind=Kind.COUNTER,
        labels=("backend", "status"),
        help="Writes of the firewall by status, success or error; what is as it should be is not written.",
    ),
    Metric(
        name="wigglenet_firewall_sync_duration_seconds",
        kind=Kind.HISTOGRAM,
        labels=("backend",),
        help="How long writes of the firewall took.",
        buckets=FAST,
    ),
    Metric(name="wigglenet_pod_cidrs_total", kind=Kind.GAUGE, help="Pod networks that are announced in the cluster."),
    Metric(name="wigglenet_peers_total", kind=Kind.GAUGE, help="WireGuard peers that this node should have."),
    Metric(
        name="wigglenet_network_policy_rules_total",
        kind=Kind.GAUGE,
        labels=("direction",),
        help="Rules for NetworkPolicy; 0, for this version has none.",
    ),
    Metric(
        name="wigglenet_peer_last_handshake_seconds",
        kind=Kind.GAUGE,
        labels=PEER,
        help="Seconds since the last handshake with the peer; missing before the first one.",
    ),
    Metric(
        name="wigglenet_peer_receive_bytes_total",
        kind=Kind.COUNTER,
        labels=PEER,
        help="Bytes received from the peer, also before it was written anew; sum by node, for endpoints change.",
    ),
    Metric(
        name="wigglenet_peer_transmit_bytes_total",
        kind=Kind.COUNTER,
        labels=PEER,
        help="Bytes sent to the peer, also before it was written anew; sum by node, for endpoints change.",
    ),
    Metric(
        name="wigglenet_turns_total",
        kind=Kind.COUNTER,
        labels=("result",),
        help="Turns by result: unchanged, changed, failed, or waiting for enough to plan with.",
    ),
    Metric(
        name="wigglenet_event_to_kernel_seconds",
        kind=Kind.HISTOGRAM,
        help="From the arrival of the API server's event to the end of the turn that wrote what follows from it.",
        buckets=FAST,
    ),
    Metric(
        name="wigglenet_join_to_handshake_seconds",
        kind=Kind.HISTOGRAM,
        help="From when a new peer was first wanted to its first handshake, at most a second too long.",
        buckets=SLOW,
    ),
    Metric(
        name="wigglenet_problems",
        kind=Kind.GAUGE,
        labels=("code", "severity"),
        help="Problems that there are, by code; the codes are in docs/troubleshooting.md.",
    ),
    Metric(
        name="wigglenet_repairs_total",
        kind=Kind.COUNTER,
        labels=("kind",),
        help="What this agent had written, somebody undid and it wrote again, by kind: peers, routes, firewall and so on.",
    ),
    Metric(
        name="wigglenet_api_requests_total",
        kind=Kind.COUNTER,
        labels=("verb", "code"),
        help="Requests to the API server by method and HTTP status; 0 if there was no answer.",
    ),
)
"""Whole: nothing else is served."""
PEER_METRICS = tuple(metric for metric in METRICS if metric.labels == PEER)
BACKEND = "nftables"
RESULTS = ("unchanged", "changed", "failed", "waiting")


class Meter(Collector):
    """All metrics of one agent."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        """`clock` gives Unix seconds."""
        self._clock = clock
        self._traffic = Traffic()
        self._registry = registry = CollectorRegistry()
        self._counters = {m.name: Counter(m.name, m.help, m.labels, registry=registry) for m in _of(Kind.COUNTER)}
        self._gauges = {m.name: Gauge(m.name, m.help, m.labels, registry=registry) for m in _of(Kind.GAUGE)}
        self._histograms = {
            m.name: Histogram(m.name, m.help, m.labels, registry=registry, buckets=m.buckets) for m in _of(Kind.HISTOGRAM)
        }
        self._gauges["wigglenet_build_info"].labels(__version__, BACKEND).set(1)
        for direction in ("ingress", "egress"):
            self._gauges["wigglenet_network_policy_rules_total"].labels(direction).set(0)
        for result in RESULTS:  # a rate that begins with the first failure would not see it
            self._counters["wigglenet_turns_total"].labels(result)
        for status in ("success", "error"):
            self._counters["wigglenet_firewall_sync_total"].labels(BACKEND, status)
        registry.register(self)

    def asked(self, method: str, status: int) -> None:
        """A request to the API server has ended; from any thread."""
        self._counters["wigglenet_api_requests_total"].labels(method, str(status)).inc()

    def turned(self, turn: Turned) -> None:
        """A turn has ended."""
        report = turn.report
        self._counters["wigglenet_turns_total"].labels(_result(turn)).inc()
        codes = [problem.code for problem in report.problems]
        for code, meaning in PROBLEMS.items():
            self._gauges["wigglenet_problems"].labels(code.value, meaning.severity.value).set(codes.count(code))
        if turn.stopped:
            return
        if step := report.steps.get("firewall"):
            self._count_firewall(step)
        for kind, count in report.repairs.items():
            self._counters["wigglenet_repairs_total"].labels(kind).inc(count)
        if turn.heard is not None:
            self._histograms["wigglenet_event_to_kernel_seconds"].observe(turn.ended - turn.heard)
        if report.waiting:  # it knows of nothing else
            return
        self._gauges["wigglenet_pod_cidrs_total"].set(report.pod_networks)
        self._gauges["wigglenet_peers_total"].set(report.peers)
        if report.there is not None:
            for seconds in self._traffic.enter(report.there, report.names, began=turn.began, now=self._clock()):
                self._histograms["wigglenet_join_to_handshake_seconds"].observe(seconds)

    def render(self) -> bytes:
        """What Prometheus reads, its text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """The peers' metrics, which follow their endpoints."""
        received, sent = (CounterMetricFamily(m.name, m.help, labels=m.labels) for m in PEER_METRICS[1:])
        met = GaugeMetricFamily(PEER_METRICS[0].name, PEER_METRICS[0].help, labels=PEER)
        now = self._clock()
        for key, name, account in self._traffic.accounts():
            labels = (key, str(account.peer.endpoint or ""), name)
            received.add_metric(labels, account.received)
            sent.add_metric(labels, account.sent)
            if account.peer.handshake:
                met.add_metric(labels, max(now - account.peer.handshake, 0.0))
        yield from (met, received, sent)

    def _count_firewall(self, step: StepReport) -> None:
        if step.error or step.wrote:
            self._counters["wigglenet_firewall_sync_total"].labels(BACKEND, "error" if step.error else "success").inc()
            self._histograms["wigglenet_firewall_sync_duration_seconds"].labels(BACKEND).observe(step.seconds)


def _of(kind: Kind) -> Iterator[Metric]:
    """Those that are not the peers'."""
    return (metric for metric in METRICS if metric.kind is kind and metric not in PEER_METRICS)


def _result(turn: Turned) -> str:
    report = turn.report
    if turn.stopped or report.failed:
        return "failed"
    return "waiting" if report.waiting else "changed" if report.wrote else "unchanged"
