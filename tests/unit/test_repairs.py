"""Drift is repaired at once, a fight is not fought at full speed, and both are told apart."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import cycle
from typing import Any

import pytest

from tests.builders import nets, node
from tests.unit.test_agent import Bench
from wigglenet_operator.errors import KernelError
from wigglenet_operator.model.changes import diff
from wigglenet_operator.model.timing import PRODUCTION
from wigglenet_operator.plan.repairs import AT_ONCE, count_repairs

A = node("a", pods="10.1.0.0/24 fd00:1::/64", internal="192.0.2.1")
B = node("b", pods="10.2.0.0/24 fd00:2::/64", internal="192.0.2.2")


class Fought(Bench):
    """An agent on fakes, of which something else keeps taking a route away."""

    def __init__(self) -> None:
        super().__init__(A, B)
        self.turn()
        (self.route,) = [key for key in self.tables["routes"].content if key.to in nets("10.2.0.0/24")]

    def repairs(self, *, seconds: float, every: float = 0.1) -> list[float]:
        """When the route was put back, though it was taken away again at once."""
        end, found = self.now + seconds, []
        while self.now < end:
            self.now += every
            self.tables["routes"].content.pop(self.route, None)
            self.turn()
            if self.route in self.tables["routes"].content:
                found.append(self.now)
        return found


def test_what_is_taken_away_now_and_then_is_back_at_once_every_time() -> None:
    fought = Fought()

    assert len(fought.repairs(seconds=20 * PRODUCTION.repair_calm, every=PRODUCTION.repair_calm)) == 20
    assert len(fought.repairs(seconds=3, every=1)) == 3
    assert not fought.turn().problems


def test_what_is_taken_away_all_the_time_is_put_back_ever_more_slowly_and_named() -> None:
    fought = Fought()
    times = fought.repairs(seconds=600)

    assert len(times) < 600 / PRODUCTION.repair_pause_most + 15
    assert times[AT_ONCE - 2] < 1
    assert times[-1] - times[-2] >= PRODUCTION.repair_pause_most
    report = fought.turn()
    assert {p.subject for p in report.problems} == {"route 10.2.0.0/24"}
    assert report.phase == "Degraded"


def test_a_fight_over_one_thing_delays_no_other_repair() -> None:
    fought = Fought()
    fought.repairs(seconds=100)
    fought.tables["addresses"].content.clear()
    fought.turn()

    assert len(fought.tables["addresses"].content) == 2


def test_after_a_quiet_minute_the_fight_is_over() -> None:
    fought = Fought()
    fought.repairs(seconds=100)
    fought.now += PRODUCTION.repair_pause_most
    fought.turn()
    fought.now += PRODUCTION.repair_calm

    assert fought.turn().phase == "Ready"
    assert len(fought.repairs(seconds=0.35)) == 4


def test_a_link_that_is_made_anew_gets_everything_at_once() -> None:
    fought = Fought()
    fought.repairs(seconds=100)
    fought.tables["routes"].content.clear()
    fought.link_index += 1
    fought.turn()

    assert fought.route in fought.tables["routes"].content


def test_a_new_wish_is_no_repair() -> None:
    fought = Fought()
    fought.repairs(seconds=100)
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

    def repairs(self, *ruins: Mapping[Any, Any], seconds: float) -> list[float]:
        """When it was put back, though it was made one of these again at once, one after the other."""
        end, found, left = self.now + seconds, [], cycle(ruins)
        while self.now < end:
            self.now += 0.1
            content = self.tables["firewall"].content = dict(next(left))
            self.turn()
            assert self.tables["firewall"].content in (self.wanted, content)  # never a part
            if self.tables["firewall"].content == self.wanted:
                found.append(self.now)
        return found


@pytest.mark.parametrize("ruin", ["all", "sets"])
def test_a_firewall_that_is_fought_over_is_held_back_as_a_whole_and_named_once(ruin: str) -> None:
    ruined = Ruined()
    left = ruined.chains if ruin == "sets" else {}
    times = ruined.repairs(left, seconds=150)

    assert len(times) < 150 / PRODUCTION.repair_pause_most + 15
    assert times[AT_ONCE - 2] < 1
    assert times[-1] - times[-2] >= PRODUCTION.repair_pause_most
    ruined.tables["firewall"].content = dict(left)
    report = ruined.turn()
    assert [p.subject for p in report.problems] == ["table inet wigglenet"]
    assert report.phase == "Degraded"


def test_a_firewall_that_is_ruined_in_another_way_each_time_is_held_back_as_well() -> None:
    ruined = Ruined()

    assert len(ruined.repairs({}, ruined.chains, seconds=100)) < 100 / PRODUCTION.repair_pause_most + 15


def test_a_fight_over_the_firewall_delays_nothing_else() -> None:
    ruined = Ruined()
    ruined.repairs({}, seconds=40)
    for table in ("addresses", "routes", "peers", "sysctls"):
        ruined.tables[table].content = {}
    ruined.turn()

    assert [table for table in ("addresses", "routes", "peers", "sysctls") if not ruined.tables[table].content] == []


def test_a_firewall_that_should_be_another_is_written_at_once_in_the_middle_of_a_fight() -> None:
    ruined = Ruined()
    ruined.repairs({}, seconds=40)
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
