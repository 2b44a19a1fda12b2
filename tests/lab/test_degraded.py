"""What a node may lack for a while: the agent says so, pods notice nothing, what it can repair it repairs, and it recovers."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus

import pytest

from tests.lab.denials import allow, cut, forbid
from tests.lab.faults import annotate, run, spoken, then
from tests.lab.harms import NFT
from tests.lab.lab import ApiKind, Lab
from tests.lab.node import CONFLIST, LOG, SERVICE_ACCOUNT, LabNode
from tests.lab.pages import HEALTH, METRICS, page
from tests.lab.provocations import OTHER_CNI
from tests.lab.sources import NODE_IPS
from tests.lab.strike import KEY, Act, nothing
from tests.lab.told import STATUS, logged
from tests.lab.wait import NotSeenError, eventually
from wigglenet_operator.model.facts import WireGuardKind
from wigglenet_operator.model.problems import Code

PROGRAMS = "/run/programs"
"""First in the agent's PATH, and where the source of its clock is."""
MODULES = ":".join(filter(None, (PROGRAMS, os.environ.get("PYTHONPATH"))))
CLOCK = f"""
import time
from pathlib import Path

right = time.time

def wrong():
    try:
        return right() + float(Path("{PROGRAMS}/offset").read_text())
    except (OSError, ValueError):
        return right()

time.time = wrong
"""
NO_MEMORY = f'#!/bin/sh\nulimit -v 1000\nexec {NFT} "$@"\n'
FULL = "mount -t tmpfs -o size=4k none {0}; head -c 4096 /dev/zero > {0}/junk"
"""A disk without a free page."""
TURNS, REQUESTS = "wigglenet_turns_total", "wigglenet_api_requests_total"
ORPHAN = "unreachable 10.250.0.0/24 proto 157 metric 4294967295"
"""The closed route of a network whose node has gone: it stays for 10 minutes."""
CNI, ETC = CONFLIST.rpartition("/")[0], KEY.rpartition("/")[0]


@dataclass(frozen=True, kw_only=True)
class Row:
    """What is missing for a while."""

    harm: Act
    heal: Act
    codes: tuple[Code, ...]
    """What the agent says meanwhile."""
    after: Act = nothing
    """Clears up when it has recovered."""
    seconds: float = 20.0


def want_memory(_lab: Lab, node: LabNode) -> None:
    program = node.path(f"{PROGRAMS}/nft")
    program.write_text(NO_MEMORY)
    program.chmod(0o755)
    node.place.run(NFT, "delete", "table", "inet", "wigglenet")


def write_token(lab: Lab, node: LabNode) -> None:
    """One that has expired is worth as much as any text."""
    directory = node.path(SERVICE_ACCOUNT)
    (directory / ".token").write_text("expired")
    (directory / ".token").rename(directory / "token")
    cut(lab, node)


def set_mtu(mtu: int) -> Act:
    return lambda lab, node: lab.set_mtu(node, mtu)


def written_again(_lab: Lab, node: LabNode) -> None:
    eventually(lambda: node.conflist() is not None, what="the CNI file is there again")
    node.place.run("umount", CNI)


def kept_again(_lab: Lab, node: LabNode) -> None:
    eventually(node.path(KEY).exists, what="the key file is there again")
    node.place.run("umount", ETC)


READ_ONLY = f"mount --bind {CNI} {CNI}; mount -o remount,bind,ro {CNI}"
ROWS = {
    "the disk of the CNI file is full": Row(
        harm=run(FULL.format(CNI)), heal=run(f"rm {CNI}/junk"), codes=(Code.CNIFileFailed,), after=written_again
    ),
    "the disk of the key file is full": Row(
        harm=run(FULL.format(ETC)), heal=run(f"rm {ETC}/junk"), codes=(Code.KeyFileFailed,), after=kept_again
    ),
    "the directory of the CNI file is read-only": Row(
        harm=then(run(READ_ONLY), set_mtu(1400)),
        heal=run(f"umount {CNI}"),
        codes=(Code.CNIFileFailed,),
        after=set_mtu(1500),
    ),
    "nft has no memory": Row(harm=want_memory, heal=run(f"rm {PROGRAMS}/nft"), codes=(Code.FirewallFailed,)),
    "the token has expired": Row(
        harm=write_token, heal=Lab.give_credentials, codes=(Code.CensusFailed, Code.APIRefused), seconds=60
    ),
    "it may not list Nodes": Row(harm=forbid("nodes", "list"), heal=allow, codes=(Code.CensusFailed,), seconds=40),
    "it may not watch Nodes": Row(harm=then(forbid("nodes", "watch"), cut), heal=allow, codes=(Code.APIRefused,), seconds=60),
    "it may not patch Nodes": Row(
        harm=then(forbid("nodes", "patch"), lambda lab, node: annotate(lab, node.name, {NODE_IPS: None})),
        heal=allow,
        codes=(Code.PublishFailed,),
    ),
    "it may not create Events": Row(
        harm=then(forbid("events", "create"), run(f"echo > {OTHER_CNI}")),
        heal=then(allow, run(f"rm {OTHER_CNI}")),
        codes=(Code.EventsFailed,),
        seconds=40,
    ),
}


@pytest.fixture(scope="module")
def pair(api_kind: ApiKind, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """Two nodes; the first may be told another time, and find other programs."""
    with Lab(api=api_kind, wireguard=WireGuardKind(request.config.getoption("--wireguard"))) as made:
        a = made.add_node("a", agent=False)
        a.path(PROGRAMS).mkdir()
        a.path(f"{PROGRAMS}/sitecustomize.py").write_text(CLOCK)
        a.environment |= {"PATH": f"{PROGRAMS}:{os.environ['PATH']}", "ENABLE_METRICS": "true"}
        if made.wireguard is WireGuardKind.USERSPACE:
            a.start_wireguard()
        a.execute_agent(pythonpath=MODULES)
        made.add_node("b")
        made.expect_mesh()
        yield made


def fresh(pair: Lab) -> LabNode:
    """The first node with an agent that remembers no repair: a wait for its work undoes something."""
    a = pair.nodes["a"]
    a.kill()
    a.execute_agent(pythonpath=MODULES)
    a.wait_working()
    return a


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_pods_notice_nothing_and_the_agent_says_what_it_lacks_and_recovers(pair: Lab, row: Row) -> None:
    a = fresh(pair)
    pid = a.agent_pid()
    with pair.no_loss():
        row.harm(pair, a)
        try:
            for code in row.codes:
                eventually(lambda code=code: logged(a, code)[0], what=f"it says {code}", seconds=row.seconds)  # type: ignore[misc]  # bool
            a.wait_working()
        finally:
            row.heal(pair, a)
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
    """What an agent that is given nothing to do leaves as it is: its Node, routes, peers and their endpoints."""
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
        eventually(lambda: told(pair, a) and settled(pair, a), what="the Node has what the agent says", seconds=90)
        began = [entry["since"] for entry in told(pair, a)]
        with quiet(pair, a):
            for offset in (seconds, 0):
                a.path(f"{PROGRAMS}/offset").write_text(str(offset))
                turns, requests = count(a, TURNS), count(a, REQUESTS)
                eventually(lambda turns=turns: count(a, TURNS) >= turns + 2, what="turns end", seconds=40)  # type: ignore[misc]  # bool
                eventually(lambda requests=requests: count(a, REQUESTS) > requests, what="a census is taken", seconds=40)  # type: ignore[misc]  # bool
                assert page(a, HEALTH, "/healthz")[0] == HTTPStatus.OK
        assert [entry["since"] for entry in told(pair, a)] == began
    finally:
        a.path(f"{PROGRAMS}/offset").unlink(missing_ok=True)
        a.place.run("sh", "-ec", f"rm {OTHER_CNI}; ip route del {ORPHAN} || :")
    eventually(lambda: not told(pair, a), what="the problem is over")


@contextmanager
def quiet(lab: Lab, node: LabNode) -> Iterator[None]:
    """Nothing is lost, started anew, said or written meanwhile."""
    pid, before, since = node.agent_pid(), written(lab, node), spoken(node)
    with lab.no_loss():
        yield
    assert written(lab, node) == before
    assert node.path(LOG).read_bytes()[since:] == b""
    assert node.agent_pid() == pid


def settled(lab: Lab, node: LabNode) -> bool:
    """Whether the node's status is what its agent says by now; it may be written a minute later."""
    status = json.loads(lab.annotations(node.name).get(STATUS, "{}"))
    says = json.loads(page(node, HEALTH, "/status")[1] or "{}")
    return bool(status) and {**says, **status} == says


def told(lab: Lab, node: LabNode) -> list[dict[str, str]]:
    """The problems of the node's status."""
    problems: list[dict[str, str]] = json.loads(lab.annotations(node.name).get(STATUS, "{}")).get("problems", [])
    return problems
