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
    "wireguard-tools": "wg",
    "containernetworking-plugins": "/usr/lib/cni/ptp",
    "iproute2": "ip",
    "iptables": "iptables",
    "nftables": "nft",
    "conntrack": "conntrack",
    "radvd": "radvd",
    "iputils-ping": "ping",
    "mount": "mount",
    "procps": "sysctl",
    "etcd-server": "etcd",
    "qemu-system-x86": "qemu-system-x86_64",
    "busybox-static": "busybox",
    "kmod": "depmod",
    "file": "file",
    "iperf3": "iperf3",
}
"""What shows that a Debian package is there: a program on the PATH, or a file."""
ALWAYS = (
    "wireguard-go",
    "wireguard-tools",
    "containernetworking-plugins",
    "iproute2",
    "iptables",
    "iputils-ping",
    "mount",
    "procps",
    "nftables",
    "conntrack",
    "radvd",
)

FREE_BYTES = 1 << 30


def preflight(*, packages: Iterable[str] = (), apt: bool) -> str:
    """Print a line for each condition; what is to be done about the first that fails, empty if there is nothing."""
    for name, good, fact, remedy in _conditions():
        print(f"preflight: {name:<12}  {f'ok       {fact}' if good else f'MISSING  {remedy}'}")
        if not good:
            return f"{name}: {remedy}"
    return _packages([*ALWAYS, *packages], apt=apt)


def _conditions() -> Iterator[tuple[str, bool, str, str]]:
    """Name, whether it holds, what was found, what to do if it does not hold."""
    yield "root", os.geteuid() == 0, "we are", "namespaces need it: run this with sudo"
    yield "/dev/net/tun", Path("/dev/net/tun").exists(), "there", "userspace WireGuard needs it: modprobe tun"
    namespaces = subprocess.run(["unshare", "--mount", "--net", "--pid", "--fork", "true"], capture_output=True, check=False)
    reason = namespaces.stderr.decode().strip()
    yield "namespaces", namespaces.returncode == 0, "can be made", f"{reason}; a container needs --privileged"
    free = shutil.disk_usage(Path.cwd()).free
    yield "disk", free > FREE_BYTES, f"{free >> 30} GiB free here", "1 GiB is needed here: remove something"
    ways = ", ".join(sorted(set(_default_routes())))
    yield (
        "network",
        bool(ways),
        f"default route by {ways}",
        "no default route, so no package registry can be reached: connect it",
    )


def _default_routes() -> Iterator[str]:
    """The links that default routes go by (proc(5), net/route and net/ipv6_route)."""
    four, six = Path("/proc/net/route"), Path("/proc/net/ipv6_route")
    yield from (line.split()[0] for line in four.read_text().splitlines()[1:] if line.split()[1] == "0" * 8)
    lines = six.read_text().splitlines() if six.exists() else ()
    yield from (line.split()[-1] for line in lines if line.startswith("0" * 32 + " 00") and not line.endswith(" lo"))


def _packages(wanted: list[str], *, apt: bool) -> str:
    missing = [name for name in wanted if not (Path(PACKAGES[name]).exists() or shutil.which(PACKAGES[name]))]
    if not missing:
        print("preflight: packages      ok       every Debian package that is needed is there")
        return ""
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
    if not apt:
        return f"Debian packages are missing and --no-apt was given; run: {' '.join(install)}"
    print(f"preflight: packages      installing {' '.join(missing)}", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update", "-qq"], install):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            return f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}"
    return ""
