"""What `diff` says of each kind of change, and what it needs to know for that."""

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

import pytest

from tests.builders import ips, key, nets
from wigglenet_operator.agent.foresee import key_in_force
from wigglenet_operator.errors import KernelError
from wigglenet_operator.kernel.at_work import agent_at_work, agent_word, socket_name
from wigglenet_operator.model.changes import diff
from wigglenet_operator.model.desired import CLOSED_METRIC, Device, Endpoint, Link, Peer, Route, RouteKey, RouteKind
from wigglenet_operator.model.facts import PublicKey
from wigglenet_operator.model.problems import Code
from wigglenet_operator.model.report import Problem, StepReport, TurnReport
from wigglenet_operator.model.ruleset import Item
from wigglenet_operator.plan.desired import STEPS
from wigglenet_operator.show.diff import TELLERS, Words, diff_json, diff_page, told, unchanged, untold
from wigglenet_operator.show.page import plain

(TEN,), (SIX,) = nets("10.2.0.0/24"), nets("fd00:10:2::/64")
TUNNEL, CLOSED = Route(kind=RouteKind.TUNNEL), Route(kind=RouteKind.CLOSED)
NEW = PublicKey("a key that nobody has")
WORDS = Words(link="wigglenet", names={key("b"): "b"}, new_key=NEW)
QUIET = TurnReport(steps={}, problems=frozenset())


def peer(endpoint: str, allowed: str, **other: Any) -> Peer:
    return Peer(endpoint=Endpoint(address=ips(endpoint)[0], port=24601), allowed_ips=nets(allowed), **other)


@pytest.mark.parametrize(
    ("table", "actual", "desired", "text"),
    [
        ("key", {}, {"/k": NEW}, "file + /k: (a new key)"),
        ("key", {}, {"/k": key("a")}, f"file + /k: the key of {key('a')}"),
        ("closed", {}, {RouteKey(to=TEN, metric=CLOSED_METRIC): CLOSED}, "route + 10.2.0.0/24 unreachable"),
        ("routes", {}, {RouteKey(to=TEN, metric=0): TUNNEL}, "route + 10.2.0.0/24 dev wigglenet"),
        ("routes", {RouteKey(to=SIX, metric=1024): TUNNEL}, {}, "route - fd00:10:2::/64 dev wigglenet"),
        ("routes", {RouteKey(to=TEN, metric=7): TUNNEL}, {}, "route - 10.2.0.0/24 dev wigglenet metric 7"),
        (
            "routes",
            {RouteKey(to=TEN, metric=0): Route(kind=RouteKind.TUNNEL, ours=False)},
            {RouteKey(to=TEN, metric=0): TUNNEL},
            "route ~ 10.2.0.0/24 dev wigglenet (of another protocol)",
        ),
        ("link", {"w": Link(mtu=1300, up=False)}, {"w": Link(mtu=1420)}, "link ~ w mtu 1300 -> 1420, up False -> True"),
        ("link", {}, {"w": Link(mtu=1420)}, "link + w mtu 1420, up True"),
        (
            "device",
            {"w": Device(public_key=None, port=1)},
            {"w": Device(public_key=NEW, port=24601)},
            "device ~ w public_key None -> (a new key), port 1 -> 24601",
        ),
        ("device", {"w": Device(public_key=None, port=1)}, {}, "device - w"),
        ("sysctls", {"net/a": "0"}, {"net/a": "1"}, "setting ~ net/a 0 -> 1"),
        ("addresses", {}, {ip_interface("10.2.0.1/32"): None}, "address + 10.2.0.1/32 dev wigglenet"),
        ("peers", {}, {key("b"): peer("192.0.2.2", "10.2.0.0/24")}, "peer + b endpoint 192.0.2.2:24601, allowed +10.2.0.0/24"),
        (
            "peers",
            {key("b"): peer("192.0.2.2", "10.2.0.0/24", keepalive=7, preshared=True)},
            {key("b"): peer("2001:db8::2", "10.3.0.0/24")},
            (
                "peer ~ b endpoint 192.0.2.2:24601 -> [2001:db8::2]:24601, "
                "allowed +10.3.0.0/24, allowed -10.2.0.0/24, keepalive 0, no preshared key"
            ),
        ),
        ("peers", {key("x"): peer("192.0.2.2", "")}, {}, f"peer - {key('x')}"),
        (
            "firewall",
            {Item("chain", "c"): ("hook", "one"), Item("set", "s"): (), Item("set", "s", "10.9.0.0"): ""},
            {Item("chain", "c"): ("hook", "two"), Item("set", "s"): (), Item("set", "s", "10.2.0.0"): ""},
            "chain ~ c of table inet wigglenet\n    - one\n    + two\nset element - s: 10.9.0.0\nset element + s: 10.2.0.0",
        ),
        ("firewall", {Item("", "flags dormant"): ()}, {}, "table - flags dormant of table inet wigglenet"),
        ("annotations", {}, {"wigglenet/node-ips": "[]"}, "annotation + wigglenet/node-ips=[]"),
        ("annotations", {}, {"wigglenet/public-key": NEW}, "annotation + wigglenet/public-key=(a new key)"),
        ("annotations", {"x": "a"}, {"x": "b"}, "annotation ~ x=a -> b"),
        ("cni", {"/f": "{\n1\n}"}, {"/f": "{\n2\n}"}, "file ~ /f\n    - 1\n    + 2"),
        ("cni", {"/f": "--- a"}, {"/f": "++ b"}, "file ~ /f\n    - --- a\n    + ++ b"),
        ("cni", {}, {"/f": "1"}, "file + /f"),
        ("cni", {"/f": "1"}, {}, "file - /f"),
        ("leftovers", {"iptables-nft filter": "x"}, {}, "chains of Wigglenet - iptables-nft filter"),
    ],
)
def test_a_change_in_words(table: str, actual: dict[Any, Any], desired: dict[Any, Any], text: str) -> None:
    lines = told({table: diff(actual, desired)}, WORDS)

    assert plain(diff_page(lines, QUIET)) == f"{text}\n"
    assert unchanged(lines, QUIET) is False
    assert json.loads(json.dumps(diff_json(lines, QUIET)))["changes"][0]["table"] == table


def test_a_table_that_is_not_there_is_one_line() -> None:
    whole: dict[Item, Any] = {Item("chain", "c"): (), Item("set", "s"): (), Item("set", "s", "10.2.0.0"): ""}
    words = Words(link="wigglenet", names={}, bare={"firewall"})

    (line,) = told({"firewall": diff({}, whole)}, words)
    assert plain(diff_page([line], QUIET)) == "table + inet wigglenet: 1 chains, 1 elements, 1 sets\n"


def test_every_table_of_a_turn_has_its_words() -> None:
    assert list(TELLERS) == [step.table for step in STEPS]


def test_no_change_is_said_to_be_none() -> None:
    assert plain(diff_page([], QUIET)) == "nothing would be changed\n"
    assert unchanged([], QUIET) is True


def test_what_cannot_be_read_is_not_called_unchanged() -> None:
    steps = {"device": StepReport(error="no WireGuard answers"), "link": StepReport(waits_for="device")}
    report = TurnReport(steps=steps, problems=frozenset())

    assert unchanged([], report) is None
    assert untold(report) == ["device: no WireGuard answers", "link waits for device"]


def test_a_turn_that_waits_says_for_what() -> None:
    problem = Problem(code=Code.OwnNodeMissing, subject="node a", text="it is not there")
    report = TurnReport(steps={}, problems=frozenset({problem}), waiting=True)

    assert unchanged([], report) is None
    assert untold(report) == ["there is too little to plan with: node a: it is not there"]


ONE, TWO, THREE = key("1"), key("2"), key("3")


@pytest.mark.parametrize(
    ("words", "remembered", "expected"),
    [
        ((None, None, None), True, None),
        ((None, None, None), False, None),
        ((ONE, None, None), False, ONE),
        ((ONE, TWO, TWO), False, ONE),  # an agent that starts takes what is in the file
        ((ONE, TWO, TWO), True, TWO),  # one at work does not
        ((None, TWO, TWO), True, TWO),  # and puts it back
        ((None, TWO, TWO), False, None),  # nobody has the private key any more
        ((ONE, ONE, TWO), True, ONE),
        ((ONE, TWO, ONE), True, ONE),
        ((ONE, TWO, THREE), True, ONE),
    ],
)
def test_the_key_in_force(words: tuple[PublicKey | None, ...], *, remembered: bool, expected: PublicKey | None) -> None:
    assert key_in_force(words, remembered=remembered) == expected


def test_an_agent_is_at_work_as_long_as_its_name_is_held(tmp_path: Path) -> None:
    head = "Num       RefCount Protocol Flags    Type St Inode Path\n"
    line = "0000000000000000: 00000002 00000000 00010000 0001 01 69421 "
    sockets = tmp_path / "unix"

    sockets.write_text(f"{head}{line}\n{line}@{socket_name('wigglenet')}\n")
    assert agent_at_work("wigglenet", sockets)
    assert not agent_at_work("wiggle", sockets)
    sockets.write_text(f"{head}{line}@{socket_name('wigglenet')}2\n{line}/{socket_name('wigglenet')}\n")
    assert not agent_at_work("wigglenet", sockets)


class _Answer(BaseHTTPRequestHandler):
    body = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        """Not into the tests' output."""


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    with HTTPServer(("127.0.0.1", 0), _Answer) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made
        made.shutdown()


def test_what_an_agent_says_is_an_object_or_no_answer(server: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    port = server.server_address[1]
    monkeypatch.setattr(_Answer, "body", b'{"ready": true}')
    assert agent_word("127.0.0.1", port) == {"ready": True}
    for body in (b"", b"[]", b"{", b"\xff", b"[" * 100_000):
        monkeypatch.setattr(_Answer, "body", body)
        with pytest.raises(KernelError, match=re.escape(f"ask the agent at 127.0.0.1:{port}: ")):
            agent_word("127.0.0.1", port)


def test_who_answers_for_ever_in_the_place_of_an_agent_is_waited_for_no_longer_than_one_who_is_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("wigglenet_operator.kernel.at_work.SECONDS", 0.2)
    ended = threading.Event()

    def drip(one: socket.socket) -> None:
        with one, suppress(OSError):
            while not ended.wait(0.02):
                one.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as somebody:
        threading.Thread(target=lambda: drip(somebody.accept()[0]), daemon=True).start()
        began = time.monotonic()
        with pytest.raises(KernelError, match="timed out"):
            agent_word(*somebody.getsockname())
        ended.set()
    assert time.monotonic() - began < 5


def test_an_agent_that_does_not_listen_is_no_crash() -> None:
    with pytest.raises(KernelError, match="refused"):
        agent_word("127.0.0.1", 9)
