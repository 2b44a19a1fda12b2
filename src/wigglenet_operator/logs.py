"""How log lines look: for people on a terminal, JSON (one object a line) otherwise."""

import json
import logging
import re
import sys
import threading
import traceback
from datetime import UTC, datetime
from typing import IO

log = logging.getLogger(__name__)
QUIET = ("kopf", "kubernetes_asyncio", "pyroute2", "aiohttp", "asyncio")
"""Libraries that are heard from WARNING on: Kopf alone tells of each event."""


TOKEN = re.compile(r"""(?i)(bearer(?:\s|\\[nrt])+)[^\s'",;>\\]+""")
"""What proves who the agent is, as it stands in a header: the `repr` of an error of aiohttp's has the request's headers.

In JSON as well: a backslash is in no token, it escapes what follows it.
"""


class TextFormatter(logging.Formatter):
    """Time, level and message, and the traceback where there is one."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        """Without a token, wherever it comes from."""
        return TOKEN.sub(r"\1...", super().format(record))


class JsonFormatter(logging.Formatter):
    """Keys, in order: time (RFC 3339), level, logger, message; error with the traceback where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, without a token, wherever it comes from."""
        line = {
            "time": datetime.fromtimestamp(record.created, tz=UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return TOKEN.sub(r"\1...", json.dumps(line, ensure_ascii=False))


NO_SIGNALS = "kopf._core.reactor.running"
"""Warns that it does not handle signals in its thread: the agent does."""
BAD_REQUESTS = "aiohttp.server"
"""Has a traceback at ERROR for each request that is no HTTP: whoever reaches the metrics would fill the log."""


def setup(stream: IO[str] = sys.stderr) -> None:
    """Send everything from INFO on to `stream`; ours from DEBUG on would tell of each turn that did nothing."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextFormatter() if stream.isatty() else JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger(NO_SIGNALS).setLevel(logging.ERROR)
    logging.getLogger(BAD_REQUESTS).setLevel(logging.CRITICAL)


def report_slow_start(seconds: float) -> threading.Timer:
    """Log a warning after this time that says where in the code the calling thread is; `cancel` the result before.

    A start can hang on the import of modules from a slow disk, on a kernel that loads a module for a netlink family, or on the
    disk of the key file; without this the log would be empty.
    """
    thread = threading.get_ident()

    def report() -> None:
        frame = sys._current_frames().get(thread)  # noqa: SLF001 - the documented way to see another thread
        where = "".join(traceback.format_stack(frame)) if frame else "an unknown place"
        log.warning("the agent has not started after %g s; it is at:\n%s", seconds, where)

    timer = threading.Timer(seconds, report)
    timer.daemon = True
    timer.start()
    return timer
