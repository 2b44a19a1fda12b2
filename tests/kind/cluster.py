"""A cluster by kind, driven by kubectl: made, given our image and manifests, asked from inside and outside, removed."""

import json
import os
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address, ip_network
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.lab.mesh import Mesh, count_echoes
from tests.lab.wait import eventually
from wigglenet_operator.model.facts import IPAddress

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "manifests"
RENDERED = {(): "install.yaml", ("userspace",): "install-userspace.yaml"}
"""Components of the manifests, and the file that they are rendered to for a plain `kubectl apply -f`."""
MODES = sorted(f"modes/{path.parent.name}" for path in MANIFESTS.glob("modes/*/kustomization.yaml"))
PROBES = Path(__file__).with_name("probes.yaml")
SLOW_MACHINE = Path(__file__).with_name("slow-machine.yaml")
AGENTS = "app.kubernetes.io/component=agent"
PROBE_IMAGE = "wigglenet-probe:test"
"""The agent's, with what asks and answers; it is the newer version in a rolling upgrade, too."""
NETWORK = os.environ.get("KIND_EXPERIMENTAL_DOCKER_NETWORK", "kind")
"""Of the engine, where kind's nodes are."""
NUMBERS = count(1)
Json = dict[str, Any]
START = (
    "import subprocess, sys; print(subprocess.Popen(sys.argv[2:], stdout=open(sys.argv[1], 'w'), stderr=subprocess.STDOUT).pid)"
)
"""Starts a command in the background, prints its id; a shell's background job would ignore SIGINT."""


class ToolError(Exception):
    """A command failed: what it was and what it said."""


def run(*command: str, check: bool = True, seconds: float = 180) -> str:
    """The standard output of a command on this machine; ToolError with all that it said if it fails or does not end."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise ToolError(f"{' '.join(command)} did not end within {seconds:g} s") from None
    if check and done.returncode:
        raise ToolError(f"{' '.join(command)} ended with {done.returncode}: {(done.stdout + done.stderr).strip()[-3000:]}")
    return done.stdout


@dataclass(frozen=True)
class Setup:
    """What a cluster is made of: kube-proxy's mode, a configuration in `kind/`, components of the manifests."""

    proxy: str
    config: str = "dual-stack"
    components: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.config}-{self.proxy}"


IPTABLES, NFTABLES = Setup("iptables"), Setup("nftables")
"""pytest takes a cluster for the same if its setup is the same object."""


def in_clusters_of(*setups: Setup) -> pytest.MarkDecorator:
    """Run a test, or tests one after the other, in each of these."""
    return pytest.mark.parametrize("bare", setups, indirect=True, ids=str, scope="session")


class Cluster(Mesh["ProbePod"]):
    """One kind cluster; its kubeconfig lies in a directory of the caller's."""

    def __init__(self, name: str, work: Path, setup: Setup) -> None:
        self.name, self.setup, self._kubeconfig = name, setup, work / "kubeconfig"
        self._work = work
        self._installed = Path()
        self.families: list[int] = []
        """IP versions of its pods, the first first."""

    def create(self) -> None:
        """Nodes without a network plugin: they are not Ready. `KIND_NODE_IMAGE` overrides kind's own image."""
        wanted = yaml.safe_load((ROOT / f"kind/{self.setup.config}.yaml").read_text())
        networking = wanted["networking"]
        networking["kubeProxyMode"] = self.setup.proxy
        self.families = [ip_network(network).version for network in networking["podSubnet"].split(",")]
        for kind, patches in yaml.safe_load(SLOW_MACHINE.read_text()).items():
            wanted.setdefault(kind, []).extend(patches)
        path = self._work / "kind.yaml"
        path.write_text(yaml.safe_dump(wanted))
        image = os.environ.get("KIND_NODE_IMAGE")
        where = ("--name", self.name, "--config", str(path), "--kubeconfig", str(self._kubeconfig))
        run("kind", "create", "cluster", *where, *(["--image", image] if image else []), seconds=600)

    def load(self, archive: Path) -> None:
        """An image archive into every node."""
        run("kind", "load", "image-archive", str(archive), "--name", self.name)

    def install(self, *components: str) -> None:
        """Apply our manifests with some of their components, as docs/install.md says."""
        self._installed = overlay(self._work, *components)
        self.kubectl("apply", "-k", str(self._installed))

    def uninstall(self) -> None:
        """Delete what was applied."""
        self.kubectl("delete", "-k", str(self._installed), "--ignore-not-found")

    def probe(self) -> None:
        """Apply the probes; wait until each node has its own."""
        self.kubectl("apply", "-f", str(PROBES))
        for probe in ("probe", "node-probe"):
            self.rolled_out(probe, namespace="default")

    def delete(self) -> None:
        """The cluster and all that is in it; nothing of it stays on the machine."""
        run("kind", "delete", "cluster", "--name", self.name, "--kubeconfig", str(self._kubeconfig))

    def kubectl(self, *arguments: str, check: bool = True) -> str:
        """The standard output of kubectl against this cluster."""
        return run("kubectl", "--kubeconfig", str(self._kubeconfig), *arguments, check=check)

    def shell(self, command: str) -> str:
        """The standard output of what an administrator types in a clone."""
        return run("env", f"KUBECONFIG={self._kubeconfig}", "sh", "-ec", f"cd '{ROOT}'\n{command}", seconds=400)

    def get(self, *what: str) -> Json:
        """Objects as kubectl gives them in JSON."""
        found: Json = json.loads(self.kubectl("get", *what, "-o", "json"))
        return found

    def rolled_out(self, daemonset: str, *, namespace: str = "kube-system") -> None:
        """Wait until every node has the DaemonSet's newest pod, ready."""
        self._wait("-n", namespace, "rollout", "status", f"ds/{daemonset}")

    def set_environment(self, *settings: str) -> None:
        """Settings of every agent, as `kubectl set env` takes them; wait until they are in force, all at once."""
        self.kubectl("-n", "kube-system", "set", "env", "-c", "agent", "ds/wigglenet-operator", *settings)
        self.kubectl("-n", "kube-system", "delete", "pods", "-l", AGENTS)
        self.rolled_out("wigglenet-operator")

    def ready(self, *nodes: str) -> None:
        """Wait until these Nodes, or all, are Ready."""
        self._wait("wait", "--for=condition=Ready", "nodes", *(nodes or ["--all"]))

    def _wait(self, *arguments: str) -> None:
        """Run a kubectl that waits; one that waits in vain tells what the agents have said."""
        try:
            self.kubectl(*arguments, "--timeout=120s")
        except ToolError as error:
            raise ToolError(f"{error}\n{self.story()}") from None

    def nodes(self) -> dict[str, dict[int, IPAddress]]:
        """Addresses by IP version, by node."""
        items = self.get("nodes")["items"]
        return {item["metadata"]["name"]: _by_version(_internal(item)) for item in items}

    def annotation(self, node: str, name: str) -> Any:
        """What a node's agent has published, None without it; the public key is the only one that is not JSON."""
        text = self.get("node", node)["metadata"].get("annotations", {}).get(f"wigglenet/{name}")
        return json.loads(text) if text and name != "public-key" else text

    def pod_networks(self, node: str) -> list[str]:
        """IPv4 first."""
        networks: list[str] = self.get("node", node)["spec"].get("podCIDRs", [])
        return sorted(networks, key=lambda text: ":" in text)

    def pods(self) -> "list[ProbePod]":
        """The probe of each node."""
        return self.probes("probe")

    def probes(self, app: str) -> "list[ProbePod]":
        """Running pods of one of the probes' DaemonSets."""
        items = self.get("pods", "-l", f"app={app}")["items"]
        running = [item for item in items if "deletionTimestamp" not in item["metadata"] and item["status"].get("podIPs")]
        return [ProbePod(self, item) for item in running]

    def agent_pod(self, node: str) -> Json:
        """The pod of a node's agent."""
        selector = ("-l", AGENTS, "--field-selector", f"spec.nodeName={node}")
        items = self.get("-n", "kube-system", "pods", *selector)["items"]
        pod: Json
        (pod,) = [item for item in items if "deletionTimestamp" not in item["metadata"]]
        return pod

    def agent(self, node: str, *command: str) -> str:
        """The standard output of a command in a node's agent."""
        name = self.agent_pod(node)["metadata"]["name"]
        return self.kubectl("-n", "kube-system", "exec", name, "-c", "agent", "--", *command)

    def on_node(self, node: str, *command: str) -> str:
        """The standard output of a command on a node, by the engine that runs it."""
        return run("docker", "exec", node, *command)

    def story(self) -> str:
        """Pods and what the agents have said, for a failure's report."""
        shown = self.kubectl("get", "pods", "-A", "-o", "wide", check=False)
        selector = ("-n", "kube-system", "-l", "app.kubernetes.io/name=wigglenet-operator")
        said = self.kubectl("logs", *selector, "--all-containers", "--prefix", "--tail=40", check=False)
        return f"{shown}\n{said}"


def overlay(work: Path, *components: str) -> Path:
    """A new directory with the manifests and some of their components, as a user writes one."""
    made = Path(tempfile.mkdtemp(dir=work))
    manifests = os.path.relpath(MANIFESTS, made.resolve())
    wanted = {"resources": [manifests], "components": [f"{manifests}/{component}" for component in components]}
    (made / "kustomization.yaml").write_text(yaml.safe_dump(wanted))
    return made


class Probe(ABC):
    """Where `probe.py serve` runs, and commands can."""

    name: str
    hostname: str
    addresses: Mapping[int, IPAddress]

    @abstractmethod
    def exec(self, *command: str) -> str:
        """The standard output of a command there."""

    def pings(self, address: IPAddress, *, seconds: float = 1) -> bool:
        """Whether one echo is answered in time."""
        try:
            return bool(self.exec("ping", "-n", "-q", "-c", "1", "-W", str(seconds), str(address)))
        except ToolError:
            return False

    def ask(self, address: IPAddress, port: int) -> Json:
        """Who answers there: `pod`, `seen`; empty if nobody does."""
        return next(iter(self.ask_often(address, port, times=1)), {})

    def ask_often(self, address: IPAddress, port: int, *, times: int = 20) -> list[Json]:
        """Who answers there, over as many connections; empty if one of them is not answered."""
        try:
            answers = self.exec("python3", "/probe.py", "ask", str(address), str(port), str(times)).splitlines()
            return [json.loads(answer) for answer in answers]
        except (ToolError, ValueError):
            return []

    def reaches(self, address: IPAddress, port: int) -> Json:
        """Who answers there, soon."""
        return eventually(partial(self.ask, address, port), what=f"{self.name} reaches {address} port {port}", seconds=20)

    def reaches_all(self, address: IPAddress, port: int, pods: "Sequence[ProbePod]") -> set[str]:
        """Wait until each of the pods, and nobody else, has answered there; whom they saw."""
        names = {pod.hostname for pod in pods}
        answers: list[Json] = []

        def answered() -> bool:
            answers.extend(self.ask_often(address, port))
            return {answer["pod"] for answer in answers} == names

        eventually(answered, what=f"{self.name} reaches every pod of the Service by {address} port {port}", seconds=20)
        return {str(answer["seen"]) for answer in answers}

    def resolve(self, name: str) -> set[IPAddress]:
        """The addresses of a name; empty if there are none."""
        try:
            return {ip_address(line) for line in self.exec("python3", "/probe.py", "resolve", name).split()}
        except ToolError:
            return set()

    def stream(self, address: IPAddress) -> "Background":
        """Echo requests every 20 ms until it is stopped."""
        return Background(self, f"{self.name} -> {address}", "ping", "-n", "-i", "0.02", str(address))

    def talk(self, address: IPAddress, port: int = 8080) -> "Background":
        """A TCP connection in use until it is stopped; `said` tells what became of it."""
        return Background(self, f"{self.name} -> {address}", "python3", "/probe.py", "talk", str(address), str(port))


class ProbePod(Probe):
    """In a pod, by `kubectl exec`."""

    def __init__(self, cluster: Cluster, item: Mapping[str, Any]) -> None:
        self._cluster, self.pod = cluster, item["metadata"]["name"]
        self.node: str = item["spec"]["nodeName"]
        self.name = f"{self.pod} on {self.node}"
        self.hostname = self.node if item["spec"].get("hostNetwork") else self.pod
        self.addresses = _by_version([entry["ip"] for entry in item["status"]["podIPs"]])

    def exec(self, *command: str) -> str:
        """In the pod."""
        return self._cluster.kubectl("exec", self.pod, "--", *command)


class Outside(Probe):
    """On a machine that is not of the cluster: a container beside the nodes', on the same link."""

    def __init__(self, name: str, archive: Path) -> None:
        self.name, self.hostname = name, "outside"
        run("docker", "load", "--quiet", "--input", str(archive))
        how = ("--rm", "--name", name, "--hostname", self.hostname, "--network", NETWORK, "--cap-add", "NET_ADMIN")
        run("docker", "run", "--detach", *how, "--entrypoint", "python3", PROBE_IMAGE, "/probe.py", "serve", "8080")
        (found,) = json.loads(run("docker", "inspect", name))
        link = found["NetworkSettings"]["Networks"][NETWORK]
        self.addresses = _by_version([link["IPAddress"], link["GlobalIPv6Address"]])

    def exec(self, *command: str) -> str:
        """In the container."""
        return run("docker", "exec", self.name, *command)

    def route(self, network: str, via: IPAddress) -> None:
        """A route of this machine's own."""
        self.exec("ip", "route", "add", network, "via", str(via))

    def delete(self) -> None:
        """The container."""
        run("docker", "rm", "--force", self.name)


class Background:
    """A command that goes on until it is told to end."""

    def __init__(self, probe: Probe, title: str, *command: str) -> None:
        self.title, self._probe = title, probe
        self._log = f"/tmp/background-{next(NUMBERS)}"  # noqa: S108 - the pod's
        self._pid = probe.exec("python3", "-c", START, self._log, *command).strip()

    def said(self) -> str:
        """End it by SIGINT; all that it said."""
        wait = f"kill -INT {self._pid}; while kill -0 {self._pid} 2>/dev/null; do sleep 0.05; done; cat {self._log}"
        return self._probe.exec("timeout", "20", "sh", "-c", wait)

    def stop(self) -> tuple[int, list[int]]:
        """Of a ping: how many echoes were sent, and the numbers of those that were lost."""
        return count_echoes(self.said(), title=self.title)


def _internal(node: Mapping[str, Any]) -> Sequence[str]:
    return [entry["address"] for entry in node["status"]["addresses"] if entry["type"] == "InternalIP"]


def _by_version(texts: Sequence[str]) -> dict[int, IPAddress]:
    found: dict[int, IPAddress] = {address.version: address for address in map(ip_address, texts)}
    assert len(found) == len(texts), f"more than one address of a family: {texts}"
    return found
