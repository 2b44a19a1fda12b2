"""Mishap after mishap, several at once: whatever was lost, somebody is to blame for it, and in the end all is as it was.

`--soak SECONDS` says how long, `--seed` which mishaps in which order.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, cycle
from pathlib import Path
from random import Random

import pytest

from tests.lab.faults import FAULTS
from tests.lab.lab import Lab
from tests.lab.strike import Fault, Strike, look, strike
from tests.lab.traffic import Traffic
from wigglenet_operator.model.facts import WireGuardKind

GROWTH = 5 << 20
"""Bytes that an agent may have more at the end than after the first third of the time."""
Round = Sequence[tuple[str, Fault]]


def rounds(random: Random, names: Sequence[str], faults: Sequence[Fault]) -> Iterator[Round]:
    """What happens at once, to different nodes, for ever.

    Each node meets each fault before it meets one again: who is hurt again and again in one place is repaired ever more
    slowly, and that is meant so.  The agent of the first one lives through it all, for its memory is measured.
    """
    decks = {
        name: cycle(random.sample(rows, len(rows)))
        for name in names
        for rows in [[fault for fault in faults if not (fault.restarts if name == names[0] else fault.anywhere)]]
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
    """What the agents did since then, by their logs, which were so long in characters."""
    said = chain.from_iterable(node.log()[since[name] :].splitlines() for name, node in lab.nodes.items())
    return [line for line in said if '"converged ' in line or '"failed ' in line]


def test_whatever_happens_costs_no_more_than_it_may_and_leaves_nothing_behind(lab: Lab, request: pytest.FixtureRequest) -> None:
    seconds, seed = request.config.getoption("--soak"), request.config.getoption("--seed")
    print(f"--soak {seconds} --seed {seed}")
    faults = [fault for fault in FAULTS if not fault.userspace or lab.wireguard is WireGuardKind.USERSPACE]
    lab.expect_mesh()
    for node in lab.nodes.values():
        node.wait_working()  # with every pod that has just started
    before = {name: look(lab, node) for name, node in lab.nodes.items()}
    begun, strikes, early = time.monotonic(), list[Strike](), dict[int, int]()
    with Traffic(lab) as traffic, ThreadPoolExecutor(len(lab.nodes)) as threads:
        for drawn in rounds(Random(seed), list(lab.nodes), faults):  # noqa: S311 - the same ones again
            print(f"{time.time():.2f} {drawn}")
            strikes += threads.map(lambda one: strike(lab, lab.nodes[one[0]], one[1]), drawn)
            passed = time.monotonic() - begun
            early = early or (agents(lab) if passed > seconds / 3 else {})
            if passed > seconds:
                break
        wrong = traffic.stop([window for one in strikes for window in one.loose()])
    assert not wrong, "\n".join([*wrong, *map(str, strikes), lab.story()])

    since = {name: len(node.log()) for name, node in lab.nodes.items()}
    monitors = {
        name: n.place.popen("timeout", "11", "ip", "monitor", "link", "address", "route") for name, n in lab.nodes.items()
    }
    assert {name: monitor.communicate()[0] for name, monitor in monitors.items()} == dict.fromkeys(lab.nodes, "")
    assert wrote(lab, since) == []
    assert {name: look(lab, node) for name, node in lab.nodes.items()} == before

    grown = {pid: late - early[pid] for pid, late in agents(lab).items() if pid in early}
    assert grown, "no agent has lived through it"
    assert max(grown.values()) <= GROWTH, f"bytes: {grown}"
