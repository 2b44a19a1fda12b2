"""A node: a network, mount and process namespace set with an agent and a WireGuard implementation in it.

The namespaces are held by an anchor that outlives the agents, so an agent can be killed and replaced like a pod of a
DaemonSet, and wireguard-go comes back by itself as its container would.
"""

import contextlib
import json
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tests.lab.forked import Program, run
from tests.lab.namespaces import Place, children, signal_command, stop
from tests.lab.pod import Pod
from tests.lab.timing import LAB
from tests.lab.wait import NotSeenError, eventually
from wigglenet_operator.model.facts import IPAddress, WireGuardKind

CONFLIST = "/etc/cni/net.d/10-wigglenet.conflist"
KEY = "/etc/wigglenet/private.key"
SERVICE_ACCOUNT = "/run/secrets/kubernetes.io/serviceaccount"
LOG = "/run/agent.log"
LINK = "wigglenet"
AGENT = (sys.executable, "-m", "wigglenet_operator", "run")
PROBLEM = re.compile(r'"message": "(problem|solved): (.*?)(?: \[\w+\])?"', re.MULTILINE)
"""In the log."""
KEEP_WIREGUARD = f"while :; do wireguard-go -f {LINK}; sleep 0.1; done"


def text_of(path: Path) -> str | None:
    """What is in a file, None if there is none: one question, because the agent may remove it between two."""
    try:
        return path.read_text()
    except FileNotFoundError:
        return None


class WireGuardPeer(NamedTuple):
    """A peer in the columns of `wg show dump` (wg(8))."""

    preshared_key: str
    endpoint: str
    allowed_ips: str
    handshake: str
    received: str
    sent: str
    keepalive: str


class LabNode:
    """One node by its number: its pod networks follow from it."""

    def __init__(
        self, name: str, number: int, addresses: tuple[IPAddress, ...], *, wireguard: WireGuardKind = WireGuardKind.USERSPACE
    ) -> None:
        self.name, self.number, self.addresses = name, number, addresses
        self.place = Place(name)
        self.api_address = f"198.51.100.{number}"
        self.pod_cidrs: tuple[str, ...] = (f"10.1.{number}.0/24", f"fd00:10:1:{number:x}::/64")
        self.pods: dict[str, Pod] = {}
        self.tokens: set[str] = set()
        self.environment: dict[str, str] = {"NODE_NAME": name, "WIGGLENET_WG_IMPLEMENTATION": wireguard.value}
        self.timing = LAB
        self._agent: Program | subprocess.Popen[str] | None = None
        self._wireguard: subprocess.Popen[str] | None = None
        self.path("/run/netns").mkdir()
        self.place.run("sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0")  # a fresh pod would wait 1-2 s for it

    def path(self, inside: str) -> Path:
        """A file of the node, from outside."""
        return self.place.path(inside)

    def give_credentials(self, *, token: str, ca_pem: str) -> None:
        """Write the service account's files, as the kubelet does: the token is replaced in one step."""
        self.tokens.add(token)
        directory = self.path(SERVICE_ACCOUNT)
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in (("ca.crt", ca_pem), ("namespace", "kube-system"), ("token", token)):
            (directory / f".{name}").write_text(content)
            (directory / f".{name}").rename(directory / name)

    def start_wireguard(self) -> None:
        """Start what the userspace component is in a cluster: a container of its own that is restarted when it ends."""
        self._wireguard = self.place.popen("sh", "-c", KEEP_WIREGUARD, log="/run/wireguard.log")

    def abandon_wireguard(self) -> None:
        """Have nobody start the userspace component again when it ends; it goes on as long as its link is there."""
        assert self._wireguard, f"node {self.name} has no userspace WireGuard"
        signal_command(self._wireguard, signal.SIGKILL)
        self._wireguard.wait(10)
        self._wireguard = None

    def stop_wireguard(self) -> None:
        """End the userspace component, and its link with it."""
        self.abandon_wireguard()
        self.place.run("ip", "link", "del", LINK)  # which ends the implementation

    def start_agent(self) -> None:
        """Start the agent of this installation, by fork."""
        self._agent = Program(self.place, "run", environment=self.environment, out=LOG, err=LOG, timing=self.timing)

    def execute_agent(self, *, pythonpath: str | None = None) -> None:
        """Start the real program with its real timers, of this installation or of the node's directory `pythonpath`."""
        environment = dict(self.environment)
        if pythonpath:
            environment["PYTHONPATH"] = pythonpath
        self._agent = self.place.popen(*AGENT, log=LOG, env=environment)

    def command(self, *words: str) -> tuple[int, str]:
        """Exit status of a command in the agent's environment, and all that it printed."""
        done = run(self.place, *words, environment=self.environment)
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stdout + done.stderr

    def second_agent(self) -> tuple[int, str]:
        """Start another agent by mistake: its exit status and what it said."""
        log = "/run/second-agent.log"
        self.path(log).unlink(missing_ok=True)
        second = Program(self.place, "run", environment=self.environment, out=log, err=log)
        try:
            status = second.wait(20)
        except subprocess.TimeoutExpired:
            status = stop(second)
        return status, self.path(log).read_text()

    def cleanup(self, *arguments: str) -> tuple[int, str]:
        """Remove what the agent made, by its settings: the exit status and what it said."""
        return self.command("cleanup", *arguments)

    def stop_agent(self) -> int:
        """SIGTERM, as on an upgrade; the exit status."""
        assert self._agent, f"node {self.name} has no agent"
        agent, self._agent = self._agent, None
        return stop(agent)

    def kill(self) -> None:
        """SIGKILL the agent."""
        assert self._agent, f"node {self.name} has no agent"
        signal_command(self._agent, signal.SIGKILL)
        self._agent.wait(10)
        self._agent = None

    def freeze(self) -> None:
        """SIGSTOP the agent; what it has done so far is what there is."""
        assert self._agent, f"node {self.name} has no agent"
        signal_command(self._agent, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT the agent, and nsenter, which stops when what it carries does."""
        assert self._agent, f"node {self.name} has no agent"
        signal_command(self._agent, signal.SIGCONT)
        self._agent.send_signal(signal.SIGCONT)

    def wireguard_pid(self) -> int:
        """The process id of wireguard-go."""
        assert self._wireguard, f"node {self.name} has no userspace WireGuard"
        nsenter = self._wireguard.pid

        def found() -> list[int]:
            with contextlib.suppress(FileNotFoundError):
                ours = [pid for shell in children(nsenter) for pid in children(shell)]
                return [pid for pid in ours if Path(f"/proc/{pid}/comm").read_text() == "wireguard-go\n"]
            return []

        return eventually(found, what=f"wireguard-go of {self.name} runs")[0]

    def agent_pid(self) -> int:
        """The agent's process id, for a look into /proc."""
        assert self._agent, f"node {self.name} has no agent"
        nsenter = self._agent.pid
        return eventually(lambda: children(nsenter), what=f"the agent of {self.name} runs")[0]

    def conflist(self) -> dict[str, Any] | None:
        """The CNI configuration, None while there is none."""
        text = text_of(self.path(CONFLIST))
        return None if text is None else json.loads(text)

    def wait_ready(self, *, seconds: float = 30.0) -> Mapping[str, Any]:
        """The CNI configuration as soon as the node takes pods."""
        try:
            eventually(lambda: self.conflist() or self._ended(), what=f"node {self.name} has a CNI file", seconds=seconds)
        except NotSeenError as error:
            raise NotSeenError(f"{error}; its agent says:\n{self.log()}") from None
        found = self.conflist()
        assert found, f"the agent of {self.name} has ended:\n{self.log()}"
        return found

    def wait_working(self) -> None:
        """Return when its agent has repaired what nobody feels."""
        self.place.run("ip", "route", "del", "unreachable", self.pod_cidrs[0])
        closed = f"unreachable {self.pod_cidrs[0]}"
        eventually(lambda: closed in self.place.run("ip", "route"), what=f"the agent of {self.name} works", seconds=20)

    def _ended(self) -> bool:
        return self._agent is not None and self._agent.poll() is not None

    def pod(
        self, name: str = "pod", *, conflist: Mapping[str, Any] | None = None, runtime: Mapping[str, Any] | None = None
    ) -> Pod:
        """The pod of that name, made if it is not there, by the agent's configuration or by the given one."""
        if name not in self.pods:
            self.pods[name] = Pod(self.place, name, conflist or self.wait_ready(), runtime=runtime)
        return self.pods[name]

    def mtu(self) -> int:
        """Of the tunnel link, in bytes."""
        (link,) = json.loads(self.place.run("ip", "-json", "link", "show", "dev", LINK))
        return int(link["mtu"])

    def routes(self) -> set[str]:
        """What is routed into the tunnel, the kernel's own routes left out; nothing without a link."""
        shown = (
            json.loads(self.place.run("ip", "-json", family, "route", "show", "dev", LINK, check=False) or "[]")
            for family in ("-4", "-6")
        )
        return {entry["dst"] for routes in shown for entry in routes if entry.get("protocol") != "kernel"}

    def wireguard_kind(self) -> str:
        """`wireguard` for the kernel's, `tun` for userspace; empty without a link."""
        shown = json.loads(self.place.run("ip", "-json", "-details", "link", "show", "dev", LINK, check=False) or "[{}]")
        return str(shown[0].get("linkinfo", {}).get("info_kind", ""))

    def wireguard(self) -> dict[str, WireGuardPeer]:
        """The device's peers by public key, as `wg` tells them."""
        lines = self.place.run("wg", "show", LINK, "dump").splitlines()[1:]
        return {key: WireGuardPeer(*fields) for key, *fields in (line.split("\t") for line in lines)}

    def subnets(self) -> list[str]:
        """The subnets of the CNI configuration, none without one."""
        ranges = (self.conflist() or {"plugins": [{"ipam": {"ranges": []}}]})["plugins"][0]["ipam"]["ranges"]
        return [one["subnet"] for family in ranges for one in family]

    def log(self) -> str:
        """What the agents of this node have said."""
        return text_of(self.path(LOG)) or ""

    def log_size(self) -> int:
        """The size of the agents' log in bytes."""
        return self.path(LOG).stat().st_size

    def wait_logged(self, *words: str, since: int) -> None:
        """Return when a line of the log after its first `since` bytes contains all the words."""

        def logged() -> bool:
            with self.path(LOG).open("rb") as log:
                log.seek(since)
                return any(all(word in line for word in words) for line in log.read().decode().splitlines())

        eventually(logged, what=f"the agent of {self.name} says {words}", seconds=20)

    def problems(self) -> set[str]:
        """What its newest agent has called a problem and not yet solved."""
        said = self.log().rpartition("started version")[2]
        found: set[str] = set()
        for kind, what in PROBLEM.findall(said):
            (found.add if kind == "problem" else found.discard)(what)
        return found

    def close(self) -> None:
        """End every process of the node and the node."""
        self.place.close()
        if self._agent:
            self._agent.wait(10)
