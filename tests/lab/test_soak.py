"""Faults in random order, several at the same time: each lost packet has a cause, and in the end the nodes are as before.

`--soak SECONDS` sets the duration, `--seed` the order of the faults.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, cycle
from pathlib import Path
from random import Random

import pytest

from tests.lab.faults.data_path import ROWS, DataPathRow, Recovery, inject_and_recover
from tests.lab.lab import Lab
from tests.lab.state import node_state
from tests.lab.timing import LAB
from tests.lab.traffic import Traffic
from wigglenet_operator.model.facts import WireGuardKind

GROWTH = 5 << 20
"""Bytes by which the memory of an agent may grow after the first third of the time."""
Round = Sequence[tuple[str, DataPathRow]]


def rounds(random: Random, names: Sequence[str], rows: Sequence[DataPathRow]) -> Iterator[Round]:
    """Endless rounds; the faults of a round are injected into different nodes at the same time.

    Each node meets each fault once before it meets one again: an agent delays a repair that it has to repeat.  The agent of the
    first node is never restarted, because its memory is measured.
    """
    decks = {
        name: cycle(random.sample(chosen, len(chosen)))
        for name in names
        for chosen in [[row for row in rows if not (row.restarts if name == names[0] else row.anywhere)]]
    }
    while True:
        drawn = [(name, next(decks[name])) for name in random.sample(names, random.randint(1, len(names)))]
        yield from ([one] for one in drawn if one[1].alone)
        yield [one for one in drawn if not one[1].alone]


def agents(lab: Lab) -> dict[int, int]:
    """Resident memory of each agent in bytes, by process id."""
    pids = [node.agent_pid() for node in lab.nodes.values()]
    return {pid: int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 for pid in pids}


def wrote(lab: Lab, since: Mapping[str, int]) -> list[str]:
    """The lines about changes and failures in the agents' logs after the given numbers of characters."""
    said = chain.from_iterable(node.log()[since[name] :].splitlines() for name, node in lab.nodes.items())
    return [line for line in said if '"converged ' in line or '"failed ' in line]


def test_whatever_happens_costs_no_more_than_it_may_and_leaves_nothing_behind(lab: Lab, request: pytest.FixtureRequest) -> None:
    seconds, seed = request.config.getoption("--soak"), request.config.getoption("--seed")
    print(f"--soak {seconds} --seed {seed}")
    rows = [row for row in ROWS if not row.userspace or lab.wireguard is WireGuardKind.USERSPACE]
    lab.expect_mesh()
    for node in lab.nodes.values():
        node.wait_working()  # also the pods that have just started are configured then
    before = {name: node_state(lab, node) for name, node in lab.nodes.items()}
    begun, recoveries, early = time.monotonic(), list[Recovery](), dict[int, int]()
    with Traffic(lab) as traffic, ThreadPoolExecutor(len(lab.nodes)) as threads:
        for drawn in rounds(Random(seed), list(lab.nodes), rows):  # noqa: S311 - a seed repeats the order
            print(f"{time.time():.2f} {drawn}")
            recoveries += threads.map(lambda one: inject_and_recover(lab, lab.nodes[one[0]], one[1]), drawn)
            passed = time.monotonic() - begun
            early = early or (agents(lab) if passed > seconds / 3 else {})
            if passed > seconds:
                break
        wrong = traffic.stop([window for one in recoveries for window in one.loose()])
    assert not wrong, "\n".join([*wrong, *map(str, recoveries), lab.story()])

    since = {name: len(node.log()) for name, node in lab.nodes.items()}
    monitors = {
        name: n.place.popen("timeout", str(LAB.resync + 1), "ip", "monitor", "link", "address", "route")
        for name, n in lab.nodes.items()
    }
    assert {name: monitor.communicate()[0] for name, monitor in monitors.items()} == dict.fromkeys(lab.nodes, "")
    assert wrote(lab, since) == []
    assert {name: node_state(lab, node) for name, node in lab.nodes.items()} == before

    grown = {pid: late - early[pid] for pid, late in agents(lab).items() if pid in early}
    assert grown, "every agent was restarted"
    assert max(grown.values()) <= GROWTH, f"bytes: {grown}"
