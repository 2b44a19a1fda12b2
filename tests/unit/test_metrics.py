"""What is counted: names and labels by the table, and counters that never fall."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from tests.builders import ips, key
from wigglenet_operator import __version__
from wigglenet_operator.agent.health import Turned
from wigglenet_operator.agent.metrics import METRICS, Kind, Meter
from wigglenet_operator.agent.reconcile import WAITING
from wigglenet_operator.agent.serve import metrics_pages
from wigglenet_operator.agent.traffic import GONE_SECONDS, Traffic
from wigglenet_operator.model.desired import Endpoint, Peer
from wigglenet_operator.model.facts import NodeName, PublicKey
from wigglenet_operator.model.problems import PROBLEMS, Code
from wigglenet_operator.model.report import Problem, StepReport, TurnReport

B, C = key("b"), key("c")
NAMES = {B: NodeName("b"), C: NodeName("c")}
ROOT = Path(__file__).parents[2]


def peer(received: int = 0, sent: int = 0, *, handshake: int = 0, address: str = "192.0.2.2") -> Peer:
    endpoint = Endpoint(address=ips(address)[0], port=24601)
    return Peer(endpoint=endpoint, allowed_ips=frozenset(), handshake=handshake, received=received, sent=sent)


class Counted:
    """A meter and its clock."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.meter = Meter(clock=lambda: self.now)

    def turn(self, *, stopped: bool = False, heard: float | None = None, problems: Iterable[Problem] = (), **of: Any) -> None:
        report = TurnReport(**{"steps": {}, "names": NAMES, "there": {}, **of}, problems=frozenset(problems))
        self.meter.turned(Turned(report=report, stopped=stopped, began=self.now, ended=self.now, heard=heard))

    def values(self, name: str) -> dict[tuple[str, ...], float]:
        """Of a metric or one of a histogram's series, by its labels' values in the order of the labels' names."""
        families = text_string_to_metric_families(self.meter.render().decode())
        samples = (sample for family in families for sample in family.samples if sample.name == name)
        return {tuple(value for _, value in sorted(s.labels.items())): s.value for s in samples}


@pytest.fixture
def counted() -> Counted:
    return Counted()


KEPT = """wigglenet_build_info{version,firewall_backend} wigglenet_firewall_sync_total{backend,status}
    wigglenet_firewall_sync_duration_seconds{backend} wigglenet_pod_cidrs_total{} wigglenet_peers_total{}
    wigglenet_network_policy_rules_total{direction} wigglenet_peer_last_handshake_seconds{public_key,endpoint,node}
    wigglenet_peer_receive_bytes_total{public_key,endpoint,node}
    wigglenet_peer_transmit_bytes_total{public_key,endpoint,node}"""


def test_wigglenets_names_are_kept_with_their_labels() -> None:
    assert {f"{m.name}{{{','.join(m.labels)}}}" for m in METRICS} >= set(KEPT.split())


def test_what_is_served_is_what_the_table_says(counted: Counted) -> None:
    step = StepReport(added=1, seconds=0.01)
    counted.turn(there={}, steps={"firewall": step}, repairs={"peers": 1}, heard=999.0)
    counted.turn(there={B: peer(1, 1, handshake=1000)})
    counted.meter.asked("GET", 200)
    told = counted.meter.render().decode()

    served = dict(re.findall(r"^# TYPE (\S+) (\S+)$", told, re.MULTILINE))
    assert served == {m.name: m.kind.value for m in METRICS}
    for metric in METRICS:
        labels = re.findall(rf"^{metric.name}(?:_count)?(?:{{(.*)}})? ", told, re.MULTILINE)
        assert labels, metric.name
        assert {tuple(re.findall(r'(\w+)="[^"]*"', each)) for each in labels} == {tuple(sorted(metric.labels))}
        assert f"# HELP {metric.name} {metric.help}" in told


def test_turns_are_counted_by_their_result(counted: Counted) -> None:
    for _ in range(2):
        counted.turn()
    counted.turn(steps={"peers": StepReport(added=1)})
    counted.turn(steps={"peers": StepReport(error="refused")})
    counted.turn(stopped=True, steps={"peers": StepReport(added=1)}, repairs={"peers": 1})
    counted.turn(waiting=True)

    assert counted.values("wigglenet_turns_total") == {
        ("unchanged",): 2,
        ("changed",): 1,
        ("failed",): 2,
        ("waiting",): 1,
    }


def test_a_turn_that_came_to_nothing_does_not_count_what_the_one_before_did(counted: Counted) -> None:
    for stopped in (False, True, True):
        counted.turn(stopped=stopped, steps={"firewall": StepReport(added=1)}, repairs={"peers": 2}, heard=counted.now)

    assert counted.values("wigglenet_repairs_total") == {("peers",): 2}
    assert counted.values("wigglenet_firewall_sync_total")["nftables", "success"] == 1
    assert counted.values("wigglenet_event_to_kernel_seconds_count") == {(): 1}


def test_every_code_has_its_number_of_problems_and_it_goes_back_to_none(counted: Counted) -> None:
    counted.turn(problems=(Problem(code=Code.NoEndpoint, subject=f"node {n}", text="it has none") for n in "bc"))
    found = counted.values("wigglenet_problems")

    assert found.keys() == {(code.value, meaning.severity.value) for code, meaning in PROBLEMS.items()}
    assert {of: number for of, number in found.items() if number} == {("NoEndpoint", "warning"): 2}
    counted.turn()
    assert not any(counted.values("wigglenet_problems").values())


def test_a_firewall_that_was_not_written_is_no_sync(counted: Counted) -> None:
    failed = StepReport(error="refused", seconds=3.0)
    for step in (StepReport(), StepReport(added=1, seconds=0.2), failed, StepReport(waits_for="device")):
        counted.turn(steps={"firewall": step})

    assert counted.values("wigglenet_firewall_sync_total") == {("nftables", "success"): 1, ("nftables", "error"): 1}
    assert counted.values("wigglenet_firewall_sync_duration_seconds_sum") == {("nftables",): 3.2}


def test_a_waiting_turn_keeps_what_was_counted_before(counted: Counted) -> None:
    counted.turn(there={B: peer(5, 7)}, peers=2, pod_networks=4)
    before = counted.meter.render()
    counted.meter.turned(Turned(report=WAITING, began=counted.now, ended=counted.now))

    changed = set(counted.meter.render().splitlines()) ^ set(before.splitlines())
    assert {line.split(b"{")[0] for line in changed} == {b"wigglenet_turns_total"}


def test_an_event_is_timed_once_and_only_where_there_was_one(counted: Counted) -> None:
    counted.turn(heard=counted.now - 0.25)
    counted.turn()

    assert counted.values("wigglenet_event_to_kernel_seconds_sum") == {(): 0.25}
    assert counted.values("wigglenet_event_to_kernel_seconds_count") == {(): 1}


def test_the_time_from_a_join_to_its_first_handshake_is_counted_once(counted: Counted) -> None:
    counted.turn(there={B: peer(handshake=990)})  # wants c as well
    counted.now += 1
    counted.turn(there={B: peer(handshake=990), C: peer()})
    counted.now += 3
    counted.turn(there={B: peer(handshake=990), C: peer(handshake=1002)})
    for there in ({B: peer()}, {B: peer(), C: peer()}, {B: peer(), C: peer(handshake=1010)}):  # removed by hand, back again
        counted.turn(there=there)

    assert counted.values("wigglenet_join_to_handshake_seconds_count") == {(): 1}
    assert counted.values("wigglenet_join_to_handshake_seconds_sum") == {(): 3}, "told in whole seconds: 1002 to 1003"


def test_a_peer_that_leaves_before_it_has_met_is_no_join(counted: Counted) -> None:
    counted.turn()
    counted.turn(names={B: NodeName("b")})
    counted.now += 100
    counted.turn(there={C: peer(handshake=1099)})

    assert counted.values("wigglenet_join_to_handshake_seconds_count") == {(): 0}


def test_a_peers_bytes_survive_its_removal_its_links_and_its_roaming(counted: Counted) -> None:
    steps: list[Mapping[PublicKey, Peer] | None] = [
        {B: peer(100, 10)},
        None,  # could not be read
        {B: peer(150, 20)},
        {},  # removed by hand
        {B: peer(200, 20)},  # written anew, and already further than before
        {B: peer(1, 0)},  # the link was made anew between two turns
        {B: peer(2, 0, address="192.0.2.99")},
    ]
    for there in steps:
        counted.turn(there=there)

    labels = ("192.0.2.99:24601", "b", B)
    assert counted.values("wigglenet_peer_receive_bytes_total") == {labels: 150 + 200 + 2}
    assert counted.values("wigglenet_peer_transmit_bytes_total") == {labels: 20 + 20}


def test_a_peer_shows_its_age_of_handshake_once_it_had_one_and_nothing_when_it_is_unwanted(counted: Counted) -> None:
    counted.turn(there={B: peer(handshake=940), C: peer()})
    assert {labels[1]: age for labels, age in counted.values("wigglenet_peer_last_handshake_seconds").items()} == {"b": 60}
    assert len(counted.values("wigglenet_peer_receive_bytes_total")) == 2

    counted.turn(there={B: peer(handshake=940)}, names={})
    assert counted.values("wigglenet_peer_receive_bytes_total") == {}


def test_a_peer_that_is_long_gone_is_forgotten() -> None:
    traffic = Traffic()
    for now, there in ((0.0, {B: peer(5)}), (1.0, {}), (GONE_SECONDS + 1, {}), (GONE_SECONDS + 2, {})):
        traffic.enter(there, {}, began=now, now=now)
    traffic.enter({B: peer(3)}, NAMES, began=0.0, now=GONE_SECONDS + 3)

    assert [account.received for _, _, account in traffic.accounts()] == [3]


SEEN = st.lists(st.none() | st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=20)


@given(SEEN)
def test_whatever_is_seen_of_a_peer_its_bytes_never_fall(seen: list[tuple[int, int] | None]) -> None:
    traffic, before = Traffic(), (0, 0)
    for number, each in enumerate(seen):
        traffic.enter({B: peer(*each)} if each else {}, NAMES, began=number, now=number)
        for _, _, account in traffic.accounts():
            assert account.received >= before[0]
            assert account.sent >= before[1]
            before = account.received, account.sent


DASHBOARD = json.loads((ROOT / "manifests/dashboard.json").read_text())
EXPRESSIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
PARTS = {Kind.HISTOGRAM: ("_bucket", "_sum", "_count")}
SERIES = {metric.name + part: metric for metric in METRICS for part in PARTS.get(metric.kind, ("",))}
WORDS = {"sum", "max", "min", "count", "by", "rate", "increase", "histogram_quantile", "topk", "le", "instance"}
"""Of PromQL, and the labels that Prometheus and its histograms add."""


def names_of(expression: str) -> tuple[set[str], set[str]]:
    """Metrics and labels that a query names."""
    text = re.sub(r'"[^"]*"|\[[^\]]*\]|\$\w+', " ", expression)
    words = set(re.findall(r"[a-zA-Z_]\w*", text)) - WORDS
    metrics = {word for word in words if word.startswith("wigglenet_")}
    return metrics, words - metrics


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_the_dashboard_asks_for_what_exists(expression: str) -> None:
    metrics, labels = names_of(expression)

    assert metrics
    assert metrics <= SERIES.keys()
    assert labels <= {label for name in metrics for label in SERIES[name].labels}


def test_the_dashboard_shows_every_metric_once_at_least() -> None:
    shown = set[str]().union(*(names_of(expression)[0] for expression in EXPRESSIONS))

    assert {SERIES[name].name for name in shown} == {m.name for m in METRICS} - {"wigglenet_network_policy_rules_total"}
    assert len(EXPRESSIONS) >= 12


def test_the_judge_of_the_dashboard_finds_what_is_wrong() -> None:
    metrics, labels = names_of('sum by (nod) (rate(wigglenet_peers{instance="a b"}[5m]))')

    assert (metrics, labels) == ({"wigglenet_peers"}, {"nod"})
    assert not metrics <= SERIES.keys()


def test_the_version_is_that_of_the_package(counted: Counted) -> None:
    assert counted.values("wigglenet_build_info") == {("nftables", __version__): 1}


def test_metrics_are_made_once_a_second_whoever_reads_them(counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[float] = []

    def render() -> bytes:
        made.append(counted.now)
        return b""

    monkeypatch.setattr(counted.meter, "render", render)
    read = metrics_pages(counted.meter, lambda: counted.now)["/metrics"]
    for now in (0.0, 0.5, 0.9, 1.0, 1.5, 7.0):
        counted.now = now
        read()

    assert made == [0.0, 1.0, 7.0]


def test_requests_are_counted_by_method_and_status(counted: Counted) -> None:
    for status in (200, 200, 403, 0):
        counted.meter.asked("GET", status)

    assert counted.values("wigglenet_api_requests_total") == {("200", "GET"): 2, ("403", "GET"): 1, ("0", "GET"): 1}


def test_a_step_says_how_long_it_took_and_two_that_did_the_same_are_equal() -> None:
    assert StepReport(added=1, seconds=1.0) == replace(StepReport(added=1), seconds=2.0)
