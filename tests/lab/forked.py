"""Start the program in a node by fork instead of exec: an interpreter with everything imported waits for that.

An agent's imports take 0.8 s of CPU, and the lab starts some 250 agents and 150 commands. The fork server is that of
`multiprocessing`; it ends with the process that uses it. Tests of the start itself run the real program.
"""

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from multiprocessing.context import ForkServerProcess
from types import ModuleType

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
    "tests.lab.forked",
)
NAMESPACES = {"mnt": 0x00020000, "uts": 0x04000000, "net": 0x40000000, "pid": 0x20000000}
"""Names in /proc/PID/ns and flags of setns(2)."""
MOST_DESCRIPTORS = 1 << 12
COMMANDS = count(1)
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([*PRELOADED])


class Program:
    """The program in a node, with the part of `subprocess.Popen` that the lab uses.

    Its process is a child of the process `pid`, which waits for it, as `nsenter` would.
    """

    def __init__(
        self, place: Place, *words: str, environment: Mapping[str, str], out: str, err: str, timing: Timing = LAB
    ) -> None:
        """Start `wigglenet-operator WORDS` in a place; `out` and `err` are files there, to which it appends."""
        self._process: ForkServerProcess = CONTEXT.Process(
            target=_enter, args=(place.pid, [*words], {**installation(), **environment}, (out, err), timing), daemon=True
        )
        with _no_main_module():
            self._process.start()

    @property
    def pid(self) -> int:
        """The process that waits for the program."""
        assert self._process.pid
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, or the negative number of a signal; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """The same as `returncode`."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """The exit status; subprocess.TimeoutExpired if the program does not end in time (seconds)."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(["wigglenet-operator"], timeout or 0)
        return self._process.exitcode

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


@contextmanager
def _no_main_module() -> Iterator[None]:
    """Keep the fork server's child from importing the main module of this process: pytest, 0.3 s."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _enter(place: int, words: list[str], environment: dict[str, str], outputs: tuple[str, str], timing: Timing) -> None:
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
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        with suppress(OSError):  # SIGKILL has no handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def _run(words: list[str], environment: dict[str, str], outputs: tuple[str, str], timing: Timing) -> int:
    """Run the program as its entry point does; the exit status."""
    os.setsid()
    for usual in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(usual, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.closerange(3, MOST_DESCRIPTORS)
    for number, path in enumerate(outputs, 1):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - they are open until the end
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["wigglenet-operator", *words]
    from wigglenet_operator.cli import main  # noqa: PLC0415 - the fork server has it

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
