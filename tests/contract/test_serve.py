"""Listeners on real sockets: TLS that follows its files, a port that is taken, a loop that hangs."""

import gc
import json
import logging
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from http.client import HTTPConnection, HTTPSConnection
from ipaddress import ip_address
from pathlib import Path

import pytest
import trustme

from tests.builders import config
from tests.lab.wait import eventually
from wigglenet_operator import logs
from wigglenet_operator.agent import health, serve
from wigglenet_operator.agent.health import Turned
from wigglenet_operator.agent.metrics import Meter
from wigglenet_operator.agent.reconcile import WAITING
from wigglenet_operator.agent.serve import server
from wigglenet_operator.model.config import Bind, Tls
from wigglenet_operator.model.report import TurnReport
from wigglenet_operator.model.timing import PRODUCTION, Timing

HOST = "127.0.0.1"
SECONDS = 10.0
QUICK = replace(PRODUCTION, listen_retry=0.05)
WELL = TurnReport(steps={}, problems=frozenset())


def reserved(stack: ExitStack) -> int:
    """A port that nobody else is given: it is bound, but nobody listens, so that who may bind it too can do so."""
    found = stack.enter_context(closing(socket.socket()))
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.bind((HOST, 0))
    return int(found.getsockname()[1])


class Served:
    """Health and metrics of nobody, on ports of their own."""

    def __init__(self, stack: ExitStack, *, tls: Tls | None = None, host: str | None = HOST, timing: Timing = QUICK) -> None:
        self.health_port, self.metrics_port = reserved(stack), reserved(stack)
        address = ip_address(host) if host else None
        health, metrics = (Bind(host=address, port=port) for port in (self.health_port, self.metrics_port))
        self.meter = Meter()
        chosen = config("a", health=health, metrics=metrics, metrics_tls=tls, timing=timing)
        self.server = server(chosen, silent=lambda: 0.0, meter=self.meter)
        self._stack = stack

    def start(self) -> None:
        self._stack.enter_context(self.server.serving())

    def turn(self, report: TurnReport = WELL) -> None:
        self.server.turned(Turned(report=report, began=time.time(), ended=time.monotonic()))

    def codes(self) -> list[str]:
        return [problem.code.value for problem in self.server.problems()]

    def ask(self, path: str, *, host: str = HOST, method: str = "GET") -> tuple[int, str]:
        with closing(HTTPConnection(host, self.health_port, timeout=SECONDS)) as connection:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def scrape(self, trust: ssl.SSLContext) -> str:
        with closing(HTTPSConnection("localhost", self.metrics_port, timeout=SECONDS, context=trust)) as connection:
            connection.request("GET", "/metrics")
            return connection.getresponse().read().decode()


Make = Callable[..., Served]


@pytest.fixture
def make() -> Iterator[Make]:
    with ExitStack() as stack:

        def made(*, tls: Tls | None = None, host: str | None = HOST, timing: Timing = QUICK) -> Served:
            return Served(stack, tls=tls, host=host, timing=timing)

        yield made


def answers(served: Served) -> None:
    def answered() -> bool:
        try:
            return bool(served.ask("/healthz"))
        except ConnectionRefusedError:
            return False

    eventually(answered, what="it answers")


def test_what_is_wrong_is_in_the_answer_and_its_status(make: Make) -> None:
    served = make()
    served.start()
    answers(served)

    assert served.ask("/healthz") == (200, "ok\n")
    assert served.ask("/readyz") == (503, "no turn has ended yet\n")
    served.turn(WAITING)
    eventually(lambda: served.ask("/readyz") == (503, "waiting: there is too little to plan with\n"), what="it waits")
    served.turn()
    eventually(lambda: served.ask("/readyz") == (200, "ok\n"), what="it is ready")
    assert json.loads(served.ask("/status")[1])["ready"] is True
    assert served.ask("/readyz", method="POST")[0] == 405
    assert served.ask("/readyz", method="HEAD") == (200, "")
    assert served.ask("/metrics")[0] == 404, "another listener's"


def test_an_agent_whose_passes_do_not_end_is_not_live(make: Make) -> None:
    served = make(timing=replace(QUICK, hang=0.0))
    served.start()
    answers(served)

    status, reason = served.ask("/healthz")

    assert (status, reason.partition(" for ")[0]) == (503, "no turn has come to an end")


def test_all_addresses_are_those_of_both_families(make: Make) -> None:
    served = make(host=None)
    served.start()
    answers(served)

    assert served.ask("/healthz", host="::1") == served.ask("/healthz", host=HOST) == (200, "ok\n")


def test_a_port_that_is_taken_is_a_problem_until_it_is_free(make: Make) -> None:
    served = make()
    with closing(socket.create_server((HOST, served.health_port))):
        served.start()
        eventually(lambda: served.codes() == ["ListenFailed"], what="the problem is told")
        (problem,) = served.server.problems()
        assert problem.subject == f"address {HOST}:{served.health_port}"
        assert "HEALTH_BIND_ADDR" in problem.text
    answers(served)
    eventually(lambda: not served.codes(), what="the problem has gone")


def test_nothing_listens_when_it_has_ended() -> None:
    with ExitStack() as stack:
        served = Served(stack)
        served.start()
        answers(served)

    with pytest.raises(ConnectionRefusedError):
        served.ask("/healthz")
    served.turn()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_a_bug_has_ended_ends_no_agent_and_gathers_no_turns(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(_: serve.Listener) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(serve.Listener, "keep", fails)
    served, report = make(), TurnReport(steps={}, problems=frozenset())
    served.start()
    eventually(lambda: all(thread.name != "serve" for thread in threading.enumerate()), what="the thread has ended")
    held = sys.getrefcount(report)
    served.turn(report)

    assert sys.getrefcount(report) == held


class Files:
    """A directory as the kubelet mounts a Secret: names are links through `..data`, which is replaced in one step."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.number = 0

    def tls(self, *, client_ca: bool = False) -> Tls:
        ca = self.directory / "ca.crt" if client_ca else None
        return Tls(certificate=self.directory / "tls.crt", key=self.directory / "tls.key", client_ca=ca)

    def swap(self, **content: bytes) -> None:
        """The content of `crt`, `key` and `ca` from now on."""
        self.number += 1
        names = {"crt": "tls.crt", "key": "tls.key", "ca": "ca.crt"}
        (made := self.directory / f"..{self.number}").mkdir()
        for part, text in content.items():
            (made / names[part]).write_bytes(text)
        (link := self.directory / "..data_tmp").symlink_to(made.name)
        link.rename(self.directory / "..data")
        for name in names.values():
            if not (self.directory / name).is_symlink():
                (self.directory / name).symlink_to(f"..data/{name}")


def issued(ca: trustme.CA, name: str = "localhost") -> Mapping[str, bytes]:
    made = ca.issue_cert(name)
    return {"crt": made.cert_chain_pems[0].bytes(), "key": made.private_key_pem.bytes()}


def trusting(ca: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    ca.configure_trust(context)
    return context


def is_refused(served: Served, trust: ssl.SSLContext) -> bool:
    try:
        served.scrape(trust)
    except (OSError, ssl.SSLError):
        return True
    return False


def is_cut(connection: HTTPConnection) -> bool:
    """Whether a connection gets no answer."""
    try:
        connection.request("GET", "/metrics")
        connection.getresponse()
    except OSError:
        return True
    return False


FLOOD = """
import resource, socket, sys, time
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
held = [socket.create_connection(("127.0.0.1", int(sys.argv[1]))) for _ in range(int(sys.argv[2]))]
for one in held if sys.argv[3:] else []:
    one.sendall(b"GET /metrics HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n" * 1000)
print("held", flush=True)
time.sleep(600)
"""
"""Opens so many connections and reads nothing from them; says something in each if there is one more argument."""


@contextmanager
def flood(port: int, number: int, *speaks: str) -> Iterator[None]:
    with subprocess.Popen([sys.executable, "-c", FLOOD, str(port), str(number), *speaks], stdout=subprocess.PIPE) as client:
        try:
            assert client.stdout
            assert client.stdout.readline() == b"held\n"
            yield
        finally:
            client.kill()


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("speaks", [(), ("speaks",)], ids=["silent", "never read"])
def test_whoever_holds_many_connections_takes_few_descriptors_and_keeps_nobody_out(make: Make, speaks: tuple[str, ...]) -> None:
    served = make()
    served.start()
    answers(served)
    before = descriptors()
    with flood(served.health_port, 400, *speaks):
        eventually(lambda: descriptors() <= before + serve.MOST + 10, what="the descriptors are free")
        assert served.ask("/healthz") == (200, "ok\n")
    eventually(lambda: descriptors() <= before + 10, what="no connection is left")


def test_who_says_nothing_is_not_waited_for_with_tls_either(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "HANDSHAKE_SECONDS", 1.0)
    ca, files = trustme.CA(), Files(tmp_path)
    files.swap(**issued(ca))
    served = make(tls=files.tls())
    served.start()
    eventually(lambda: not is_refused(served, trusting(ca)), what="it is served")
    before = descriptors()
    with flood(served.metrics_port, 200):
        eventually(lambda: descriptors() <= before + 10, what="the descriptors are free")
        assert not is_refused(served, trusting(ca))


def test_who_asks_nothing_any_more_is_forgotten(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "IDLE_SECONDS", 0.5)
    served = make()
    served.start()
    answers(served)
    with closing(HTTPConnection(HOST, served.health_port, timeout=SECONDS)) as kept:
        kept.request("GET", "/healthz")
        kept.getresponse().read()
        assert kept.sock
        assert kept.sock.recv(1) == b""


def test_a_certificate_that_changes_is_shown_from_then_on(make: Make, tmp_path: Path) -> None:
    first, second, files = trustme.CA(), trustme.CA(), Files(tmp_path)
    files.swap(**issued(first))
    served = make(tls=files.tls())
    served.start()
    eventually(lambda: not is_refused(served, trusting(first)), what="the first certificate is shown")
    files.swap(**issued(second))

    eventually(lambda: not is_refused(served, trusting(second)), what="the second certificate is shown")
    assert is_refused(served, trusting(first))
    assert "wigglenet_turns_total" in served.scrape(trusting(second))


@pytest.mark.parametrize("broken", ["crt", "key", "gone", "of another key", "encrypted", "ca"])
def test_the_former_certificate_goes_on_while_the_files_are_broken(make: Make, tmp_path: Path, broken: str) -> None:
    ca, files = trustme.CA(), Files(tmp_path)
    good = {**issued(ca), "ca": ca.cert_pem.bytes()}
    files.swap(**good)
    served = make(tls=files.tls(client_ca=True))
    served.start()
    trust = trusting(ca)
    ca.issue_cert("scraper").configure_cert(trust)
    eventually(lambda: not is_refused(served, trust), what="it is served")
    if broken == "gone":
        files.swap(crt=good["crt"])
    elif broken == "of another key":
        files.swap(**{**good, "key": issued(ca)["key"]})
    elif broken == "encrypted":
        files.swap(**{**good, "key": encrypted(good["key"])})
    else:
        files.swap(**{**good, broken: b"no PEM"})

    eventually(lambda: served.codes() == ["CertificateUnusable"], what="the problem is told")
    (problem,) = served.server.problems()
    assert str(tmp_path / ("ca.crt" if broken == "ca" else "tls.key" if broken == "gone" else "tls.crt")) in problem.text
    assert not is_refused(served, trust)
    files.swap(**good)
    eventually(lambda: not served.codes(), what="the problem has gone")
    assert not is_refused(served, trust)


def test_a_pipe_in_the_place_of_a_certificate_holds_up_no_probe(make: Make, tmp_path: Path) -> None:
    tls = Tls(certificate=tmp_path / "tls.crt", key=tmp_path / "tls.key", client_ca=None)
    os.mkfifo(tls.certificate)
    served = make(tls=tls)
    served.start()

    eventually(lambda: served.codes() == ["CertificateUnusable"], what="the problem is told")
    answers(served)


def test_whoever_is_connected_at_the_end_is_no_error_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(serve, "CLOSE_SECONDS", 0.1)
    ca, files = trustme.CA(), Files(tmp_path)
    files.swap(**issued(ca))

    def serve_silent_ones() -> list[socket.socket]:
        with ExitStack() as stack:
            served = Served(stack, tls=files.tls())
            served.start()
            eventually(lambda: not is_refused(served, trusting(ca)), what="it is served")
            silent = [socket.create_connection((HOST, port)) for port in (served.health_port, served.metrics_port) * 5]
            answers(served)
        return silent

    silent = serve_silent_ones()
    gc.collect()  # a task that is pending tells it then
    for one in silent:
        one.close()

    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_whoever_never_shakes_hands_takes_no_more_descriptors_than_allowed(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "COMING", 4)
    monkeypatch.setattr(serve, "HANDSHAKE_SECONDS", 0.5)
    ca, files = trustme.CA(), Files(tmp_path)
    files.swap(**issued(ca))
    served = make(tls=files.tls())
    served.start()
    eventually(lambda: not is_refused(served, trusting(ca)), what="it is served")
    descriptors = Path("/proc/self/fd")
    before = len([*descriptors.iterdir()])
    silent = [socket.create_connection((HOST, served.metrics_port)) for _ in range(40)]

    assert not is_refused(served, trusting(ca)), "who shakes hands has its turn"
    assert len([*descriptors.iterdir()]) - before <= len(silent) + 2 * serve.COMING
    for one in silent:
        one.close()


def test_a_page_that_ends_by_a_bug_is_told_and_a_request_that_is_none_is_not(
    make: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.setup(sys.stdout)
    monkeypatch.setattr(health.Health, "status", lambda _: 1 / 0)
    served = make()
    served.start()
    answers(served)
    for junk in (b"CONNECT x:1 HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000):
        with closing(socket.create_connection((HOST, served.health_port), timeout=SECONDS)) as one:
            one.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" + junk)
            while one.recv(1 << 16):
                pass
    assert "error" not in capsys.readouterr().out
    assert served.ask("/status")[0] == 500
    assert "/status ended by a bug" in capsys.readouterr().out


def encrypted(key: bytes) -> bytes:
    from cryptography.hazmat.primitives import serialization as s  # noqa: PLC0415 - for one case

    loaded = s.load_pem_private_key(key, None)
    return loaded.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.BestAvailableEncryption(b"secret"))


def test_nothing_is_served_until_there_is_a_certificate_and_never_in_clear(make: Make, tmp_path: Path) -> None:
    ca, files = trustme.CA(), Files(tmp_path)
    served = make(tls=files.tls())
    served.start()
    eventually(lambda: served.codes() == ["CertificateUnusable"], what="the problem is told")
    answers(served)
    with pytest.raises(ConnectionRefusedError), closing(HTTPConnection(HOST, served.metrics_port)) as plain:
        plain.request("GET", "/metrics")

    files.swap(**issued(ca))
    eventually(lambda: not is_refused(served, trusting(ca)), what="it is served")
    with closing(HTTPConnection(HOST, served.metrics_port)) as plain:
        assert is_cut(plain)


def test_a_client_needs_a_certificate_of_the_ca_of_now(make: Make, tmp_path: Path) -> None:
    ca, clients, others, files = trustme.CA(), trustme.CA(), trustme.CA(), Files(tmp_path)
    own = issued(ca)
    files.swap(**own, ca=clients.cert_pem.bytes())
    served = make(tls=files.tls(client_ca=True))
    served.start()
    known, other, nobody = trusting(ca), trusting(ca), trusting(ca)
    clients.issue_cert("scraper").configure_cert(known)
    others.issue_cert("scraper").configure_cert(other)

    eventually(lambda: not is_refused(served, known), what="who has a certificate is served")
    assert is_refused(served, nobody)
    assert is_refused(served, other)
    with closing(HTTPSConnection("localhost", served.metrics_port, timeout=SECONDS, context=known)) as kept:
        kept.request("GET", "/metrics")
        kept.getresponse().read()
        files.swap(**own, ca=others.cert_pem.bytes())
        eventually(lambda: not is_refused(served, other), what="the other CA is trusted")
        assert is_refused(served, known)
        assert is_cut(kept)
