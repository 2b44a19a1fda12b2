"""Pod networks from a file on this node, which somebody else writes at some time (cloud-init, configuration management)."""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from wigglenet_operator.kernel.monitor import watch_files
from wigglenet_operator.model.facts import IPNetwork, Offer, parse_network
from wigglenet_operator.model.problems import Code
from wigglenet_operator.model.report import Problem

LARGEST = 1 << 16
"""Bytes; of a larger file nothing is read into memory."""
MOST = 128
"""Networks: of what a Node announces 256 count (`kube.decode`), which leaves as many for those that old pods still need."""
SHOWN = 60
"""Characters of a bad line that a problem repeats."""


class PodFile:
    """One CIDR a line; blanks, empty lines and `#` comments are fine, any other line makes the whole file useless."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def offer(self) -> Offer:
        """What it says now; a problem that names file and line if that is nothing."""
        try:
            found = frozenset(self._networks())
            if len(found) > MOST:
                raise ValueError(f"it has {len(found)} networks, and {MOST} at most can be used")  # noqa: TRY301 - one way out
            return Offer(networks=found)
        except (OSError, ValueError) as error:
            reason = f"{error.strerror}" if isinstance(error, OSError) else str(error)
            text = f"no pod starts until it has one CIDR a line: {reason}"
            return Offer(problem=Problem(code=Code.PodFileUnusable, subject=f"file {self._path}", text=text))

    async def follow(self, changed: Callable[[], None]) -> None:
        """Call `changed` whenever it may say something else, for ever."""
        await watch_files([self._path.parent], changed)

    def _networks(self) -> Iterator[IPNetwork]:
        with open(self._path, "rb", opener=_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ValueError("it is no file")
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise ValueError(f"it has more than {LARGEST} bytes")
        for number, line in enumerate(content.decode(errors="replace").splitlines(), 1):
            word = line.partition("#")[0].strip()
            if word:
                try:
                    yield parse_network(word)
                except ValueError as error:
                    raise ValueError(f"line {number}, {word[:SHOWN]!r}: {str(error)[: 3 * SHOWN]}") from error


def _without_waiting(path: str, flags: int) -> int:
    """Of a pipe, the agent would wait for a writer."""
    return os.open(path, flags | os.O_NONBLOCK)
