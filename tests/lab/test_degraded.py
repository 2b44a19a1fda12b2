"""A node lacks something for a time: the agent reports it, pods lose nothing, and the agent recovers by itself."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import KW_ONLY, dataclass
from http import HTTPStatus

import pytest

from tests.lab.faults.agent import PATH, PROGRAMS, PYTHONPATH, replace_program, restore_program
from tests.lab.faults.api_server import disconnect, write_expired_token
from tests.lab.faults.cluster import EVENTS_FORBIDDEN, PATCH_FORBIDDEN, forbid, restore_permissions
from tests.lab.faults.fault import Act, Fault, nothing, run, then
from tests.lab.faults.node import NFT, OTHER_CNI, set_mtu
from tests.lab.faults.reports import STATUS, logged
from tests.lab.lab import ApiKind, Lab
from tests.lab.node import CONFLIST, KEY, LOG, LabNode
from tests.lab.pages import HEALTH, METRICS, page
from tests.lab.timing import LAB, source
from tests.lab.wait import NotSeenError, eventually
from wigglenet_operator.model.facts import WireGuardKind
from wigglenet_operator.model.problems import Code

CLOCK = f"""{source(LAB)}
import time
from pathlib import Path

system_time = time.time

def shifted_time():
    try:
        return system_time() + float(Path("{PROGRAMS}/offset").read_text())
    except (OSError, ValueError):
        return system_time()

time.time = shifted_time
"""
"""A sitecustomize.py: the clock of the agent is wrong by the seconds in the file `offset`."""
WITHOUT_MEMORY = f'#!/bin/sh\nulimit -v 1000\nexec {NFT} "$@"\n'
FULL = "mkdir -p /run/full{0}; mount -t tmpfs -o size=4k none /run/full{0}; head -c 4096 /dev/zero > /run/full{0}/junk;"
FULL += " mount --bind /run/full{0} {0}"
"""Mounts a file system without a free page, which is full before the agent can write to it."""
TURNS, REQUESTS = "wigglenet_turns_total", "wigglenet_api_requests_total"
ORPHAN = "unreachable 10.250.0.0/24 proto 157 metric 4294967295"
"""The unreachable route of a removed Node; the agent keeps it for 10 minutes."""
CNI, ETC = CONFLIST.rpartition("/")[0], KEY.rpartition("/")[0]


@dataclass(frozen=True)
class DegradedRow:
    """A fault, and the problems that the agent reports meanwhile."""

    fault: Fault
    codes: tuple[Code, ...]
    _: KW_ONLY
    seconds: float = 20.0
    """Until each problem is in the log."""
    after: Act = nothing
    """Cleans up after the agent has recovered."""


def unmount_cni(_lab: Lab, node: LabNode) -> None:
    """Unmount the directory of the CNI file when the agent has written the file there."""
    eventually(lambda: node.conflist() is not None, what="the CNI file is there again")
    node.place.run("umount", CNI)


def unmount_etc(_lab: Lab, node: LabNode) -> None:
    """Unmount the directory of the key file when the agent has written the file there."""
    eventually(node.path(KEY).exists, what="the key file is there again")
    node.place.run("umount", ETC)


READ_ONLY = f"mount --bind {CNI} {CNI}; mount -o remount,bind,ro {CNI}"
ROWS = (
    DegradedRow(
        Fault("the disk of the CNI file is full", run(FULL.format(CNI)), run(f"rm {CNI}/junk")),
        (Code.CNIFileFailed,),
        after=unmount_cni,
    ),
    DegradedRow(
        Fault("the disk of the key file is full", run(FULL.format(ETC)), run(f"rm {ETC}/junk")),
        (Code.KeyFileFailed,),
        after=unmount_etc,
    ),
    DegradedRow(
        Fault("the directory of the CNI file is read-only", then(run(READ_ONLY), set_mtu(1400)), run(f"umount {CNI}")),
        (Code.CNIFileFailed,),
        after=set_mtu(1500),
    ),
    DegradedRow(
        Fault(
            "nft has no memory",
            then(replace_program("nft", WITHOUT_MEMORY), run(f"{NFT} delete table inet wigglenet")),
            repair=restore_program("nft"),
        ),
        (Code.FirewallFailed,),
    ),
    DegradedRow(
        Fault("the token has expired", write_expired_token, repair=Lab.give_credentials),
        (Code.CensusFailed, Code.APIRefused),
        seconds=60,
    ),
    DegradedRow(
        Fault("it may not list Nodes", forbid("nodes", "list"), repair=restore_permissions), (Code.CensusFailed,), seconds=40
    ),
    DegradedRow(
        Fault("it may not watch Nodes", then(forbid("nodes", "watch"), disconnect), repair=restore_permissions),
        (Code.APIRefused,),
        seconds=60,
    ),
    DegradedRow(PATCH_FORBIDDEN, (Code.PublishFailed,)),
    DegradedRow(EVENTS_FORBIDDEN, (Code.EventsFailed,), seconds=40),
)


@pytest.fixture(scope="module")
def pair(api_kind: ApiKind, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """Two nodes; the agent of the first one uses the clock of `CLOCK` and the programs in PROGRAMS."""
    with Lab(api=api_kind, wireguard=WireGuardKind(request.config.getoption("--wireguard"))) as made:
        a = made.add_node("a", agent=False)
        a.path(PROGRAMS).mkdir()
        a.path(f"{PROGRAMS}/sitecustomize.py").write_text(CLOCK)
        a.environment |= {"PATH": PATH, "ENABLE_METRICS": "true"}
        made.start(a, pythonpath=PYTHONPATH)
        made.add_node("b")
        made.expect_mesh()
        yield made


def fresh(pair: Lab) -> LabNode:
    """The first node with a new agent: one that has repaired often delays the repairs that the tests wait for."""
    a = pair.nodes["a"]
    a.kill()
    a.execute_agent(pythonpath=PYTHONPATH)
    a.wait_working()
    return a


@pytest.mark.parametrize("row", ROWS, ids=[row.fault.name for row in ROWS])
def test_pods_notice_nothing_and_the_agent_says_what_it_lacks_and_recovers(pair: Lab, row: DegradedRow) -> None:
    a = fresh(pair)
    pid = a.agent_pid()
    with pair.no_loss():
        with row.fault.injected(pair, a):
            for code in row.codes:
                eventually(lambda code=code: logged(a, code)[0], what=f"it says {code}", seconds=row.seconds)  # type: ignore[misc]  # bool
            a.wait_working()
        with suppress(NotSeenError):
            eventually(lambda: not a.problems(), what="there is no problem any more", seconds=40)
        assert not a.problems(), a.log()[-4000:]
        row.after(pair, a)
        a.wait_working()
    assert a.agent_pid() == pid
    assert not a.problems()


def count(node: LabNode, name: str) -> float:
    """A sample of the agent's metrics, or the sum of those whose labels differ; 0 while it has none."""
    return sum(map(float, re.findall(rf"^{name}(?:{{.*}})? (.*)$", page(node, METRICS, "/metrics")[1], re.MULTILINE)))


def written(lab: Lab, node: LabNode) -> tuple[object, ...]:
    """What an agent writes: its Node, as a version, and routes, peers and their endpoints."""
    found = lab.api.admin.get(f"/api/v1/nodes/{node.name}")
    routes = [node.place.run("ip", family, "route") for family in ("-4", "-6")]
    peers = {key: (peer.endpoint, peer.allowed_ips) for key, peer in node.wireguard().items()}
    return found["metadata"]["resourceVersion"], routes, peers


@pytest.mark.parametrize("seconds", [3600, -3600], ids=["ahead", "back"])
def test_a_clock_that_jumps_for_an_hour_and_back_is_no_reason_to_do_anything(pair: Lab, seconds: int) -> None:
    a = pair.nodes["a"]
    a.place.run("sh", "-ec", f"echo > {OTHER_CNI}; ip route add {ORPHAN}")
    try:
        fresh(pair)
        eventually(lambda: reported(pair, a) and is_current(pair, a), what="the Node has what the agent says", seconds=90)
        began = [entry["since"] for entry in reported(pair, a)]
        with quiet(pair, a):
            for offset in (seconds, 0):
                a.path(f"{PROGRAMS}/offset").write_text(str(offset))
                turns, requests = count(a, TURNS), count(a, REQUESTS)
                eventually(lambda turns=turns: count(a, TURNS) >= turns + 2, what="turns end", seconds=40)  # type: ignore[misc]  # bool
                eventually(lambda requests=requests: count(a, REQUESTS) > requests, what="a census is taken", seconds=40)  # type: ignore[misc]  # bool
                assert page(a, HEALTH, "/healthz")[0] == HTTPStatus.OK
        assert [entry["since"] for entry in reported(pair, a)] == began
    finally:
        a.path(f"{PROGRAMS}/offset").unlink(missing_ok=True)
        a.place.run("sh", "-ec", f"rm {OTHER_CNI}; ip route del {ORPHAN} || :")
    eventually(lambda: not reported(pair, a), what="the problem is over")


@contextmanager
def quiet(lab: Lab, node: LabNode) -> Iterator[None]:
    """Within the block no packet is lost, the agent is not restarted, and it neither logs nor writes anything."""
    pid, before, since = node.agent_pid(), written(lab, node), node.log_size()
    with lab.no_loss():
        yield
    assert written(lab, node) == before
    assert node.path(LOG).read_bytes()[since:] == b""
    assert node.agent_pid() == pid


def is_current(lab: Lab, node: LabNode) -> bool:
    """Whether the status of the Node agrees with the agent's status page; agents write it up to a minute later."""
    status = json.loads(lab.annotations(node.name).get(STATUS, "{}"))
    shown = json.loads(page(node, HEALTH, "/status")[1] or "{}")
    return bool(status) and {**shown, **status} == shown


def reported(lab: Lab, node: LabNode) -> list[dict[str, str]]:
    """The problems in the status of the Node."""
    problems: list[dict[str, str]] = json.loads(lab.annotations(node.name).get(STATUS, "{}")).get("problems", [])
    return problems
