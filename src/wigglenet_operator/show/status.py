"""`wigglenet-operator status`: one look or one after the other, of a node or of a cluster."""

import asyncio
import json
import signal
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import IO

from wigglenet_operator.errors import ConfigError, WigglenetError
from wigglenet_operator.settings import read_settings
from wigglenet_operator.show.page import Cell, Line, Mood, Page, live, show

WATCH_SECONDS = 2.0
UNKNOWN_HOST = "unknown"
"""On the host itself nobody sets where the API server is; whoever needs it says so."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class View:
    """What one look has shown.

    Without a repr: asyncio.run makes one of what a coroutine returned, on its way back to the old handler of SIGINT
    (CPython 3.11, signal._int_to_enum), and of a thousand peers that is 0.1 s.
    """

    page: Callable[[], Page]
    """Either takes 0.1 s for a thousand peers, and one of them is wanted."""
    json: Callable[[], dict[str, object]]
    well: bool | None
    """None if it cannot be told."""


Looks = Callable[[], Coroutine[None, None, View]]


def node_looks(environment: Mapping[str, str]) -> Looks:
    """Looks at this node; ConfigError if it is set wrongly."""
    from wigglenet_operator.show.look import look  # noqa: PLC0415 - a look at a cluster needs none of it
    from wigglenet_operator.show.node import faults, node_json, node_page, well  # noqa: PLC0415 - as above

    settings = read_settings({"KUBERNETES_SERVICE_HOST": UNKNOWN_HOST, **environment})
    config = settings.config()

    async def see() -> View:
        seen = await look(config, host=settings.KUBERNETES_SERVICE_HOST, port=settings.KUBERNETES_SERVICE_PORT)
        found = faults(seen)
        page, json = partial(node_page, seen, found), partial(node_json, seen, found)
        return View(page=page, json=json, well=well(seen, found))

    return see


def cluster_looks(kubeconfig: str | None, context: str | None) -> Looks:
    """Looks at a cluster; each raises ConfigError or ApiError if it is not seen."""
    from wigglenet_operator.kube.access import kubeconfig_client  # noqa: PLC0415 - a look at a node would wait for it
    from wigglenet_operator.kube.census import list_node_bodies  # noqa: PLC0415 - as above
    from wigglenet_operator.show.cluster import cluster_json, cluster_page, view, well  # noqa: PLC0415 - as above

    async def see() -> View:
        async with kubeconfig_client(kubeconfig, context) as api:
            nodes = [view(body) for body in await list_node_bodies(api, whole=False)]
        return View(page=partial(cluster_page, nodes), json=partial(cluster_json, nodes), well=well(nodes))

    return see


def show_status(looks: Looks, stream: IO[str], *, as_json: bool) -> bool | None:
    """Look once; whether all is well."""
    view = asyncio.run(looks())
    if as_json:
        stream.write(json.dumps(view.json(), indent=2) + "\n")
    else:
        show(view.page(), stream)
    return view.well


def watch_status(looks: Looks, stream: IO[str], *, as_json: bool) -> bool | None:
    """Look every other second until Ctrl-C; whether all was well the last time. JSON is one line for each look."""
    well: bool | None = None
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a script starts in the background
    try:
        with nullcontext() if as_json else live(stream) as put:
            while True:
                try:
                    view = asyncio.run(looks())
                except ConfigError:
                    raise
                except WigglenetError as error:
                    view = _unseen(str(error))
                well = view.well
                if put:
                    put(view.page())
                else:
                    stream.write(json.dumps(view.json()) + "\n")
                    stream.flush()
                time.sleep(WATCH_SECONDS)
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGINT, before)
    return well


def _unseen(why: str) -> View:
    line = Line(cells=[Cell("cannot be told ", Mood.DOUBTFUL), Cell(why)])
    return View(page=lambda: [line], json=lambda: {"well": None, "untold": [why]}, well=None)
