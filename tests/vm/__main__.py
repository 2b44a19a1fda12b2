"""Boot a kernel that has WireGuard and run the contract suites and the lab in it.  `pipx run nox -s vm`.

KVM where guests really run, else emulation: there each guest has one CPU, for QEMU loses breakpoints of a kernel that
patches itself while another CPU runs, and two guests share the machine instead.
"""

import argparse
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from tests.vm.image import SERIES, KernelMissingError, kernel

ROOT = Path(__file__).parents[2]
PYTEST = ("pytest", "-p", "no:cacheprovider", "-v", "--color=no", "--wireguard", "kernel")
CONTRACT = tuple(f"tests/contract/test_{name}.py" for name in ("tables", "network", "wireguard", "events"))
OF_THE_KERNEL = "link or MTU or address or peer or route or forwarding or rp_filter or firewall"
FLOWS = "(by_nftables and neither)"
"""Of each family both features, and neither."""
CLEAN = "tests/lab/test_cleanup.py::test_after_cleanup_a_node_is_as_before_the_first_start[embedded-tunnel]"
SHOWN = "tests/lab/test_status.py::test_a_healthy_node_shows_link_peers_routes_firewall_and_pod_networks[embedded]"
SUITES = {
    "life": (
        *PYTEST,
        *CONTRACT,
        "tests/lab/test_mesh.py",
        "tests/lab/test_life.py",
        CLEAN,
        SHOWN,
        "-k",
        "not (killed_lab or leaves or what_events_say)",  # the last one is random: a minute for each seed here
    ),
    "faults": (*PYTEST, "tests/lab/test_faults.py", "tests/lab/test_flows.py", "-k", f"{OF_THE_KERNEL} or {FLOWS}"),
}
"""One guest each, so that they take about as long; what is about agent, files and API server is the same on every kernel."""
FILES = (
    "-fsdev local,id=files,path=/,security_model=none,readonly=on,multidevs=remap"
    " -device virtio-9p-pci,fsdev=files,mount_tag=files"
)
"""This machine's files a second time, for the guest to mount with a cache."""
EMULATED_CPU = "Nehalem"
"""An old one: the kernel then copies without `rep movsb`, which QEMU emulates byte by byte (30 % of a guest's time)."""
SECONDS = 40 * 60
PROBE_SECONDS = 30
EMULATED_SLOWNESS, KVM_SLOWNESS = 10, 2


def main() -> None:
    """Exit status 0 if every guest ran to its end and all of its tests passed."""
    usage = "nox -s vm -- [--kernel KERNEL] [--bench] [arguments of pytest, for one guest instead of two]"
    parser = argparse.ArgumentParser(usage=usage, description=__doc__)
    parser.add_argument("--kernel", default="6.12", help=f"{', '.join(SERIES)} or the path of an image (default 6.12)")
    parser.add_argument("--bench", action="store_true", help="print figures beside their floors instead of testing")
    arguments, more = parser.parse_known_args()
    try:
        image = kernel(arguments.kernel)
    except KernelMissingError as error:
        sys.exit(f"vm: {error}")
    kvm = guests_run_on_kvm(image)
    print(f"vm: booting {image.name} by {'KVM' if kvm else 'emulation'}", flush=True)
    jobs: dict[str, Sequence[str]] = dict(SUITES)
    if arguments.bench:
        jobs = {"bench": ("tests.bench.wireguard", *more)}
    elif more:
        jobs = {"pytest": (*PYTEST, *more)}
    guests = [Guest(name, image, command, kvm=kvm) for name, command in jobs.items()]
    sys.exit(max(guest.wait() for guest in guests))


def guests_run_on_kvm(image: Path) -> bool:
    """Whether a guest comes up: the device may be there, and open, and still run nothing."""
    flags = Path("/proc/cpuinfo").read_text().split()
    if not ({"vmx", "svm"} & set(flags) and os.access("/dev/kvm", os.R_OK | os.W_OK)):
        return False
    probe = Guest("", image, ("platform",), kvm=True, seconds=PROBE_SECONDS)
    return probe.wait() == 0


class Guest:
    """One virtual machine, until its command ends; it dies with this process."""

    def __init__(self, name: str, image: Path, command: Sequence[str], *, kvm: bool, seconds: float = SECONDS) -> None:
        """Boot it; one without a name says nothing."""
        self._name, self._seconds = name, seconds
        self._status: int | None = None
        self._hung = False
        slowness = str(KVM_SLOWNESS if kvm else EMULATED_SLOWNESS)
        inside = shlex.join(["sh", f"{ROOT}/tests/vm/guest.sh", slowness, str(ROOT), sys.executable, "-m", *command])
        vng = ["vng", "--run", str(image), "--force-9p", "--disable-microvm", "--verbose", "--memory", "3G"]
        # Without mitigations: with them each system call of an emulated guest loses QEMU's whole cache of addresses.
        vng += ["--cpus", "2"] if kvm else ["--cpus", "1", "--disable-kvm", "--append", "mitigations=off"]
        options = FILES if kvm else f"{FILES} -cpu {EMULATED_CPU}"
        terminal = ["script", "-qec", shlex.join([*vng, f"--qemu-opts={options}", "--exec", inside]), "/dev/null"]
        alone = ["setpriv", "--pdeathsig", "KILL", "--", "unshare", "--mount-proc", "--pid", "--fork", "--kill-child"]
        self._process = subprocess.Popen(
            [*alone, *terminal],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._timer = threading.Timer(seconds, self._give_up)
        self._timer.daemon = True
        self._timer.start()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait(self) -> int:
        """The exit status of the command; 1 if the guest crashed, hung, or never came to it."""
        self._reader.join()
        self._process.wait()
        self._timer.cancel()
        if self._status is None:
            self._say(f"the guest hung and was ended after {self._seconds:g} s" if self._hung else "the guest has crashed")
        return 1 if self._status is None else self._status

    def _give_up(self) -> None:
        self._hung = True
        self._process.kill()

    def _read(self) -> None:
        """Print what the guest says once it runs; all that the kernel said before, if it never does."""
        assert self._process.stdout
        boot: list[str] | None = []
        for line in (raw.decode(errors="replace").rstrip() for raw in self._process.stdout):
            if line.startswith("vm: exit status "):
                self._status = int(line.split()[-1])
                boot = []  # what the kernel says when it goes down
            elif line.startswith("vm: Linux "):
                boot = None
            if boot is not None:
                boot.append(line)
            else:
                self._say(line)
        for line in boot if boot and self._status is None else ():
            self._say(line)

    def _say(self, line: str) -> None:
        if self._name:
            print(f"{self._name}: {line}", flush=True)


if __name__ == "__main__":
    main()
