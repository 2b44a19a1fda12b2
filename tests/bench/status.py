"""What a person waits for: `status` on a node with a thousand peers, and every `--help`.  `nox -s bench`.

The floor of `status`, run apart from it, is what it takes to start the interpreter and to have `wg` list the same peers.
"""

import argparse
import os
import pty
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

from tests.bench.__main__ import announce, register, settled
from tests.lab.lab import Lab
from tests.lab.node import LINK, LabNode
from tests.lab.wait import eventually

COMMANDS = ("", "run", "install-plugins", "plan", "status", "diff", "cleanup")
RUNS = 15


def main() -> None:
    """Print a line for each figure."""
    parser = argparse.ArgumentParser(prog="nox -s bench --", description=__doc__)
    parser.add_argument("--nodes", type=int, default=1000)
    arguments = parser.parse_args()
    print(f"{'figure':<52}{'p50':>9}{'max':>9}{'floor':>9}  unit, floor, goal", flush=True)
    helps()
    with Lab() as lab:
        node = lab.add_node("a", agent=False)
        node.start_wireguard()
        node.start_agent()
        node.wait_ready()
        for number in range(arguments.nodes):
            register(lab, number)
            announce(lab, number)
        eventually(lambda: len(node.wireguard()) >= arguments.nodes, what="all peers", seconds=180)
        eventually(lambda: settled(node), what="the agent is quiet", seconds=180)
        status(node, f"status, {arguments.nodes} peers, agent answers", b"agent         ready")
        node.kill()
        status(node, f"status, {arguments.nodes} peers, agent dead, API lists", b"agent         dead; the last")


def row(figure: str, took: Sequence[float], floors: Sequence[float], told: str) -> None:
    """One line."""
    floor = statistics.median(floors)
    print(f"{figure:<52}{statistics.median(took):>9.3f}{max(took):>9.3f}{floor:>9.3f}  {told}", flush=True)


def helps() -> None:
    """Every --help, in pairs with the bare interpreter."""
    for command in COMMANDS:
        words = [*filter(None, [command]), "--help"]
        asked, bare = partial(here, "-m", "wigglenet_operator", *words), partial(here, "-c", "pass")
        asked()
        took, floors = zip(*((seconds(asked), seconds(bare)) for _ in range(RUNS)), strict=True)
        row(" ".join(words), took, floors, "s; python -c pass (goal < 0.2 s)")


def status(node: LabNode, figure: str, expected: bytes) -> None:
    """Into a pipe and onto a terminal, in pairs with the floor."""
    command = node.place.argv(sys.executable, "-m", "wigglenet_operator", "status")
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.environ.get("PYTHONPATH", ""), **node.environment}
    terminal = {**environment, "TERM": "xterm-256color", "COLUMNS": "120"}

    def floor() -> bytes:
        subprocess.run(node.place.argv("wg", "show", LINK, "dump"), check=True, capture_output=True)
        return here("-c", "pass")

    def pipe() -> bytes:
        return subprocess.run(command, env=environment, check=False, capture_output=True).stdout

    runs: dict[str, Callable[[], bytes]] = {"pipe": pipe, "terminal": partial(on_terminal, command, terminal)}
    for where, run in runs.items():
        said = run()
        assert where == "terminal" or expected in said, said[:2000]
        spent = cpu()
        took = [seconds(run) for _ in range(RUNS)]
        spent = (cpu() - spent) / RUNS
        floors = [seconds(floor) for _ in range(RUNS)]
        told = f"s; wg show dump and python -c pass (goal < 0.5 s); {spent:.2f} s of CPU"
        row(f"{figure}, {where}", took, floors, told)


def on_terminal(command: list[str], environment: dict[str, str]) -> bytes:
    """What it writes to a terminal of its own."""
    pid, terminal = pty.fork()
    if not pid:
        os.execvpe(command[0], command, environment)  # noqa: S606 - there is no shell
    said = b""
    try:
        while part := os.read(terminal, 1 << 16):
            said += part
    except OSError:  # it has ended
        pass
    os.close(terminal)
    os.waitpid(pid, 0)
    return said


def here(*arguments: str) -> bytes:
    """Python's standard output."""
    return subprocess.run([sys.executable, *arguments], check=True, capture_output=True).stdout


def cpu() -> float:
    """Seconds that the commands which have ended have computed: what a machine that does other things as well is no part of."""
    times = os.times()
    return times.children_user + times.children_system


def seconds(run: Callable[[], object]) -> float:
    """How long it takes."""
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
