"""How the answers of the embedded server differ from correct ones; `tests/lab/faults/api_server.py` makes faults of it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

from tests.lab.api.access import Asked

Answer = Callable[[web.Request, Asked], Awaitable[web.StreamResponse | None]]


async def _correct(_request: web.Request, _asked: Asked) -> None:
    """Let the server answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Misbehaviour:
    """What the server does differently; the default of each field is correct behaviour."""

    answer: Answer = _correct
    """Called with each request; None lets the server answer it."""
    page_size: int = 0
    """The largest number of objects in one page of a list; 0: as requested."""
    withheld: frozenset[str] = frozenset()
    """Types of events that watches do not send."""


CORRECT = Misbehaviour()
