"""The agent's timers as the tests set them: short where a test would otherwise wait for one, else those of production.

With LAB_REAL_TIME=1 in the environment, or on an emulated machine, they are those of production; `nox -s long` runs the tests
of each timer so.
"""

import os
from dataclasses import asdict, replace

from tests.lab.wait import SLOWNESS
from wigglenet_operator.model.timing import PRODUCTION, Timing


def scaled(timing: Timing, factor: float) -> Timing:
    """Every time multiplied by the factor; whole numbers stay whole, and the number of requests in a burst stays."""

    def shortened(value: object) -> object:
        if isinstance(value, tuple):
            return tuple(map(shortened, value))
        return max(1, round(value * factor)) if isinstance(value, int) else value * factor  # type: ignore[operator]  # a number

    changed = {name: shortened(value) for name, value in asdict(timing).items() if name != "request_burst"}
    return Timing(**{**changed, "request_burst": timing.request_burst})  # type: ignore[arg-type]  # of the same types


REAL_TIME = os.environ.get("LAB_REAL_TIME") == "1"
SHORT = replace(
    PRODUCTION,
    resync=4.0,
    repair_pause_most=4.0,
    repair_calm=10.0,
    departed_node=8.0,
    connect=3.0,
    answer=4.0,
    request=5.0,
    request_retry=0.3,
    request_retry_most=2.0,
    watch_stable=8.0,
    refused=4.0,
    relist_retry=1.0,
    report_settle=0.5,
    report_retry=2.0,
    status_least=4.0,
    status_most=20.0,
    event_interval=1.0,
    condition_doubt=4.0,
    device=2.0,
    listen_retry=0.5,
)
LAB = PRODUCTION if REAL_TIME or SLOWNESS > 1 else SHORT
"""Of agents in the lab."""
QUICK = PRODUCTION if REAL_TIME else scaled(PRODUCTION, 0.05)
"""Of agents in the process of a test, which have neither a kernel nor a busy machine to wait for."""


def source(timing: Timing) -> str:
    """The beginning of a sitecustomize.py that gives the real program these timers."""
    return f"from wigglenet_operator.model import timing\ntiming.PRODUCTION = timing.{timing!r}\n"
