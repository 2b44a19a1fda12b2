"""A place: a network, mount and process namespace set that dies with its owner, whatever kills the owner.

Every process of a lab is a descendant of an `unshare … --kill-child` that itself is killed by the kernel when the
thread that made it ends (`setpriv --pdeathsig`), so nothing outlives a `kill -9`; every file lies on a tmpfs of the
place, so nothing is left on the disk.  Knows nothing of Kubernetes or WireGuard.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

CLONE_NEWNET = 0x40000000  # linux/sched.h


class CommandError(Exception):
    """A command in a place failed: what it was, its exit status and what it said."""


class Place:
    """Namespaces held by an anchor process; commands, sockets and files in them."""

    def __init__(self, name: str, *private: str) -> None:
        """Make the namespaces; each directory in `private` is an empty tmpfs there, as are /run and writes to /etc."""
        self.name = name
        self._started: list[subprocess.Popen[str]] = []
        anchor = str(Path(__file__).with_name("anchor.py"))
        unshare = ["unshare", "--mount", "--net", "--pid", "--uts", "--fork", "--kill-child", "--propagation", "private"]
        self._holder = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", *unshare, sys.executable, "-I", anchor, *private],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._holder.stdout is not None
        first = self._holder.stdout.readline().strip()
        if not first:
            _, said = self._holder.communicate()
            raise CommandError(f"no namespaces for {name}; this needs root: {said.strip()}")
        self.pid = int(first)
        self.run("ip", "link", "set", "lo", "up")

    @property
    def root(self) -> Path:
        """The place's root directory as seen from outside; follow no absolute symlink (`/var/run`) through it."""
        return Path(f"/proc/{self.pid}/root")

    def path(self, inside: str) -> Path:
        """A file of the place, from outside."""
        return self.root / inside.lstrip("/")

    def argv(self, *command: str) -> list[str]:
        """The command line that runs `command` in this place."""
        entered = ("--mount", "--net", "--pid", "--uts", "--root")  # the root too: this machine may itself be a chroot
        return ["nsenter", "--target", str(self.pid), *entered, "--", *command]

    def popen(self, *command: str, log: str | None = None, env: Mapping[str, str] | None = None) -> "subprocess.Popen[str]":
        """Start a process here; its output goes to the file `log` of the place (never to a pipe that may break)."""
        out = self.path(log).open("a") if log else subprocess.PIPE
        with contextlib.ExitStack() as stack:
            if not isinstance(out, int):
                stack.enter_context(out)
            process = subprocess.Popen(
                self.argv(*command),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT if log else subprocess.PIPE,
                env=None if env is None else {**installation(), **env},
                text=True,
                start_new_session=True,
            )
        self._started.append(process)
        return process

    def run(self, *command: str, check: bool = True, stdin: str = "") -> str:
        """The standard output of a command; CommandError with all that it said if it fails and `check` is true."""
        done = subprocess.run(self.argv(*command), input=stdin, capture_output=True, text=True, check=False)
        if check and done.returncode:
            said = (done.stdout + done.stderr).strip()
            raise CommandError(f"{self.name}: {' '.join(command)} ended with {done.returncode}: {said}")
        return done.stdout

    def batch(self, *lines: str) -> None:
        """Run `ip` commands in one process, which sees the machine's process ids, so that `netns PID` can be said."""
        command = ["nsenter", f"--net=/proc/{self.pid}/ns/net", "ip", "-batch", "-"]
        done = subprocess.run(command, input="\n".join(lines) + "\n", capture_output=True, text=True, check=False)
        if done.returncode:
            raise CommandError(f"{self.name}: {'; '.join(lines)}: {done.stderr.strip()}")

    def network(self, netns: str | None = None) -> "contextlib.AbstractContextManager[None]":
        """Within the block, this thread's new sockets are of this place (or of its named namespace `netns`)."""
        inside = f"run/netns/{netns}" if netns else None
        return entered(self.path(inside) if inside else Path(f"/proc/{self.pid}/ns/net"))

    def close(self) -> None:
        """End every process of the place and the place with it; twice is fine."""
        if self._holder.poll() is None:
            os.kill(self.pid, signal.SIGKILL)  # the anchor; unshare reaps it and ends, the kernel ends the rest
        self._holder.communicate()
        for process in self._started:
            process.wait()


@contextlib.contextmanager
def entered(namespace: Path) -> Iterator[None]:
    """Put this thread into a network namespace for a while; sockets made meanwhile stay there."""
    libc = ctypes.CDLL(None, use_errno=True)

    def setns(descriptor: int) -> None:
        if libc.setns(descriptor, CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(namespace))

    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        target = os.open(namespace, os.O_RDONLY)
        try:
            setns(target)
        finally:
            os.close(target)
        try:
            yield
        finally:
            setns(before)
    finally:
        os.close(before)


class Process(Protocol):
    """A process of a place: `pid` is that of a process outside that waits for it, its parent."""

    @property
    def pid(self) -> int:
        """As the machine counts it."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """The exit status; subprocess.TimeoutExpired if it does not end in time (seconds)."""
        ...


def stop(process: Process, *, seconds: float = 10.0) -> int:
    """End a process that was started in a place by SIGTERM, then SIGKILL; its exit status."""
    for number, patience in ((signal.SIGTERM, seconds), (signal.SIGKILL, max(seconds, 10.0))):
        signal_command(process, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(patience)
    raise CommandError(f"process {process.pid} does not end")


def signal_command(process: Process, number: int) -> None:
    """Send a signal to a command in a place; its parent, such as nsenter, stays to report its exit."""
    for child in children(process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)


def children(pid: int) -> Sequence[int]:
    """The ids of the children of a process, none if it is gone."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def installation() -> dict[str, str]:
    """What finds the programs and the package that this process runs; whoever starts another needs it."""
    return {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
