"""Runs inside of the pods that test a cluster: `serve`, `ask`, `talk`, `resolve`, `fetch`. Standard library only."""

import json
import signal
import socket
import socketserver
import ssl
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress

PACE = 0.05
AUTHORITY = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"
"""Who signs for the API server."""


class Echo(socketserver.StreamRequestHandler):
    """Says who it is and whom it sees, then repeats every line."""

    def handle(self) -> None:
        """One connection."""
        seen = self.client_address[0].removeprefix("::ffff:")
        with suppress(ConnectionError):  # a kubelet's probe is gone at once
            self.wfile.write(json.dumps({"pod": socket.gethostname(), "seen": seen}).encode() + b"\n")
            for line in self.rfile:
                self.wfile.write(line)


class Server(socketserver.ThreadingTCPServer):
    """Both families on one socket."""

    address_family = socket.AF_INET6
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 100

    def server_bind(self) -> None:
        """As `::`, IPv4 included."""
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


def serve(port: str) -> None:
    """Answer for ever."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the first process of the pod: who ends here is not kept as a zombie
    server = Server(("::", int(port)), Echo)
    print(f"serving port {port}", flush=True)
    server.serve_forever()


def ask(address: str, port: str, times: str) -> None:
    """Print who answers each of so many connections, a line of JSON: `pod`, `seen`."""
    for _ in range(int(times)):
        with socket.create_connection((address, int(port)), timeout=2) as connection:
            print(connection.makefile().readline(), end="")


def talk(address: str, port: str) -> None:
    """Keep one connection busy until SIGINT, then print how many lines came back; a broken connection ends it with an error."""
    stopped: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: stopped.append(number))
    with socket.create_connection((address, int(port)), timeout=10) as connection:
        stream = connection.makefile("rw")
        stream.readline()
        count = 0
        while not stopped:
            stream.write(f"{count}\n")
            stream.flush()
            if (answer := stream.readline()) != f"{count}\n":
                sys.exit(f"after {count} lines: {answer!r}")
            count += 1
            time.sleep(PACE)
    print(f"{count} lines came back")


def resolve(name: str) -> None:
    """Print the addresses of a name, one a line."""
    print("\n".join(sorted({str(found[4][0]) for found in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)})))


def fetch(url: str) -> None:
    """Print what is there; an HTTPS server must be the cluster's API server, under whichever of its addresses."""
    trust = None
    if url.startswith("https:"):
        trust = ssl.create_default_context(cafile=AUTHORITY)
        trust.check_hostname = False
    with urllib.request.urlopen(url, timeout=5, context=trust) as answer:  # noqa: S310 - a test says which
        print(answer.read().decode())


if __name__ == "__main__":
    known: list[Callable[..., None]] = [serve, ask, talk, resolve, fetch]
    commands = {command.__name__: command for command in known}
    commands[sys.argv[1]](*sys.argv[2:])
