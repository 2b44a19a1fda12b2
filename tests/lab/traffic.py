"""What goes on between all pods of a lab while something is done to it, and who is to blame for what was lost.

Echoes and a TCP connection over every pair in both families, and a capture of the underlay.
"""

import selectors
import socket
import struct
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import permutations
from types import TracebackType
from typing import Self

from tests.lab.lab import Lab
from tests.lab.pod import Pod
from tests.lab.wait import SLOWNESS, NotSeenError, eventually

Pair = frozenset[str]
"""Two nodes by name."""
TALK_SECONDS = 0.05 * SLOWNESS
"""Between two words of a connection."""
PATIENCE_SECONDS = 130.0
"""For what was said last to arrive: TCP tries again after as long as it was dark, 120 s at most (TCP_RTO_MAX)."""
BLUR_SECONDS = 0.5 * SLOWNESS
"""An echo may have been on its way for so long when it was lost; a busy machine takes 0.2 s."""
WORD = struct.Struct("!Q")


@dataclass(frozen=True, slots=True)
class Window:
    """A time, Unix seconds, in which some pairs may lose packets."""

    pairs: frozenset[Pair] | None
    """None: all."""
    began: float
    ended: float

    def excuses(self, pair: Pair, lost: float) -> bool:
        """Whether that pair may lose a packet that was sent then."""
        return (self.pairs is None or pair in self.pairs) and self.began - BLUR_SECONDS <= lost <= self.ended


@dataclass(slots=True)
class Talk:
    """A connection, on which the near end counts and the far end listens."""

    title: str
    near: socket.socket
    far: socket.socket
    said: int = 0
    heard: int = 0
    unsent: bytes = b""
    rest: bytes = b""
    trouble: str = ""

    def say(self) -> None:
        """The next number, or what broke; nothing while the system takes no more."""
        if not self.unsent:
            self.unsent = WORD.pack(self.said)
            self.said += 1
        try:
            self.unsent = self.unsent[self.near.send(self.unsent) :]
        except BlockingIOError:
            return
        except OSError as error:
            self.trouble = f"cannot be sent on: {error}"

    def listen(self) -> None:
        """What has arrived must be the next numbers."""
        try:
            came = self.rest + (chunk := self.far.recv(1 << 16))
        except OSError as error:
            self.trouble = f"cannot be heard: {error}"
            return
        whole = len(came) // WORD.size * WORD.size
        numbers = [number for (number,) in WORD.iter_unpack(came[:whole])]
        if not chunk or numbers != list(range(self.heard, self.heard + len(numbers))):
            self.trouble = f"after {self.heard}: {numbers or 'it was closed'}"
        self.heard, self.rest = self.heard + len(numbers), came[whole:]


class Talks:
    """Connections that never rest, served by one thread."""

    def __init__(self, pairs: Iterable[tuple[Pod, Pod, int]]) -> None:
        self._talks = [_connected(*pair) for pair in pairs]
        self._last, self._patience = threading.Event(), 0.0
        self._thread = threading.Thread(target=self._serve, daemon=True)  # a failed test does not stop it
        self._thread.start()

    def stop(self, *, seconds: float) -> list[str]:
        """Say no more, wait so long until all has arrived, and tell what has not gone well."""
        self._patience = seconds
        self._last.set()
        self._thread.join()
        return [
            f"TCP {talk.title}: {talk.trouble or f'{talk.heard} of {talk.said} arrived'}"
            for talk in self._talks
            if talk.trouble or talk.heard != talk.said or not talk.said
        ]

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            for talk in self._talks:
                selector.register(talk.far, selectors.EVENT_READ, talk)
            due, end = time.monotonic(), float("inf")
            while time.monotonic() < end and not self._done():
                for key, _ in selector.select(max(0.0, min(due, end) - time.monotonic())):
                    key.data.listen()
                    if key.data.trouble:
                        selector.unregister(key.fileobj)
                if time.monotonic() >= due:
                    due += TALK_SECONDS
                    if self._last.is_set():
                        end = min(end, time.monotonic() + self._patience)
                    self._say()
        for talk in self._talks:
            talk.near.close()
            talk.far.close()

    def _say(self) -> None:
        for talk in self._talks:
            if not talk.trouble and (talk.unsent or not self._last.is_set()):
                talk.say()

    def _done(self) -> bool:
        return self._last.is_set() and all(talk.trouble or talk.heard == talk.said > 0 for talk in self._talks)


def _connected(one: Pod, other: Pod, version: int) -> Talk:
    with other.listen(version, port=8090) as server:
        near = one.connect(other.addresses[version], port=8090)
        server.settimeout(5.0)
        far, _ = server.accept()
    near.settimeout(0)
    return Talk(f"{one.name} -> {other.name} IPv{version}", near, far)


class Traffic:
    """Everything that flows, from when it flows until it is stopped, or the block that it is for ends."""

    def __init__(self, lab: Lab) -> None:
        pods = dict(zip(lab.nodes, lab.pods(), strict=True))
        asked = [(a, b, version) for a, b in permutations(pods, 2) for version in pods[a].addresses]
        self._capture = lab.capture(wanted=lambda packet: packet.of_pods)
        self._talks = Talks((pods[a], pods[b], version) for a, b, version in asked)
        self._streams = [(Pair({a, b}), pods[a].stream(pods[b].addresses[version])) for a, b, version in asked]
        self._stopped = False

    def __enter__(self) -> Self:
        self.wait_flowing()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self._stopped:  # something else has failed: no more than the end is of interest
            self._talks.stop(seconds=0)
            for _, stream in self._streams:
                stream.stop()
            self._capture.stop()

    def wait_flowing(self) -> None:
        """Return when over every pair an echo was answered that was sent after now."""
        now = time.time()
        for _, stream in self._streams:
            eventually(lambda s=stream: s.last_answered() > now, what=f"{stream.title} is answered", seconds=20)  # type: ignore[misc]  # bool

    def stop(self, excuses: Sequence[Window]) -> list[str]:
        """End it; all that was lost without an excuse, broke, or was sent in clear. Times are Unix seconds."""
        with suppress(NotSeenError):  # what is dark at the end is told as lost
            self.wait_flowing()
        wrong = self._talks.stop(seconds=PATIENCE_SECONDS)
        for pair, stream in self._streams:
            sent, numbers = stream.stop()
            lost = [at for at in stream.when_lost() if not any(window.excuses(pair, at) for window in excuses)]
            if lost or not sent:
                times = ", ".join(f"{at:.2f}" for at in lost[:20])
                wrong.append(f"{stream.title}: {len(lost)} of {len(numbers)} lost of {sent} have no excuse: {times}")
        seen = {packet.addresses for packet in self._capture.stop()}
        self._stopped = True
        return wrong + [f"in clear: {addresses}" for addresses in seen]
