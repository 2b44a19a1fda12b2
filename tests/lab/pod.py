"""A pod: a network namespace on a node, connected by the real CNI plugins from the agent's own configuration."""

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from functools import partial
from ipaddress import ip_address, ip_interface
from itertools import count
from pathlib import Path
from typing import Any

from tests.lab.cni import run_list
from tests.lab.mesh import answers, count_echoes, when_lost
from tests.lab.namespaces import Place, signal_command
from tests.lab.wait import SLOWNESS, eventually
from wigglenet_operator.model.facts import IPAddress

STREAMS = count(1)
PACE = 0.02 * SLOWNESS
"""Seconds between two echoes of a stream; twelve streams at 10 ms keep one core busy."""
TAIL = 1000
"""Bytes of a ping's output that hold several lines."""
ETH_P_ALL = 0x0003
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


class Pod:
    """One sandbox with its addresses, by IP version."""

    def __init__(
        self, place: Place, name: str, conflist: Mapping[str, Any], *, runtime: Mapping[str, Any] | None = None
    ) -> None:
        """CNI ADD; duplicate address detection is off, or it takes 2 s (facts of the kernel, not of the plugins)."""
        self.name, self._place, self._conflist, self._runtime = name, place, conflist, runtime
        place.run("ip", "netns", "add", name)
        self.run("sysctl", "-qw", "net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0")
        self._result = run_list("ADD", conflist, place=place, sandbox=name, runtime=runtime)
        found = [ip_interface(entry["address"]).ip for entry in self._result["ips"]]
        self.addresses: dict[int, IPAddress] = {a.version: a for a in found}
        assert len(self.addresses) == len(found), f"one address of each family: {found}"

    def wait_connected(self) -> None:
        """Return when the gateway answers in each family: the node's end has duplicate address detection as well."""
        for entry in self._result["ips"]:
            gateway = partial(self.pings, ip_address(entry["gateway"]), seconds=0.05)
            eventually(gateway, what=f"{self.name} reaches its gateway {entry['gateway']}")

    def argv(self, *command: str) -> list[str]:
        """The command line that runs `command` in this pod, from within its node."""
        return ["nsenter", f"--net=/run/netns/{self.name}", "--", *command]

    def run(self, *command: str) -> str:
        """The standard output of a command in this pod."""
        return self._place.run(*self.argv(*command))

    def pings(self, address: IPAddress, *, size: int | None = None, seconds: float = 1) -> bool:
        """Whether one echo is answered in time; `size` is that of the IP packet, sent unfragmented."""
        return self._ping(address, size, seconds).returncode == 0

    def round_trip(self, address: IPAddress) -> float:
        """How many seconds the first answered echo took."""
        done = eventually(
            lambda: re.search(r"time=([\d.]+) ms", self._ping(address, None, 5).stdout),
            what="an echo is answered",
            seconds=30,
        )
        return float(done.group(1)) / 1000 if done else 0.0

    def told_too_long(self, address: IPAddress, *, size: int) -> int:
        """What a ping of that size, sent unfragmented, is told to fit: an MTU in bytes; 0 if it is told nothing."""
        done = self._ping(address, size, 1.0)
        found = re.search(
            r"(?:message too long|Frag needed and DF set|Packet too big).*?mtu ?[=:] ?(\d+)", done.stdout + done.stderr
        )
        return int(found.group(1)) if found else 0

    def _ping(self, address: IPAddress, size: int | None, seconds: float) -> "subprocess.CompletedProcess[str]":
        headers = 28 if address.version == 4 else 48
        sized = ["-M", "do", "-s", str(size - headers)] if size else []
        ping = self.argv("ping", "-n", "-c", "1", "-W", str(seconds), *sized, str(address))
        return subprocess.run(self._place.argv(*ping), capture_output=True, text=True, check=False)

    def stream(self, address: IPAddress, *, interval: float = PACE) -> "Stream":
        """Echo requests without a pause until it is stopped."""
        log = f"/run/ping-{self.name}-{next(STREAMS)}"
        command = self.argv("ping", "-n", "-D", "-O", "-i", str(interval), str(address))
        return Stream(f"{self.name} -> {address}", self._place.popen(*command, log=log), self._place.path(log))

    def listen(self, version: int, *, port: int = 8080) -> socket.socket:
        """A listening TCP socket of this pod."""
        with self._place.network(self.name):
            return socket.create_server((str(self.addresses[version]), port), family=FAMILIES[version])

    def connect(self, address: IPAddress, *, port: int = 8080, seconds: float = 5.0) -> socket.socket:
        """A TCP connection from this pod."""
        with self._place.network(self.name):
            client = socket.socket(FAMILIES[address.version], socket.SOCK_STREAM)
        client.settimeout(seconds)
        client.connect((str(address), port))
        return client

    def packets(self) -> socket.socket:
        """A socket that gets every packet of this pod from now on, from its IP header on."""
        with self._place.network(self.name):
            return socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))

    def delete(self) -> None:
        """CNI DEL, and the namespace."""
        run_list("DEL", self._conflist, place=self._place, sandbox=self.name, result=self._result, runtime=self._runtime)
        self._place.run("ip", "netns", "del", self.name)


class Stream:
    """A running ping."""

    def __init__(self, title: str, process: "subprocess.Popen[str]", log: Path) -> None:
        self.title, self._process, self._log = title, process, log
        self._began, self._ended = time.time(), 0.0

    def stop(self) -> tuple[int, list[int]]:
        """End it; how many echoes were sent, and the numbers of those that were lost."""
        signal_command(self._process, signal.SIGINT)
        self._process.wait(10)
        self._ended = time.time()
        return count_echoes(self._log.read_text(), title=self.title)

    def when_lost(self) -> list[float]:
        """After `stop`: when each lost echo was sent, Unix seconds."""
        return when_lost(self._log.read_text(), title=self.title, began=self._began, ended=self._ended)

    def last_answered(self) -> float:
        """When the last echo that has been answered so far was sent, Unix seconds; 0 before the first."""
        with self._log.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL))
            return max(answers(log.read().decode()).values(), default=0.0)
