"""Can this machine hold the lab?  Answered in under a second, one line each; missing Debian packages are installed.

Standard library only: it runs before anything is installed.
"""

import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

PACKAGES = {
    "wireguard-go": "wireguard-go",
    "containernetworking-plugins": "/usr/lib/cni/ptp",
    "iproute2": "ip",
    "iptables": "iptables",
    "iputils-ping": "ping",
    "procps": "sysctl",
    "etcd-server": "etcd",
}
"""What shows that a Debian package is there: a program on the PATH, or a file."""
ALWAYS = ("wireguard-go", "containernetworking-plugins", "iproute2", "iptables", "iputils-ping", "procps")
FREE_BYTES = 1 << 30


def preflight(*, packages: Iterable[str] = (), apt: bool) -> str:
    """Print a line for each condition; what is to be done about the first that fails, empty if there is nothing."""
    for name, good, told in _conditions():
        print(f"preflight: {name:<11} {'ok' if good else 'MISSING'}  {told}")
        if not good:
            return f"{name}: {told}"
    return _packages([*ALWAYS, *packages], apt=apt)


def _conditions() -> Iterator[tuple[str, bool, str]]:
    yield "root", os.geteuid() == 0, "namespaces need it: run this with sudo"
    yield "/dev/net/tun", Path("/dev/net/tun").exists(), "userspace WireGuard needs it: modprobe tun"
    namespaces = subprocess.run(["unshare", "--mount", "--net", "--pid", "--fork", "true"], capture_output=True, check=False)
    reason = namespaces.stderr.decode().strip()
    yield "namespaces", namespaces.returncode == 0, reason or "mount, network and process namespaces can be made"
    free = shutil.disk_usage(Path.cwd()).free
    yield "disk", free > FREE_BYTES, f"{free >> 30} GiB free here, 1 GiB is needed"
    routes = Path("/proc/net/route").read_text().splitlines()[1:]
    routes6 = Path("/proc/net/ipv6_route")
    lines6 = routes6.read_text().splitlines() if routes6.exists() else []
    ways = {r.split()[0] for r in routes if r.split()[1] == "0" * 8}
    ways |= {r.split()[-1] for r in lines6 if r.startswith("0" * 32 + " 00") and r.split()[-1] != "lo"}
    yield (
        "network",
        bool(ways),
        f"default route by {', '.join(sorted(ways)) or 'nothing'}; package registries are reached by it",
    )


def _packages(wanted: list[str], *, apt: bool) -> str:
    missing = [name for name in wanted if not (Path(PACKAGES[name]).exists() or shutil.which(PACKAGES[name]))]
    if not missing:
        print("preflight: packages    ok  every Debian package that is needed is there")
        return ""
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
    if not apt:
        return f"Debian packages are missing and --no-apt was given; run: {' '.join(install)}"
    print(f"preflight: packages    installing {' '.join(missing)}", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update", "-qq"], install):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            return f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}"
    return ""
