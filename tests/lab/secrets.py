"""Whether anything that an agent tells gives away its private key or its token.

Of a key no eight letters may be found, of a token not its end (the beginnings of tokens are alike).  Looked for in logs, CNI
files, what is kept in /run/wigglenet, what the API server has, and the agents' pages, at the end of each lab; and in all that
tests print.
"""

import base64
import binascii
import contextlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.lab.node import CONFLIST, LabNode
from tests.lab.pages import HEALTH, METRICS, page

LETTERS, END = 8, 16
USED: set[str] = set()
"""What must not be found, of all labs."""
KEYS = "/etc/wigglenet"
PLACES = ("/run/*.log", "/run/wigglenet/*", f"{Path(CONFLIST).parent}/*")
PAGES = ((HEALTH, "/status"), (HEALTH, "/readyz"), (HEALTH, "/healthz"), (METRICS, "/metrics"))


def revealing(node: LabNode) -> set[str]:
    """Whatever shows a secret of the node: of each key the first letters of its base64 and its hex, of each token its end."""
    found = {token[-END:] for token in node.tokens}
    for text in map(_text, node.path(KEYS).glob("*")):
        with contextlib.suppress(binascii.Error):
            raw = base64.b64decode(text.strip(), validate=True)
            if len(raw) == 32:
                found |= {text[:LETTERS], raw.hex()[: 2 * LETTERS]}
    return found


def search(nodes: Iterable[LabNode], told: Iterable[object]) -> list[str]:
    """Where something that must not be is; `told` is what the API server has."""
    nodes = [*nodes]
    for node in nodes:
        USED.update(revealing(node))
    said = {f"{node.name}: {place}": text for node in nodes for place, text in _said(node)}
    said |= {"API server": json.dumps([*told])}
    return leaks(said.items())


def leaks(said: Iterable[tuple[str, str]]) -> list[str]:
    """The titles of the texts that give something away."""
    return [title for title, text in said if any(secret in text for secret in USED)]


def _said(node: LabNode) -> Iterator[tuple[str, str]]:
    for pattern in PLACES:
        for path in node.path("/").glob(pattern.lstrip("/")):
            if path.is_file():
                yield str(path), _text(path)
    for port, path_of_page in PAGES:
        yield path_of_page, page(node, port, path_of_page)[1]


def _text(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_bytes().decode(errors="replace")
    return ""
