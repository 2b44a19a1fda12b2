"""Drift is repaired at once, a fight is not fought at full speed, and both are told apart."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import cycle, pairwise
from typing import Any

import pytest

from tests.builders import nets, node
from tests.unit.test_agent import Bench
from tests.virtual_time import run
from wigglenet_operator.errors import KernelError
from wigglenet_operator.model.changes import diff
from wigglenet_operator.model.timing import PRODUCTION
from wigglenet_operator.plan.repairs import AT_ONCE, count_repairs

A = node("a", pods="10.1.0.0/24 fd00:1::/64", internal="192.0.2.1")
B = node("b", pods="10.2.0.0/24 fd00:2::/64", internal="192.0.2.2")
ROUNDING = 1e-6
"""Seconds by which a sum of steps of 0.1 s may be off."""


class Fought(Bench):
    """An agent on fakes, of which something else keeps taking a route away."""

    def __init__(self) -> None:
        super().__init__(A, B)
        self.turn()
        (self.route,) = [key for key in self.tables["routes"].content if key.to in nets("10.2.0.0/24")]

    def repairs(self, *, seconds: float, every: float = 0.1) -> list[float]:
        """The times at which the route was restored, although it was removed again before each reconcile pass."""
        return run(self._repairs(self.now + seconds, every))

    async def _repairs(self, end: float, every: float) -> list[float]:
        found = []
        while self.now < end:
            self.now += every
            self.tables["routes"].content.pop(self.route, None)
            await self.reconciler.turn()
            if self.route in self.tables["routes"].content:
                found.append(self.now)
        return found

    def fight(self) -> None:
        """Remove the route twice a second until the pause between two repairs is the longest."""
        self.repairs(seconds=100, every=0.5)


def assert_ever_slower(times: list[float]) -> None:
    """The first repairs follow at once; from then on each pause is twice the one before, up to the longest."""
    assert times[AT_ONCE - 2] < 1
    pauses = [later - earlier for earlier, later in pairwise(times[AT_ONCE - 1 :])]
    shortest = [min(0.5 * 2**number, PRODUCTION.repair_pause_most) for number in range(len(pauses))]
    assert [(p, s) for p, s in zip(pauses, shortest, strict=True) if p < s - ROUNDING] == []
    assert shortest[-2:] == [PRODUCTION.repair_pause_most] * 2


def test_what_is_taken_away_now_and_then_is_back_at_once_every_time() -> None:
    fought = Fought()

    assert len(fought.repairs(seconds=20 * PRODUCTION.repair_calm, every=PRODUCTION.repair_calm)) == 20
    assert len(fought.repairs(seconds=3, every=1)) == 3
    assert not fought.turn().problems


def test_what_is_taken_away_all_the_time_is_put_back_ever_more_slowly_and_named() -> None:
    fought = Fought()
    times = [*fought.repairs(seconds=100), *fought.repairs(seconds=500, every=1)]

    assert len(times) < 600 / PRODUCTION.repair_pause_most + 15
    assert times[-1] - times[-2] >= PRODUCTION.repair_pause_most
    assert_ever_slower(times)
    report = fought.turn()
    assert {p.subject for p in report.problems} == {"route 10.2.0.0/24"}
    assert report.phase == "Degraded"


def test_a_fight_over_one_thing_delays_no_other_repair() -> None:
    fought = Fought()
    fought.fight()
    fought.tables["addresses"].content.clear()
    fought.turn()

    assert len(fought.tables["addresses"].content) == 2


def test_after_a_quiet_minute_the_fight_is_over() -> None:
    fought = Fought()
    fought.fight()
    fought.now += PRODUCTION.repair_pause_most
    fought.turn()
    fought.now += PRODUCTION.repair_calm

    assert fought.turn().phase == "Ready"
    assert len(fought.repairs(seconds=0.35)) == 4


def test_a_link_that_is_made_anew_gets_everything_at_once() -> None:
    fought = Fought()
    fought.fight()
    fought.tables["routes"].content.clear()
    fought.link_index += 1
    fought.turn()

    assert fought.route in fought.tables["routes"].content


def test_a_new_wish_is_no_repair() -> None:
    fought = Fought()
    fought.fight()
    for number in range(3 * AT_ONCE):
        fought.store.put(replace(B, node_ips=tuple(n.network_address for n in nets(f"192.0.2.{100 + number}/32"))))
        fought.now += 0.1
        report = fought.turn()
        assert report.steps["peers"].changed == 1


def test_what_comes_and_goes_by_wish_is_no_repair() -> None:
    """An address has no value: that it is there and that it is gone are two things all the same."""
    bench = Bench(A, B)
    bench.turn()
    for number in range(3 * AT_ONCE):
        bench.store.put(replace(A, spec_pod_cidrs=A.spec_pod_cidrs | nets("10.3.0.0/24" if number % 2 else "")))
        bench.now += 0.1
        assert bench.turn().problems == frozenset()
        assert len(bench.tables["addresses"].content) == 2 + number % 2


@pytest.mark.parametrize("table", ["closed", "sysctls", "peers", "annotations", "cni", "key"])
def test_a_failed_repair_counts_for_nothing(table: str) -> None:
    bench = Bench(A, B)
    bench.turn()
    bench.tables[table].content.clear()
    for _ in range(3 * AT_ONCE):
        bench.tables[table].broken = ""
        bench.tables[table].broken_writes = "refused"
        bench.now += 0.1
        assert bench.turn().failed
    bench.tables[table].broken_writes = ""
    bench.now += 0.1

    assert not bench.turn().failed
    assert bench.tables[table].content


class Ruined(Bench):
    """An agent on fakes, of which something else keeps ruining the firewall."""

    def __init__(self) -> None:
        super().__init__(A, B)
        self.turn()
        self.wanted = dict(self.tables["firewall"].content)
        self.chains = {item: lines for item, lines in self.wanted.items() if item.kind == "chain"}

    def repairs(self, *ruins: Mapping[Any, Any], seconds: float, every: float = 0.1) -> list[float]:
        """The times at which it was restored, although each reconcile pass finds the next of `ruins` in its place."""
        return run(self._repairs(cycle(ruins), self.now + seconds, every))

    async def _repairs(self, left: Iterator[Mapping[Any, Any]], end: float, every: float) -> list[float]:
        found = []
        while self.now < end:
            self.now += every
            content = self.tables["firewall"].content = dict(next(left))
            await self.reconciler.turn()
            assert self.tables["firewall"].content in (self.wanted, content)  # never a part
            if self.tables["firewall"].content == self.wanted:
                found.append(self.now)
        return found


@pytest.mark.parametrize("ruin", ["all", "sets"])
def test_a_firewall_that_is_fought_over_is_held_back_as_a_whole_and_named_once(ruin: str) -> None:
    ruined = Ruined()
    left = ruined.chains if ruin == "sets" else {}
    times = [*ruined.repairs(left, seconds=50), *ruined.repairs(left, seconds=100, every=1)]

    assert len(times) < 150 / PRODUCTION.repair_pause_most + 15
    assert times[-1] - times[-2] >= PRODUCTION.repair_pause_most
    assert_ever_slower(times)
    ruined.tables["firewall"].content = dict(left)
    report = ruined.turn()
    assert [p.subject for p in report.problems] == ["table inet wigglenet"]
    assert report.phase == "Degraded"


def test_a_firewall_that_is_ruined_in_another_way_each_time_is_held_back_as_well() -> None:
    ruined = Ruined()

    times = [*ruined.repairs({}, ruined.chains, seconds=40), *ruined.repairs({}, ruined.chains, seconds=60, every=1)]

    assert len(times) < 100 / PRODUCTION.repair_pause_most + 15


def test_a_fight_over_the_firewall_delays_nothing_else() -> None:
    ruined = Ruined()
    ruined.repairs({}, seconds=40, every=0.5)
    for table in ("addresses", "routes", "peers", "sysctls"):
        ruined.tables[table].content = {}
    ruined.turn()

    assert [table for table in ("addresses", "routes", "peers", "sysctls") if not ruined.tables[table].content] == []


def test_a_firewall_that_should_be_another_is_written_at_once_in_the_middle_of_a_fight() -> None:
    ruined = Ruined()
    ruined.repairs({}, seconds=40, every=0.5)
    ruined.store.put(node("c", pods="10.3.0.0/24", internal="192.0.2.3"))
    ruined.now += 0.1
    ruined.turn()

    assert ruined.wanted.items() < ruined.tables["firewall"].content.items()


def test_a_repair_is_what_brings_back_the_settled_state_and_nothing_else() -> None:
    settled = {"routes": {"kept": 1, "undone": 2, "other": 3, "unwanted": 4}}
    there = {"kept": 1, "other": 3, "unwanted": 4, "foreign": 5}
    wanted = {"kept": 1, "undone": 2, "other": 30, "new": 6}

    assert count_repairs({"routes": diff(there, wanted)}, settled) == {"routes": 2}, "undone and foreign"
    assert count_repairs({"routes": diff(wanted, wanted)}, settled) == {}
    assert count_repairs({"peers": diff(there, wanted)}, settled) == {}, "never settled by this agent"
    assert count_repairs({"routes": KernelError("cannot be read")}, settled) == {}


def test_an_element_that_is_fought_over_stays_held_back_while_others_are_written() -> None:
    ruined = Ruined()
    ruined.turn()
    fought = next(item for item in ruined.wanted if item.element and item.name == "wt_own4")
    without = {item: content for item, content in ruined.wanted.items() if item != fought}
    ruined.repairs(without, seconds=40, every=0.5)
    ruined.tables["firewall"].content = dict(without)
    ruined.store.put(node("c", pods="10.3.0.0/24", internal="192.0.2.3"))
    ruined.now += 0.1
    ruined.turn()

    content = ruined.tables["firewall"].content
    assert fought not in content
    assert content.keys() - without.keys(), "what the new Node brings"
