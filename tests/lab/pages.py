"""What an agent answers on its own node: health, status, metrics."""

import http.client
import socket
import ssl

from tests.lab.node import LabNode

HEALTH, METRICS = 9092, 9091
SECONDS = 2.0
"""More than any answer takes, less than one waits for an agent that was stopped."""


def page(node: LabNode, port: int, path: str) -> tuple[int, str]:
    """HTTP status and body of one of the agent's pages, 0 if nobody answers; over TLS where the node has that."""
    connection = http.client.HTTPConnection("localhost", port)
    try:
        with node.place.network():
            plain = socket.socket()
        connection.sock = plain
        plain.settimeout(SECONDS)
        plain.connect(("127.0.0.1", port))
        if port == METRICS and "METRICS_TLS_CERT_FILE" in node.environment:
            connection.sock = ssl._create_unverified_context().wrap_socket(plain)  # noqa: S323, SLF001 - of the lab
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except (OSError, http.client.HTTPException):
        return 0, ""
    finally:
        connection.close()
