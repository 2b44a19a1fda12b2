"""Censuses in virtual time: what Kopf never told of is found, and a watch that lags is started anew."""

import asyncio
from collections.abc import Mapping
from functools import partial

import pytest

from tests.builders import nets, node
from tests.virtual_time import run
from wigglenet_operator.agent.census import Census
from wigglenet_operator.agent.store import ClusterStore
from wigglenet_operator.errors import ApiError
from wigglenet_operator.model.facts import IPNetwork, NodeFacts, NodeUID, Version
from wigglenet_operator.model.timing import PRODUCTION

A, B = node("a"), node("b")


class Cluster:
    """An API server, and a store that hears of it only what a test has it hear."""

    def __init__(self, *nodes: NodeFacts) -> None:
        self.versions: dict[NodeUID, Version] = {n.uid: Version("1") for n in nodes}
        self.names = {n.uid: n.name for n in nodes}
        self.late: dict[NodeUID, Version] = {}
        """What the next listing does not have yet."""
        self.away = False
        self.failures: list[ApiError] = []
        """How the next listings fail."""
        self.services: frozenset[IPNetwork] | None = nets("10.96.0.0/16")
        self.listings: list[float] = []
        self.renewed: list[float] = []
        self.store = ClusterStore(lambda: None)
        self.census = Census(self.store, listed=self.list, services=self.list_services, renew=self.renew)

    async def list(self) -> Mapping[NodeUID, Version]:
        self.listings.append(asyncio.get_running_loop().time())
        if self.away:
            raise ApiError("list Nodes: away")
        if self.failures:
            raise self.failures.pop(0)
        late, self.late = self.late, {}
        return {uid: version for uid, version in self.versions.items() if uid not in late}

    async def list_services(self) -> frozenset[IPNetwork] | None:
        return self.services

    def renew(self, reason: str) -> None:
        assert reason
        self.renewed.append(asyncio.get_running_loop().time())

    def hear(self) -> None:
        """A watch that works."""
        for uid, version in self.versions.items():
            self.store.put(node(self.names[uid], uid=uid), version)

    def until(self, seconds: float, *events: tuple[float, object]) -> None:
        async def main() -> None:
            task = asyncio.create_task(self.census.keep())
            for when, event in events:
                assert callable(event)
                asyncio.get_running_loop().call_at(when, event)
            await asyncio.sleep(seconds)
            task.cancel()

        run(main())


def test_a_deletion_that_nobody_told_of_is_noticed_by_the_next_census() -> None:
    cluster = Cluster(A, B)
    cluster.hear()
    cluster.until(30, (5, partial(cluster.versions.pop, B.uid)))

    assert not cluster.store.knows(B.uid)
    assert cluster.store.knows(A.uid)
    assert cluster.renewed == []


def test_a_node_that_came_after_the_listing_stays() -> None:
    cluster = Cluster(A, B)
    cluster.hear()
    cluster.late = {B.uid: Version("1")}
    cluster.until(0.5)

    assert cluster.store.knows(B.uid)
    assert len(cluster.listings) == 2


@pytest.mark.parametrize("what", ["unseen", "changed", "restored"])
def test_a_watch_that_does_not_tell_is_started_anew_soon_after_a_census(what: str) -> None:
    cluster = Cluster(A, B)
    cluster.hear()
    match what:
        case "unseen":
            cluster.versions[NodeUID("uid-c")] = Version("9")
        case "changed":
            cluster.versions[B.uid] = Version("2")
        case _:  # an older version, as after a restored backup
            cluster.versions[B.uid] = Version("0")
    cluster.until(10)

    assert cluster.renewed[0] == PRODUCTION.relist_patience[0]


def test_what_is_on_its_way_starts_nothing_anew() -> None:
    cluster = Cluster(A, B)
    cluster.hear()
    cluster.versions[B.uid] = Version("2")
    cluster.until(60, (1, cluster.hear))

    assert cluster.renewed == []


def test_a_listing_that_goes_on_is_not_disturbed() -> None:
    """Of a large cluster some Nodes are seen between any two censuses; only when none was, the watch is taken for deaf."""
    nodes = [node(f"n{i}") for i in range(20)]
    cluster = Cluster(*nodes)
    seen = [(1.0 * i, partial(cluster.store.put, n, Version("1"))) for i, n in enumerate(nodes)]
    cluster.until(60, *seen)

    assert cluster.store.complete
    assert cluster.renewed == []


def test_a_watch_that_stays_deaf_is_started_anew_ever_more_slowly() -> None:
    cluster = Cluster(A, B)
    cluster.hear()
    cluster.versions[B.uid] = Version("2")
    cluster.until(1000)

    gaps = [later - earlier for earlier, later in zip(cluster.renewed, cluster.renewed[1:], strict=False)]
    assert gaps[0] < gaps[1] < gaps[2] < gaps[-1]
    assert gaps[-1] >= PRODUCTION.relist_patience[-1]


def test_small_clusters_are_listed_every_ten_seconds_and_large_ones_less_often() -> None:
    small, large = Cluster(A), Cluster(*(node(f"n{i}") for i in range(200)))
    for cluster in (small, large):
        cluster.hear()
        cluster.until(1000)

    assert 1000 / 13.5 < len(small.listings) < 1000 / 7.5
    assert 1000 / 75 < len(large.listings) < 1000 / 45


def test_a_census_that_is_asked_for_comes_within_a_second() -> None:
    cluster = Cluster(A)
    cluster.hear()
    cluster.until(6, (5, cluster.census.request))

    assert [time for time in cluster.listings if time >= 5]


def test_while_the_api_server_is_away_it_is_asked_every_five_seconds_and_that_is_a_problem() -> None:
    cluster = Cluster(A)
    cluster.away = True
    cluster.until(60)

    assert 60 / 6 <= len(cluster.listings) <= 60 / 5 + 1
    assert [str(p) for p in cluster.census.problems()] == ["API server: list Nodes: away"]

    cluster.away = False
    cluster.until(10)
    assert not cluster.census.problems()


def test_an_outage_is_one_problem_however_many_texts_it_has_and_a_refusal_is_another() -> None:
    cluster = Cluster(A)
    away = [ApiError("refused"), ApiError("timeout"), ApiError("503", status=503), ApiError("x"), ApiError("403", status=403)]
    texts: list[str] = []
    for failure in (*away, ApiError("y"), ApiError("403: y", status=403)):
        cluster.failures = [failure]
        cluster.until(1)
        texts += [problem.text for problem in cluster.census.problems()]
    assert texts == ["refused"] * 4 + ["403", "refused", "403"]

    cluster.until(1)
    cluster.failures = [ApiError("timeout")]
    cluster.until(1)
    assert [problem.text for problem in cluster.census.problems()] == ["timeout"]


def test_service_ranges_are_known_before_anything_is_planned_and_their_absence_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cluster = Cluster(A)
    cluster.hear()
    cluster.until(0.1)
    snapshot = cluster.store.snapshot()

    assert snapshot
    assert snapshot.services == nets("10.96.0.0/16")

    cluster.services = None
    cluster.until(100)
    assert len([m for m in caplog.messages if "no ServiceCIDR can be listed" in m]) == 1
