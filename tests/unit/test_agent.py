"""Store, loop, turn and telling, on fakes and in virtual time."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from ipaddress import ip_network
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import cluster, config, host, ips, key, nets, node, numbered
from tests.fakes import FakePeers, FakeTable
from tests.virtual_time import run
from wigglenet_operator.agent.kept import Kept
from wigglenet_operator.agent.loop import Loop
from wigglenet_operator.agent.reconcile import Reconciler
from wigglenet_operator.agent.store import ClusterStore
from wigglenet_operator.agent.tell import Teller, render_status
from wigglenet_operator.errors import ApiError
from wigglenet_operator.kube.pace import Budget
from wigglenet_operator.model.changes import Changes
from wigglenet_operator.model.desired import Peer, Route, RouteKey, RouteKind
from wigglenet_operator.model.facts import ClusterState, ForeignRoute, HostFacts, NodeFacts, NodeUID, Version
from wigglenet_operator.model.problems import Code
from wigglenet_operator.model.report import Problem, StepReport, TurnReport
from wigglenet_operator.model.timing import PRODUCTION
from wigglenet_operator.plan.desired import STATUS, STEPS
from wigglenet_operator.plan.planner import plan
from wigglenet_operator.plan.routes import plan_closed_routes

A = node("a", pods="10.1.0.0/24 fd00:1::/64", internal="192.0.2.1")
B = node("b", pods="10.2.0.0/24 fd00:2::/64", internal="192.0.2.2")
C = node("c", pods="10.3.0.0/24 fd00:3::/64", internal="192.0.2.3")


class Bench:
    """One agent on fakes."""

    def __init__(self, *nodes: NodeFacts) -> None:
        self.requests = 0
        self.now = 0.0
        self.link_index = 1
        self.foreign_routes: frozenset[ForeignRoute] = frozenset()
        self.store = ClusterStore(self.requested, clock=lambda: self.now)
        self.tables: dict[str, FakeTable[Any, Any]] = {s.table: FakeTable() for s in STEPS}
        self.tables["peers"] = FakePeers()
        self.reconciler = Reconciler(self.store, config("a"), self.tables, look=self.look, clock=lambda: (self.now, self.now))
        for each in nodes:
            self.store.put(each)
        if nodes:
            self.store.expect(n.uid for n in nodes)

    def requested(self) -> None:
        self.requests += 1

    async def look(self, cluster: ClusterState, *, resync: bool) -> HostFacts:  # noqa: ARG002 - as Look has them
        return replace(host("a"), link_index=self.link_index, foreign_routes=self.foreign_routes)

    def turn(self) -> TurnReport:
        return run(self.reconciler.turn())

    @property
    def writes(self) -> int:
        return sum(table.writes for table in self.tables.values())

    @property
    def content(self) -> dict[str, Mapping[Any, Any]]:
        return {name: dict(table.content) for name, table in self.tables.items()}


def test_one_turn_brings_every_table_to_the_plan() -> None:
    bench = Bench(A, B)
    report = bench.turn()
    wanted = plan(cluster(A, B), config("a"), host("a")).desired

    assert bench.content == {s.table: getattr(wanted, s.table) for s in STEPS}
    assert not report.failed
    assert (report.peers, report.mtu, report.phase) == (1, 1420, "Ready")


def test_a_second_turn_writes_nothing() -> None:
    bench = Bench(A, B, C)
    bench.turn()
    writes = bench.writes

    report = bench.turn()

    assert bench.writes == writes
    assert not report.wrote


def test_nothing_is_touched_before_every_node_of_the_census_was_seen() -> None:
    bench = Bench()
    bench.store.put(A)
    bench.store.expect([A.uid, B.uid])

    assert bench.turn().waiting
    assert bench.writes == 0

    bench.store.put(B)

    assert bench.turn().peers == 1


@pytest.mark.parametrize("anew", [None, replace(A, uid=NodeUID("new"), spec_pod_cidrs=nets(""), pod_cidrs=nets(""))])
def test_without_the_own_node_or_its_networks_everything_stays_but_no_pod_starts(anew: NodeFacts | None) -> None:
    bench = Bench(A, B)
    bench.turn()
    before, writes = bench.content, bench.writes
    bench.store.drop(A.uid)
    if anew:
        bench.store.put(anew)

    report = bench.turn()
    bench.turn()

    assert (bench.content, bench.writes) == ({**before, "cni": {}}, writes + 1)
    assert [p.subject for p in report.problems] == ["node a"]
    assert (report.waiting, report.phase, report.registered) == (True, "Waiting", anew is not None)


def test_a_node_that_left_takes_its_peer_and_routes_along_after_a_minute() -> None:
    bench = Bench(A, B, C)
    bench.turn()
    before = bench.content
    bench.store.drop(B.uid)
    bench.now = PRODUCTION.departed_node - 1
    bench.turn()

    assert bench.content == before

    bench.now = PRODUCTION.departed_node
    bench.turn()

    assert set(bench.tables["peers"].content) == {key("c")}
    assert {str(k.to) for k in bench.tables["routes"].content} == {"10.3.0.0/24", "fd00:3::/64"}
    assert "10.2.0.0/24" in {str(k.to) for k in bench.tables["closed"].content}


def test_what_somebody_removed_is_back_after_a_turn() -> None:
    bench = Bench(A, B)
    bench.turn()
    before = bench.content
    for table in bench.tables.values():
        table.content.clear()

    bench.turn()

    assert bench.content == before


def test_a_write_that_somebody_undoes_before_it_was_read_back_is_made_again() -> None:
    """The listing is the same object as the one before the write."""
    bench = Bench(A, B)
    bench.turn()
    routes = bench.tables["routes"]
    undone = dict(routes.content)
    bench.store.put(C)
    bench.turn()
    before = bench.content
    routes.content = undone

    bench.turn()

    assert bench.content == before


def test_what_somebody_undid_is_counted_as_repaired_and_nothing_else_is() -> None:
    bench = Bench(A, B)
    assert bench.turn().repairs == {}, "an agent that has just started repairs nothing"
    bench.store.put(C)
    assert bench.turn().repairs == {}
    bench.tables["peers"].content.pop(key("b"))
    bench.tables["sysctls"].content.clear()
    bench.tables["sysctls"].broken_writes = "refused"
    bench.tables["routes"].content[RouteKey(to=ip_network("10.9.0.0/24"), metric=0)] = Route(kind=RouteKind.TUNNEL)

    assert bench.turn().repairs == {"peers": 1, "routes": 1}, "what is refused is not repaired yet"
    bench.tables["sysctls"].broken_writes = ""
    assert bench.turn().repairs == {"sysctls": len(bench.tables["sysctls"].content)}
    assert bench.turn().repairs == {}


def test_a_turn_tells_of_the_peers_that_are_wanted_and_of_those_that_were_there() -> None:
    impostor = replace(node("d", pods="10.4.0.0/24", internal="192.0.2.4", public_key=key("b")), created="2027-01-01T00:00:00Z")
    bench = Bench(A, B, impostor)
    first, second = bench.turn(), bench.turn()

    assert first.names == second.names == {key("b"): "b"}
    assert (first.there, second.there) == ({}, bench.tables["peers"].content)
    assert first.pod_networks == 5
    bench.tables["peers"].broken = "refused"
    assert bench.turn().there is None


def test_an_agent_that_remembers_nothing_finds_what_its_pods_networks_were_in_the_closed_routes() -> None:
    bench = Bench(replace(A, spec_pod_cidrs=nets("10.9.0.0/24 fd00:9::/64"), pod_cidrs=nets("")), B)
    bench.tables["closed"].content = dict(plan_closed_routes(nets("10.1.0.0/24 10.8.0.0/24 fd00:1::/64")))
    bench.foreign_routes = frozenset({ForeignRoute(ip_network("10.1.0.7/32"), 0, "veth1")})
    for _ in range(2):
        bench.turn()

        announced = bench.tables["annotations"].content["wigglenet/pod-cidrs"]
        assert announced == '["fd00:9::/64","10.1.0.0/24","10.9.0.0/24"]'


@pytest.mark.parametrize("broken", [s.table for s in STEPS])
def test_a_failed_step_stops_only_what_needs_it(broken: str) -> None:
    bench = Bench(A, B)
    bench.tables["leftovers"].content["iptables"] = "chains"  # every step has something to write
    bench.tables[broken].broken = "refused"

    report = bench.turn()

    needs = {s.table: s.needs for s in STEPS}
    stopped = {broken}
    for step in STEPS:
        earlier = {s.table for s in STEPS[: STEPS.index(step)]}
        if stopped & set(step.needs) or (step.needs == ("*",) and stopped & earlier):
            stopped.add(step.table)
    assert {name for name, step in report.steps.items() if step.failed} == stopped, needs
    assert [name for name, step in report.steps.items() if step.error] == [broken], "one reason is told, once"
    assert report.phase == "Degraded"
    assert bool(bench.tables["cni"].content) is (broken == "leftovers"), "no pod waits for that one"


def test_the_next_turn_repairs_what_failed() -> None:
    bench = Bench(A, B)
    bench.tables["link"].broken = "refused"
    bench.turn()
    bench.tables["link"].broken = ""

    assert not bench.turn().failed
    assert bench.tables["cni"].content


SILENCED = (
    replace(B, public_key=None),
    replace(B, pod_cidrs=nets("")),
    replace(B, public_key=None, pod_cidrs=nets(""), uid=NodeUID("anew"), created="2026-02-01T00:00:00Z"),
)


@pytest.mark.parametrize("silenced", SILENCED)
def test_a_nodes_word_that_is_taken_away_counts_for_a_minute_and_no_longer(silenced: NodeFacts) -> None:
    bench = Bench(A, B)
    bench.turn()
    before = bench.content
    if silenced.uid != B.uid:
        bench.store.drop(B.uid)
    bench.store.put(silenced)
    bench.store.put(replace(silenced, public_key=None, pod_cidrs=nets("")))
    bench.now = PRODUCTION.departed_node - 1
    bench.turn()

    assert bench.content == before

    bench.now = PRODUCTION.departed_node
    bench.turn()

    assert not bench.tables["peers"].content


def test_a_word_that_is_given_anew_is_remembered_anew() -> None:
    bench = Bench(A, B)
    moved = replace(B, pod_cidrs=nets("10.2.0.0/25"))
    bench.store.put(replace(B, public_key=None))
    bench.store.put(moved)
    bench.store.drop(B.uid)
    bench.turn()

    assert {str(k.to) for k in bench.tables["routes"].content} == {"10.2.0.0/25"}


EVENTS = st.lists(st.tuples(st.sampled_from(["put", "drop", "other"]), st.integers(0, 5)), max_size=20)


@given(EVENTS)
def test_any_events_followed_by_a_listing_give_the_same_plan(events: list[tuple[str, int]]) -> None:
    nodes = [A, *(numbered(i) for i in range(1, 5))]
    now = 0.0
    store = ClusterStore(lambda: None, clock=lambda: now)
    for what, number in events:
        subject = numbered(number)
        match what:
            case "put":
                store.put(subject)
            case "other":
                store.put(replace(subject, pod_cidrs=nets("10.99.0.0/24")))
            case _:
                store.drop(subject.uid)
    for each in nodes:
        store.put(each)
    for number in (0, 5):
        store.drop(NodeUID(f"uid-n{number}"))
    store.expect(n.uid for n in nodes)
    now = PRODUCTION.departed_node

    snapshot = store.snapshot()
    assert snapshot
    assert plan(snapshot, config("a"), host("a")) == plan(cluster(*nodes), config("a"), host("a"))


def test_a_fact_that_is_known_asks_for_nothing() -> None:
    bench = Bench(A)
    before = bench.requests
    bench.store.put(replace(A))
    bench.store.drop(NodeUID("unknown"))

    assert bench.requests == before


def test_a_node_that_goes_before_it_was_seen_does_not_keep_the_store_waiting() -> None:
    store = ClusterStore(lambda: None)
    store.expect([B.uid])
    store.drop(B.uid)

    assert store.complete


def loop_times(*, results: list[bool], until: float, requests: tuple[float, ...] = ()) -> list[float]:
    """When turns started, in virtual seconds."""
    times: list[float] = []

    async def turn(_: frozenset[str]) -> bool:
        times.append(round(asyncio.get_running_loop().time(), 3))
        return results.pop(0) if results else True

    async def main() -> None:
        loop = Loop(turn)
        for when in requests:
            asyncio.get_running_loop().call_at(when, loop.request)
        task = asyncio.create_task(loop.run())
        await asyncio.sleep(until)
        task.cancel()

    run(main())
    return times


def test_without_requests_there_is_a_turn_every_ten_seconds() -> None:
    assert loop_times(results=[], until=25) == [0, 10, 20]


def test_a_burst_of_requests_is_one_turn_soon() -> None:
    assert loop_times(results=[], until=9, requests=(0.01, 0.02, 0.05, 0.09)) == [0, 0.1]


def test_a_request_in_a_quiet_time_is_served_at_once() -> None:
    assert loop_times(results=[], until=9, requests=(5.0,)) == [0, 5]


def test_what_happens_after_failures_is_answered_at_once_and_soon_again() -> None:
    """An event such as a link that is back may come a moment before what it needs."""
    times = loop_times(results=[False] * 20, until=42, requests=(40.0,))

    assert times[-5:] == [40.0, 40.1, 40.3, 40.8, 41.8]


def test_failures_are_tried_again_ever_more_slowly_and_for_ever() -> None:
    assert loop_times(results=[False] * 9, until=40) == [0, 0.1, 0.3, 0.8, 1.8, 3.8, 8.8, 18.8, 28.8, 38.8]


class Server:
    """The own Node's annotations, and a status that is kept for as long as the test says, in virtual time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.annotations: dict[str, str] = {}
        self.writes: list[float] = []
        self.broken = False
        self.events: list[tuple[str, bool]] = []
        self.nodes = 0
        self.teller = self.anew()

    def anew(self) -> Teller:
        """That of an agent that has just started."""
        self.kept = Kept(published=lambda: self.annotations.get(STATUS), write=self.write, nodes=lambda: self.nodes)
        return Teller(
            version="1",
            status=self.kept,
            note=lambda problem, came: self.events.append((problem.subject, came)),
            clock=lambda: self.now,
        )

    async def write(self, status: str) -> None:
        self.writes.append(round(asyncio.get_running_loop().time(), 3))
        if self.broken:
            raise ApiError("away")
        self.annotations[STATUS] = status

    def hear(self, *told: tuple[float, TurnReport], until: float = 300.0) -> None:
        async def main() -> None:
            task = asyncio.create_task(self.kept.keep())
            for when, each in told:
                asyncio.get_running_loop().call_at(when, partial(self.teller.tell, each, seconds=0.01))
            await asyncio.sleep(until)
            task.cancel()

        run(main())


def odd(number: int, *, code: Code = Code.NoEndpoint) -> Problem:
    return Problem(code=code, subject=f"node n{number}", text="bad")


def report(*, handshaken: int = 0, problems: int = 0, error: str = "") -> TurnReport:
    return TurnReport(
        steps={"link": StepReport(error=error)},
        problems=frozenset(odd(i) for i in range(problems)),
        wireguard="userspace",
        mtu=1420,
        peers=2,
        handshaken=handshaken,
    )


def test_the_status_is_compact_json_with_the_five_problems_that_matter_most() -> None:
    server = Server()
    refused = replace(
        report(handshaken=1, problems=7), problems=frozenset({odd(9, code=Code.TunnelFailed), *map(odd, range(7))})
    )
    server.hear((0, refused))

    assert json.loads(server.annotations[STATUS]) == {
        "phase": "Degraded",
        "version": "1",
        "wireguard": "userspace",
        "mtu": 1420,
        "peers": 2,
        "handshaken": 1,
        "problems": [
            {"code": "TunnelFailed", "object": "node n9", "since": "1970-01-01T00:00:00Z", "text": "bad"},
            *({"code": "NoEndpoint", "object": f"node n{i}", "since": "1970-01-01T00:00:00Z", "text": "bad"} for i in range(4)),
        ],
        "more": 3,
    }
    assert server.annotations[STATUS].startswith('{"phase":"Degraded","version":')


def test_the_status_tells_what_a_start_has_led_to() -> None:
    server = Server()
    server.hear((0, report()), (1.0, report(handshaken=2)), until=50)

    assert json.loads(server.annotations[STATUS])["handshaken"] == 2
    assert server.writes == [2.0]


def test_the_status_is_written_on_change_only_and_at_most_once_a_minute() -> None:
    server = Server()
    changes = [(10.0 * i, report(handshaken=i % 2)) for i in range(25)]
    server.hear(*changes)

    assert all(later - earlier >= 60 for earlier, later in pairwise(server.writes))
    assert len(server.writes) == 5

    quiet = Server()
    quiet.hear((0, report()), (80, report()), (200, report()))
    assert quiet.writes == [2.0]


def test_problems_that_come_and_go_are_written_soon_but_not_all_the_time() -> None:
    server = Server()
    server.hear((0, report()), (10, report(problems=1)), (20, report()), until=50)
    assert server.writes == [2.0, 12.0, 22.0]

    flapping = Server()
    flapping.hear(*((5.0 * i, report(problems=i % 2)) for i in range(121)), until=600)
    assert 10 < len(flapping.writes) <= 5 + 600 / 60


def test_in_a_large_cluster_a_status_is_written_late_and_rarely_however_urgent_it_is() -> None:
    """A bad Node is a problem of all agents in the same instant, and each of their writes wakes them all."""
    servers = [Server() for _ in range(20)]
    for server in servers:
        server.nodes = 1000
        server.hear(*((5.0 * i, report(problems=i % 2)) for i in range(1, 121)), until=900)

    first = sorted(server.writes[0] for server in servers)
    assert first[-1] - first[0] > 10
    assert first[-1] <= 5 + 2 + 30
    assert all(later - earlier > 299.9 for server in servers for earlier, later in pairwise(server.writes))


def test_a_change_that_did_not_last_is_not_written() -> None:
    server = Server()
    server.annotations[STATUS] = render_status(report(handshaken=2), {}, version="1")
    server.hear((0, report()), (1, report(handshaken=2)))

    assert server.writes == []


def test_a_status_that_could_not_be_written_is_tried_again() -> None:
    server = Server()
    server.broken = True
    server.hear((0, report()), until=130)
    assert 3 < len(server.writes) < 10

    server.broken = False
    server.hear((0, report()), until=130)
    assert server.annotations[STATUS]


def test_a_problem_is_logged_when_it_comes_and_when_it_goes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    Server().hear((0, report(problems=1)), (1, report(problems=1)), (2, report()))

    assert caplog.messages == ["problem: node n0: bad [NoEndpoint]", "solved: node n0: bad [NoEndpoint]"]


def test_a_restart_forgets_neither_since_when_a_problem_is_there_nor_that_it_has_gone() -> None:
    server = Server()
    server.hear((0, report(problems=2)))
    server.now, server.teller = 1000.0, server.anew()
    server.events.clear()
    waiting = replace(report(problems=1), waiting=True)
    server.hear((0, replace(waiting, registered=False, problems=frozenset())), (1, waiting), (2, report(problems=1)))

    assert json.loads(server.annotations[STATUS])["problems"] == [
        {"code": "NoEndpoint", "object": "node n0", "since": "1970-01-01T00:00:00Z", "text": "bad"}
    ]
    assert server.events == [("node n0", True), ("node n1", False)]


@pytest.mark.parametrize("status", ["", "[]", "{", '{"problems":3}', '{"problems":[{"code":3,"since":[]}]}', "[" * 100_000])
def test_a_status_that_somebody_else_wrote_is_no_memory(status: str) -> None:
    server = Server()
    server.annotations[STATUS] = status
    server.now = 1.0
    server.hear((0, report(problems=1)))

    assert json.loads(server.annotations[STATUS])["problems"][0]["since"] == "1970-01-01T00:00:01Z"


def test_a_node_that_changes_all_the_time_fills_no_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    server = Server()
    now = [0.0]
    monkeypatch.setattr(server.teller, "_lines", Budget(4.0, lambda: now[0]))
    for number in range(50):
        server.teller.tell(report(problems=number % 2), seconds=0)
    assert len(caplog.messages) == 4

    now[0] = 3.0
    server.teller.tell(report(), seconds=0)
    assert caplog.messages[4:] == [
        "left out 45 lines about problems that come and go all the time",
        "solved: node n0: bad [NoEndpoint]",
    ]


def test_a_turn_without_changes_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    Server().hear((0, report()))

    assert caplog.messages == []


def test_a_changed_endpoint_that_could_not_be_written_is_wanted_again() -> None:
    bench = Bench(A, B)
    bench.turn()
    bench.store.put(replace(B, internal_ips=ips("192.0.2.77")))
    bench.tables["peers"].broken = "refused"
    bench.turn()
    bench.tables["peers"].broken = ""
    bench.turn()

    assert str(bench.tables["peers"].content[key("b")].endpoint) == "192.0.2.77:24601"


def test_a_step_waits_only_with_something_to_write_and_what_needs_it_waits_all_the_same() -> None:
    bench = Bench(A)
    bench.turn()
    bench.tables["device"].broken = "taken"
    bench.store.put(replace(A, node_ips=ips("192.0.2.77")))
    bench.store.put(B)
    report = bench.turn()

    waiting = {name: step.waits_for for name, step in report.steps.items() if step.waits_for}
    assert waiting == {"peers": "link", "routes": "link"}
    assert not report.steps["cni"].failed


def test_what_a_program_says_in_several_lines_is_a_problem_of_one() -> None:
    bench = Bench(A, B)
    bench.tables["firewall"].broken = "nft: Error: no\nadd table\n    ^^^^^\n"
    assert ["nft: Error: no add table ^^^^^" in p.text for p in bench.turn().problems] == [True]


def test_withdrawing_the_cni_file_waits_for_nothing() -> None:
    bench = Bench(A, B)
    bench.turn()
    assert bench.tables["cni"].content
    bench.tables["annotations"].broken = "away"
    bench.store.put(node("0", pods="10.1.0.0/24", internal="192.0.2.9", created="2025-01-01T00:00:00Z"))
    bench.turn()

    assert not bench.tables["cni"].content


def test_the_cni_file_goes_before_a_server_is_asked_that_may_be_slow() -> None:
    bench, seen = Bench(A, B), list[bool]()
    bench.turn()
    bench.store.put(node("0", pods="10.1.0.0/24", internal="192.0.2.9", created="2025-01-01T00:00:00Z"))
    bench.tables["annotations"].point = lambda: seen.append(bool(bench.tables["cni"].content))
    bench.turn()

    assert bench.tables["annotations"].writes == 2
    assert (seen[0], seen[-1]) == (True, False), "read with it, written without it"
    assert sum(seen) == 1


def test_a_turn_that_waits_solves_no_problem(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    Server().hear((0, report(problems=1)), (1, replace(report(), waiting=True)), (2, report(problems=1)))

    assert caplog.messages == ["problem: node n0: bad [NoEndpoint]"]


def test_what_a_turn_that_waits_has_told_goes_with_the_next_one_that_waits(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    whole, waits, waits_well = report(problems=2), replace(report(problems=1), waiting=True), replace(report(), waiting=True)
    server = Server()
    server.hear((0, whole), (1, waits), (2, waits_well), (3, waits_well))

    assert caplog.messages[2:] == ["solved: node n0: bad [NoEndpoint]"]
    assert [each["object"] for each in json.loads(server.annotations[STATUS])["problems"]] == ["node n1"]


def test_a_problem_of_any_length_leaves_the_status_short() -> None:
    server = Server()
    server.hear((0, replace(report(), problems=frozenset({replace(odd(0), text="y" * 100_000)}))))

    assert len(server.annotations[STATUS]) < 500


def test_the_fake_peers_route_an_address_to_one_peer_only() -> None:
    peers = FakePeers()
    one = Peer(endpoint=None, allowed_ips=nets("10.0.0.0/8"))
    run(peers.apply(Changes(add={key("b"): one}, change={}, was={}, remove={})))
    run(peers.apply(Changes(add={key("c"): one}, change={}, was={}, remove={})))

    assert not peers.content[key("b")].allowed_ips


def test_an_event_that_is_older_than_the_answer_to_our_own_write_changes_nothing() -> None:
    now = 0.0
    requests: list[None] = []
    store = ClusterStore(lambda: requests.append(None), clock=lambda: now)
    before, after = A, replace(A, annotations=(("wigglenet/pod-cidrs", "[]"),))
    store.put(before, Version("7"))
    store.answer(after, Version("12"))
    asked = len(requests)
    store.put(before, Version("9"))

    assert store.own(A.name) == after
    assert len(requests) == asked, "no pass, no repair"
    assert not store.behind({A.uid: Version("12")})
    store.put(before, Version("13"))
    assert store.own(A.name) == before, "what comes after it counts"
    store.answer(after, Version("20"))
    now = PRODUCTION.answer_leads
    store.put(before, Version("3"))
    assert store.own(A.name) == before, "a server that was restored is believed"


def test_a_node_that_cannot_be_read_is_not_waited_for() -> None:
    store = ClusterStore(lambda: None)
    store.expect([A.uid, B.uid])
    store.put(A, Version("1"))
    store.pass_over(B.uid, Version("2"))

    assert store.complete
    assert not store.behind({A.uid: Version("1"), B.uid: Version("2")}), "no other watch would tell more"
    assert store.behind({A.uid: Version("1"), B.uid: Version("3")})
