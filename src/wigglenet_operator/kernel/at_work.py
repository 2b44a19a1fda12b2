"""Whether the agent of a link is at work on this node, and what it says.

It holds a name for as long as it runs, and answers at its address for probes.
"""

import json
import socket
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from wigglenet_operator.errors import KernelError

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
    connection = HTTPConnection(host, port, timeout=SECONDS)
    try:
        connection.request("GET", "/status")
        answer = json.loads(connection.getresponse().read(LARGEST))
    except (OSError, HTTPException, ValueError, RecursionError) as error:
        raise KernelError(f"ask the agent at {host}:{port}: {error or type(error).__name__}") from error
    finally:
        connection.close()
    if not isinstance(answer, dict):
        raise KernelError(f"ask the agent at {host}:{port}: it answers something else")
    return answer
