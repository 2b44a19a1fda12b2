"""Whether the agent of a link is at work on this node, and what it says.

It holds a name for as long as it runs, and answers at its address for probes.
"""

import json
import socket
import time
from pathlib import Path
from typing import Any

from wigglenet_operator.errors import KernelError, describe

SOCKETS = Path("/proc/self/net/unix")
"""Of this network namespace; abstract names begin with @ (unix(7))."""
SECONDS = 2
"""For an answer; an agent that hangs is told apart from a dead one."""
LARGEST = 1 << 24
"""Bytes of an answer."""


def socket_name(link: str) -> str:
    """What the agent of the link binds, without the leading NUL."""
    return f"wigglenet-operator/{link}"


def only_agent(link: str) -> socket.socket:
    """What says, for as long as it is open, that this is the agent of the link; KernelError if there is another.

    A name that the node's network has once and that ends with its process: no file that could be stale, no directory to share.
    """
    name = socket_name(link)
    mine = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        mine.bind(f"\0{name}")
    except OSError as error:
        mine.close()
        text = f"another agent serves link {link} on this node; end one of the two (`ss -xlp | grep {name}` shows it)"
        raise KernelError(text) from error
    mine.listen()
    return mine


def agent_at_work(link: str, sockets: Path = SOCKETS) -> bool:
    """Whether there is one, also one that hangs; not by connecting, for nobody accepts."""
    name = f"@{socket_name(link)}"
    return any(line.split()[-1] == name for line in sockets.read_text(errors="replace").splitlines()[1:])


def agent_word(host: str, port: int) -> dict[str, Any]:
    """What the agent says of itself at its address for probes; KernelError if it does not answer."""
    try:
        answer = json.loads(_reply(host, port).partition(b"\r\n\r\n")[2])
    except (OSError, ValueError, RecursionError) as error:
        raise KernelError(f"ask the agent at {host}:{port}: {describe(error)}") from error
    if not isinstance(answer, dict):
        raise KernelError(f"ask the agent at {host}:{port}: it answers something else")
    return answer


def _reply(host: str, port: int) -> bytes:
    """In HTTP/1.0, where it ends with the connection; somebody else at that address may send for ever, byte by byte."""
    end, reply = time.monotonic() + SECONDS, bytearray()
    with socket.create_connection((host, port), timeout=SECONDS) as connection:
        connection.sendall(b"GET /status HTTP/1.0\r\n\r\n")
        while len(reply) < LARGEST:
            if (left := end - time.monotonic()) <= 0:
                raise TimeoutError("timed out")
            connection.settimeout(left)
            if not (part := connection.recv(1 << 16)):
                break
            reply += part
    return bytes(reply)
