"""What a real agent tells by HTTP: that it is ready and why not, that it hangs, and numbers that do not fall."""

import os
import signal
import sys
from dataclasses import replace

from prometheus_client.parser import text_string_to_metric_families

from tests.lab.lab import Lab
from tests.lab.namespaces import signal_command
from tests.lab.node import LINK, LabNode
from tests.lab.timing import LAB, source
from tests.lab.wait import eventually

ASK = """
import sys, urllib.error, urllib.request
try:
    answer = urllib.request.urlopen(sys.argv[1], timeout=10)
except urllib.error.HTTPError as error:
    answer = error
except OSError:
    sys.exit()
print(answer.status, answer.read().decode(), end="")
"""
OCCUPY = "import socket, time; s = socket.create_server(('127.0.0.1', 9092)); print('here', flush=True); time.sleep(600)"
HANG = f"""{source(replace(LAB, resync=1.0, hang=3.0))}
import os, signal, time

def hang(*_):
    while os.path.exists("/run/hang/on"):
        time.sleep(0.1)

signal.signal(signal.SIGUSR1, hang)
"""
"""In a real agent: a signal's handler runs where its loop does, which goes on when the handler has returned."""


def ask(node: LabNode, path: str, *, port: int = 9092) -> tuple[int, str]:
    """Status and body; 0 if nobody answers."""
    said = node.place.run(sys.executable, "-c", ASK, f"http://127.0.0.1:{port}{path}")
    status, _, body = said.partition(" ")
    return int(status or 0), body


def answers(node: LabNode, path: str, status: int, *, seconds: float = 20.0) -> str:
    """The body of the first answer of that status."""
    found: list[str] = []

    def answered() -> bool:
        told, body = ask(node, path)
        found.append(f"{told} {body}")
        return told == status

    eventually(answered, what=f"{path} of {node.name} answers {status}", seconds=seconds)
    return found[-1].partition(" ")[2]


def numbers(node: LabNode) -> dict[str, float]:
    """Every sample of an agent's metrics, by name and labels that tell them apart in a lab."""
    status, text = ask(node, "/metrics", port=9091)
    assert status == 200, text
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    shown = ("node", "result", "kind", "verb", "code", "status", "le")
    return {":".join([s.name, *(s.labels[label] for label in shown if label in s.labels)]): s.value for s in samples}


def test_a_node_is_ready_when_it_has_networks_and_not_while_somebody_elses_come_first(empty_lab: Lab) -> None:
    node = empty_lab.add_node("a", pod_cidrs=[])
    eventually(lambda: "\nnode a: " in ask(node, "/readyz")[1], what="it says what it waits for", seconds=20)
    assert ask(node, "/readyz")[0] == 503
    assert ask(node, "/healthz") == (200, "ok\n"), "one that waits is well"
    node.pod_cidrs = ("10.1.11.0/24", "fd00:10:1:b::/64")
    empty_lab.api.admin.complete_node("a", node.pod_cidrs, [str(a) for a in node.addresses])
    assert answers(node, "/readyz", 200) == "ok\n"

    other = node.path("/etc/cni/net.d/00-other.conflist")
    other.write_text("{}")
    assert str(other.name) in answers(node, "/readyz", 503)
    other.unlink()
    answers(node, "/readyz", 200)


def test_an_agent_whose_loop_hangs_says_so_itself(empty_lab: Lab) -> None:
    node = empty_lab.add_node("a", agent=False)
    node.path("/run/hang").mkdir()
    node.path("/run/hang/sitecustomize.py").write_text(HANG)
    node.path("/run/hang/on").touch()
    empty_lab.start(node, pythonpath="/run/hang")
    answers(node, "/readyz", 200)
    os.kill(node.agent_pid(), signal.SIGUSR1)

    reason = "no turn has come to an end for "
    assert answers(node, "/healthz", 503).startswith(reason)
    assert answers(node, "/readyz", 503).startswith(reason)
    node.path("/run/hang/on").unlink()
    answers(node, "/healthz", 200)


def test_a_port_that_is_taken_ends_no_agent(empty_lab: Lab) -> None:
    node = empty_lab.add_node("a", agent=False)
    occupant = node.place.popen(sys.executable, "-c", OCCUPY, log="/run/occupant.log")
    eventually(lambda: "here" in node.path("/run/occupant.log").read_text(), what="the port is taken")
    empty_lab.start(node)
    node.wait_ready()
    eventually(lambda: any("HEALTH_BIND_ADDR" in problem for problem in node.problems()), what="the problem is told")

    signal_command(occupant, signal.SIGKILL)
    answers(node, "/readyz", 200)
    eventually(lambda: not node.problems(), what="the problem is solved", seconds=20)


def test_the_numbers_of_a_join_and_of_a_peer_that_is_removed_by_hand(empty_lab: Lab) -> None:
    one = empty_lab.add_node("a", environment={"ENABLE_METRICS": "on", "METRICS_BIND_ADDR": "127.0.0.1:9091"})
    one.wait_ready()
    empty_lab.add_node("b")
    empty_lab.expect_mesh()
    carried = "wigglenet_peer_receive_bytes_total:b"
    eventually(lambda: numbers(one)["wigglenet_join_to_handshake_seconds_count"], what="the join is counted")
    before = numbers(one)
    assert before["wigglenet_peers_total"] == 1
    assert before["wigglenet_pod_cidrs_total"] == 4
    assert before["wigglenet_event_to_kernel_seconds_count"] >= 2
    assert before["wigglenet_join_to_handshake_seconds_bucket:5.0"] == 1
    assert before["wigglenet_firewall_sync_total:success"] >= 1
    assert before["wigglenet_api_requests_total:PATCH:200"] >= 1
    assert not any(value for name, value in before.items() if name.startswith(("wigglenet_problems", "wigglenet_repairs")))
    eventually(lambda: numbers(one)[carried] > 0, what="bytes were seen", seconds=15)
    before = numbers(one)

    (key,) = one.wireguard()
    one.place.run("wg", "set", LINK, "peer", key, "remove")
    seen = [before[carried]]

    def repaired() -> bool:
        found = numbers(one)
        seen.append(found[carried])
        return bool(found.get("wigglenet_repairs_total:peers"))

    eventually(repaired, what="the repair is counted", seconds=20)
    empty_lab.expect_mesh()

    def grown() -> bool:
        seen.append(numbers(one)[carried])
        return seen[-1] > seen[0]

    eventually(grown, what="it has carried more", seconds=20)
    assert seen == sorted(seen)
    assert numbers(one)["wigglenet_join_to_handshake_seconds_count"] == 1
