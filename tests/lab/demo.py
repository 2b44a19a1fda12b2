"""The main job, shown: three dual-stack nodes, real agents, encrypted pod traffic.  `pipx run nox -s demo`.

Live progress, then tables of nodes and peers, the full ping matrix in both families, what each step took, and how to look
inside.
"""

import argparse
import json
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tests.lab.api.kube_binary import locally_available
from tests.lab.capture import Capture, kinds
from tests.lab.lab import ApiKind, Lab
from tests.lab.wait import eventually

NAMES = ("a", "b", "c")


@contextmanager
def step(title: str) -> Iterator[None]:
    """Print what is being done, and how long it took when it is done."""
    print(f"  {title:<62}", end="", flush=True)
    start = time.monotonic()
    yield
    print(f"{time.monotonic() - start:6.1f} s", flush=True)


def main() -> None:
    """Exit status 0 if every pod reached every other."""
    parser = argparse.ArgumentParser(prog="nox -s demo --", description=__doc__)
    parser.add_argument(
        "--api", choices=["embedded", "kube"], help="insist on one API server; kube may take 10 minutes to build"
    )
    parser.add_argument("--keep", action="store_true", help="leave the cluster up until Ctrl-C")
    arguments = parser.parse_args()
    api: ApiKind = arguments.api or ("kube" if locally_available() else "embedded")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with it ignored
    try:
        sys.exit(show(api, keep=arguments.keep))
    except KeyboardInterrupt:
        print("\nstopped; everything was removed")
        sys.exit(130)


def show(api: ApiKind, *, keep: bool) -> int:
    """Bring up, show, and take down unless `keep`."""
    start = time.monotonic()
    which = "a real kube-apiserver with etcd" if api == "kube" else "the embedded one (--api kube insists on a real one)"
    print(f"\nA three-node dual-stack cluster in namespaces of its own; API server: {which}\n")
    with step("API server, underlay"):
        lab = Lab(api=api)
    with lab:
        with step("nodes a, b, c: agents and wireguard-go start"):
            nodes = [lab.add_node(name) for name in NAMES]
        with step("agents have published, connected and written the CNI file"):
            for node in nodes:
                node.wait_ready()
        with step("a pod on each node, by the real CNI plugins"):
            pods = lab.pods()
        capture = lab.capture()
        with step("every pod reaches every other, both families"):
            lab.expect_mesh()
        with step("the status of each Node is Ready, every peer has shaken hands"):
            for name in NAMES:
                eventually(lambda n=name: ready(lab, n), what=f"node {name} is ready", seconds=30)  # type: ignore[misc]  # bool
        tables(lab)
        reached = matrix(lab)
        sniffed(capture)
        print(f"\n{'All' if reached else 'NOT all'} pods reach each other, encrypted. {time.monotonic() - start:.1f} s in all.")
        inside(lab, pods[0].name)
        if keep:
            print("\nIt stays up until Ctrl-C.", flush=True)
            signal.pause()
    return 0 if reached else 1


def ready(lab: Lab, name: str) -> bool:
    """Whether a node's agent says that all is well."""
    status = json.loads(lab.annotations(name).get("wigglenet/status", "{}"))
    return bool(status) and status["phase"] == "Ready" and status["handshaken"] == len(NAMES) - 1


def tables(lab: Lab) -> None:
    """Nodes and peers, as the API server and WireGuard tell them."""
    rows = []
    for name, node in lab.nodes.items():
        notes = lab.annotations(name)
        status = json.loads(notes["wigglenet/status"])
        cidrs = " ".join(json.loads(notes["wigglenet/pod-cidrs"]))
        rows.append((name, " ".join(map(str, node.addresses)), cidrs, str(status["mtu"]), status["phase"]))
    table(("NODE", "ADDRESSES", "POD-NETWORKS", "MTU", "PHASE"), rows)
    keys = {lab.annotations(name)["wigglenet/public-key"]: name for name in lab.nodes}
    peers = []
    for name, node in lab.nodes.items():
        for key, peer in node.wireguard().items():
            age = time.time() - int(peer.handshake)
            moved = f"{int(peer.sent) + int(peer.received)}"
            peers.append((name, keys[key], peer.endpoint, f"{max(age, 0):.0f} s ago", moved))
    table(("NODE", "PEER", "ENDPOINT", "HANDSHAKE", "BYTES"), sorted(peers))


def matrix(lab: Lab) -> bool:
    """The full ping matrix; whether every echo came back."""
    pods, good = lab.pods(), True
    rows = []
    for one in pods:
        row = [one.name]
        for other in pods:
            if one is other:
                row.append("-")
                continue
            answers = {v: one.pings(other.addresses[v]) for v in sorted(one.addresses)}
            good &= all(answers.values())
            row.append(" ".join(f"v{v} {'ok' if answer else 'LOST'}" for v, answer in answers.items()))
        rows.append(tuple(row))
    table(["PING", *(f"{pod.name} {' '.join(map(str, pod.addresses.values()))}" for pod in pods)], rows)
    return good


def sniffed(capture: Capture) -> None:
    """What crossed the underlay meanwhile."""
    packets = capture.stop()
    counted = ", ".join(f"{count} {kind}" for kind, count in kinds(packets).most_common())
    print(f"\nUnderlay meanwhile: {counted}; with a pod's address in clear: {sum(p.of_pods for p in packets)}")


def inside(lab: Lab, pod: str) -> None:
    """How to look into a node and a pod."""
    place = lab.nodes["a"].place
    print("\nLook inside (while it is up: -- --keep):")
    print(f"  node a   nsenter -t {place.pid} -m -n -p bash        then: ip route; cat /run/agent.log /etc/cni/net.d/*")
    print(f"  its pod  nsenter -t {place.pid} -m -n -p ip netns exec {pod} bash")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as they must be."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    print()
    for row in [head, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    main()
