"""What a scrape costs, beside its floor: the same lines written by hand.  And what a turn of which nothing is new costs."""

import statistics
import time
from collections.abc import Callable, Mapping

from tests.builders import key, numbered
from wigglenet_operator.agent.health import Turned
from wigglenet_operator.agent.metrics import PEER_METRICS, Meter
from wigglenet_operator.model.desired import Endpoint, Peer
from wigglenet_operator.model.facts import NodeName, PublicKey
from wigglenet_operator.model.report import TurnReport

PEERS = 1000
RUNS = 21


def main() -> None:
    """Print a line for each figure."""
    there = {key(f"n{number}"): _peer(number) for number in range(PEERS)}
    names = {key(f"n{number}"): NodeName(f"n{number}") for number in range(PEERS)}
    meter = Meter()

    def turn() -> None:
        report = TurnReport(steps={}, problems=frozenset(), names=names, there=there, peers=PEERS)
        meter.turned(Turned(report=report, began=time.time(), ended=time.monotonic()))

    turn()
    print(f"{'figure, metrics':<46}{'p50':>8}{'max':>8}{'wall':>8}{'floor':>8}{'ratio':>7}  unit, floor, goal")
    _row(
        "scrape with 1,000 peers",
        meter.render,
        lambda: _by_hand(there, names),
        "ms of CPU; the peers' lines by hand; goal < 50 ms",
    )
    _row("count a turn with 1,000 peers", turn, lambda: {**there}, "ms of CPU; a copy of the peers; no goal")


def _peer(number: int) -> Peer:
    address = numbered(number).internal_ips[0]
    return Peer(
        endpoint=Endpoint(address=address, port=24601), allowed_ips=frozenset(), handshake=1, received=number, sent=number
    )


def _by_hand(there: Mapping[PublicKey, Peer], names: Mapping[PublicKey, NodeName]) -> bytes:
    now = time.time()
    values: tuple[Callable[[Peer], float], ...] = (lambda p: now - p.handshake, lambda p: p.received, lambda p: p.sent)
    lines = []
    for metric, value in zip(PEER_METRICS, values, strict=True):
        lines.append(f"# HELP {metric.name} {metric.help}\n# TYPE {metric.name} {metric.kind.value}\n")
        for of, peer in there.items():
            lines.append(f'{metric.name}{{endpoint="{peer.endpoint}",node="{names[of]}",public_key="{of}"}} {value(peer)}\n')
    return "".join(lines).encode()


def _row(figure: str, work: Callable[[], object], floor: Callable[[], object], told: str) -> None:
    taken, floors = ([_milliseconds(one) for _ in range(RUNS)] for one in (work, floor))
    cpu, wall = ([one[clock] for one in taken] for clock in (0, 1))
    least = statistics.median(one[0] for one in floors)
    figures = "".join(f"{value:>8.2f}" for value in (statistics.median(cpu), max(cpu), statistics.median(wall), least))
    print(f"{figure:<46}{figures}{statistics.median(cpu) / least:>7.1f}  {told}", flush=True)


def _milliseconds(work: Callable[[], object]) -> tuple[float, float]:
    """Of CPU time, which can be had on a machine that does other things too, and of the wall clock."""
    start, begun = time.process_time(), time.perf_counter()
    work()
    return (time.process_time() - start) * 1000, (time.perf_counter() - begun) * 1000


if __name__ == "__main__":
    main()
