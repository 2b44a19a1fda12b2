"""Start the program in a node by fork instead of exec: an interpreter with everything imported waits for that.

An agent's imports take 0.8 s of CPU, and the lab starts some 250 agents and 150 commands. Tests of the start itself run the
real program.

The interpreter is a child of this process and ends with it. It forks twice, and this process is the reaper of its orphans
(prctl(2), PR_SET_CHILD_SUBREAPER), so that a program is waited for like any other child.
"""

import ctypes
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from itertools import count

from tests.lab.namespaces import Place, installation
from tests.lab.timing import LAB
from wigglenet_operator.model.timing import Timing

PRELOADED = (
    "wigglenet_operator.agent.run",
    "wigglenet_operator.agent.cleanup",
    "wigglenet_operator.agent.foresee",
    "wigglenet_operator.cli",
    "wigglenet_operator.settings",
    "wigglenet_operator.show.diff",
    "wigglenet_operator.show.status",
)
NAMESPACES = {"mnt": 0x00020000, "uts": 0x04000000, "net": 0x40000000, "pid": 0x20000000}
"""Names in /proc/PID/ns and flags of setns(2)."""
PR_SET_CHILD_SUBREAPER = 36
LARGEST = 1 << 16
"""Bytes of an order."""
MOST_DESCRIPTORS = 1 << 12
COMMANDS = count(1)
Order = tuple[int, tuple[str, ...], dict[str, str], tuple[str, str], Timing]
"""A process of the place, the program's arguments and environment, its files for output and errors, its timers."""


class Interpreter:
    """The interpreter that forks; one for this process, started when it is first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._orders: socket.socket | None = None

    def fork(self, order: Order) -> int:
        """The process that waits for the new program, a child of this process."""
        with self._lock:
            if self._orders is None:
                self._orders = self._start()
            self._orders.send(pickle.dumps(order))
            return int(self._orders.recv(LARGEST))

    def _start(self) -> socket.socket:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", "tests.lab.forked"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(command, stdin=theirs.fileno(), stdout=quiet, start_new_session=True, env=environment)
        theirs.close()
        return ours


INTERPRETER = Interpreter()


class Program:
    """The program in a node, with the part of `subprocess.Popen` that the lab uses.

    Its process is a child of the process `pid`, which waits for it, as `nsenter` would.
    """

    def __init__(
        self, place: Place, *words: str, environment: Mapping[str, str], out: str, err: str, timing: Timing = LAB
    ) -> None:
        """Start `wigglenet-operator WORDS` in a place; `out` and `err` are files there, to which it appends."""
        for path in (out, err):
            place.path(path).touch()  # whoever looks at once finds nothing, not no file
        self.pid = INTERPRETER.fork((place.pid, words, {**installation(), **environment}, (out, err), timing))
        self.returncode: int | None = None
        """The exit status, or the negative number of a signal; None while nobody has seen the end."""
        self._lock = threading.Lock()
        self._end = os.pidfd_open(self.pid)

    def poll(self) -> int | None:
        """The exit status, None while it runs."""
        with self._lock:
            if self.returncode is None and select.select([self._end], [], [], 0)[0]:
                _, status = os.waitpid(self.pid, 0)
                os.close(self._end)
                self.returncode = os.waitstatus_to_exitcode(status)
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit status; subprocess.TimeoutExpired if the program does not end in time (seconds)."""
        if self.returncode is None:
            with suppress(OSError):  # another thread has seen the end and closed it
                select.select([self._end], [], [], timeout)
        if (status := self.poll()) is None:
            raise subprocess.TimeoutExpired(["wigglenet-operator"], timeout or 0)
        return status

    def send_signal(self, number: int) -> None:
        """Send a signal to the process that waits, not to the program."""
        os.kill(self.pid, number)


def run(place: Place, *words: str, environment: Mapping[str, str], seconds: float = 60.0) -> "subprocess.CompletedProcess[str]":
    """Run `wigglenet-operator WORDS` in a place to its end; subprocess.TimeoutExpired if it takes longer."""
    number = next(COMMANDS)
    out, err = (f"/run/command-{number}.{name}" for name in ("out", "err"))
    status = Program(place, *words, environment=environment, out=out, err=err).wait(seconds)
    said = [place.path(path) for path in (out, err)]
    done = subprocess.CompletedProcess([*words], status, said[0].read_text(), said[1].read_text())
    for path in said:
        path.unlink()
    return done


def serve(orders: socket.socket) -> None:
    """Fork a program for each order, until nobody can send one any more."""
    for name in PRELOADED:
        import_module(name)
    while order := orders.recv(LARGEST):
        read, write = os.pipe()
        between = os.fork()
        if not between:
            if waiting := os.fork():
                os.write(write, str(waiting).encode())
                os._exit(0)
            _enter(*pickle.loads(order))  # noqa: S301 - from the process that has started this one
        os.waitpid(between, 0)  # from now on its child is one of the process that gave the order
        orders.send(os.read(read, LARGEST))
        os.close(read)
        os.close(write)


def _enter(place: int, words: tuple[str, ...], environment: dict[str, str], outputs: tuple[str, str], timing: Timing) -> None:
    """Fork the program into the namespaces of a process, wait for it, and end as it has ended."""
    libc = ctypes.CDLL(None, use_errno=True)
    namespaces = [(os.open(f"/proc/{place}/ns/{name}", os.O_RDONLY), flag) for name, flag in NAMESPACES.items()]
    root = os.open(f"/proc/{place}/root", os.O_RDONLY)
    for descriptor, flag in namespaces:
        if libc.setns(descriptor, flag):
            raise OSError(ctypes.get_errno(), f"setns {flag:#x}")
    os.fchdir(root)
    os.chroot(".")
    child = os.fork()
    if not child:
        os._exit(_run(words, environment, outputs, timing))
    os.closerange(0, MOST_DESCRIPTORS)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        with suppress(OSError):  # SIGKILL has no handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def _run(words: tuple[str, ...], environment: dict[str, str], outputs: tuple[str, str], timing: Timing) -> int:
    """Run the program as its entry point does; the exit status."""
    os.setsid()
    os.closerange(0, MOST_DESCRIPTORS)
    os.open(os.devnull, os.O_RDONLY)
    for path in outputs:
        os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)  # descriptors 1 and 2
    for number in (1, 2):
        os.set_inheritable(number, True)  # noqa: FBT003 - its only parameter
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - they are open until the end
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["wigglenet-operator", *words]
    from wigglenet_operator.cli import main  # noqa: PLC0415 - it is imported already

    try:
        main(timing)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(bool(ended.code))
    except BaseException:  # noqa: BLE001 - as the interpreter does
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


if __name__ == "__main__":
    serve(socket.socket(fileno=sys.stdin.fileno()))
