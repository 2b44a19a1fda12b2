"""The first process of a namespace set: it makes private places, prints its process id and reaps until it is killed.

Run by `namespaces.Place` under `unshare --mount --net --pid --fork --kill-child`, with nothing but the standard library.
`argv[1:]` are directories that become empty tmpfs mounts; `/etc` becomes a copy-on-write layer over the machine's.
The first line on standard output is this process's id as the machine counts it (`/proc` is still the machine's then).
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

MS_NOSUID = 2


def mount(source: str, target: str, kind: str, options: str = "") -> None:
    """Mount, or raise OSError with the kernel's reason."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(source.encode(), target.encode(), kind.encode(), MS_NOSUID, options.encode()):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


def main() -> None:
    """Never return; the whole namespace set dies with this process."""
    host_pid = Path("/proc/self").readlink()
    mount("tmpfs", "/run", "tmpfs", "mode=755")
    for name in ("upper", "work"):
        Path("/run/.etc", name).mkdir(parents=True)
    mount("overlay", "/etc", "overlay", "lowerdir=/etc,upperdir=/run/.etc/upper,workdir=/run/.etc/work")
    mount("proc", "/proc", "proc")
    for directory in sys.argv[1:]:
        Path(directory).mkdir(parents=True, exist_ok=True)
        mount("tmpfs", directory, "tmpfs", "mode=755")
    print(host_pid, flush=True)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            signal.sigwait({signal.SIGCHLD})


if __name__ == "__main__":
    main()
