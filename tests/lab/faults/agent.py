"""Acts on the agent: its process, its settings, and the programs and modules that it uses."""

import os
import socket
import subprocess

from tests.lab.faults.fault import Act, Fault
from tests.lab.lab import Lab
from tests.lab.node import LabNode
from tests.lab.pages import HEALTH
from tests.lab.timing import LAB, source
from wigglenet_operator.model.facts import WireGuardKind

PROGRAMS = "/run/programs"
"""A directory of the node with programs and Python modules that an agent uses instead of the machine's."""
PATH = f"{PROGRAMS}:{os.environ['PATH']}"
PYTHONPATH = ":".join(filter(None, (PROGRAMS, os.environ.get("PYTHONPATH"))))
BUG = f"""{source(LAB)}
from pathlib import Path
from wigglenet_operator.kernel.cni_file import CniFileTable

observe = CniFileTable.observe

async def observe_or_fail(table):
    if Path("{PROGRAMS}/bug").exists():
        raise RuntimeError("a bug")
    return await observe(table)

CniFileTable.observe = observe_or_fail
"""
"""A sitecustomize.py: the agent has a bug as long as the file `bug` exists."""


def start_agent(_lab: Lab, node: LabNode) -> None:
    node.start_agent()


def stop_agent(_lab: Lab, node: LabNode) -> None:
    """Stop the agent by SIGTERM; it must exit with 0."""
    assert node.stop_agent() == 0


def kill_agent(_lab: Lab, node: LabNode) -> None:
    node.kill()


def restart_agent(_lab: Lab, node: LabNode) -> None:
    node.stop_agent()
    node.start_agent()


def start_second_agent(_lab: Lab, node: LabNode) -> None:
    """Start a second agent; it must refuse to run."""
    status, said = node.second_agent()
    assert status, "a second agent ended well"
    assert "another agent" in said


def restart_with(name: str, value: str) -> Act:
    """Restart the agent with another value of an environment variable."""

    def act(lab: Lab, node: LabNode) -> None:
        node.environment[name] = value
        restart_agent(lab, node)

    return act


def require_wireguard(*, other: bool) -> Act:
    """Restart the agent with the WireGuard implementation that the node has, or with the other one, as the required one."""

    def act(lab: Lab, node: LabNode) -> None:
        (kind,) = {*WireGuardKind} - {lab.wireguard} if other else {lab.wireguard}
        restart_with("WIGGLENET_WG_IMPLEMENTATION", kind.value)(lab, node)

    return act


def replace_program(name: str, script: str) -> Act:
    """Put a script into PROGRAMS, under the name of a program."""

    def act(_lab: Lab, node: LabNode) -> None:
        program = node.path(f"{PROGRAMS}/{name}")
        program.parent.mkdir(exist_ok=True)
        program.write_text(script)
        program.chmod(0o755)

    return act


def restore_program(name: str) -> Act:
    """Remove the script that `replace_program` wrote."""
    return lambda _lab, node: node.path(f"{PROGRAMS}/{name}").unlink()


def restart_with_bug(_lab: Lab, node: LabNode) -> None:
    """Restart the agent with a bug in it."""
    directory = node.path(PROGRAMS)
    directory.mkdir(exist_ok=True)
    (directory / "sitecustomize.py").write_text(BUG)
    (directory / "bug").touch()
    node.stop_agent()
    node.execute_agent(pythonpath=PYTHONPATH)


def fix_bug(_lab: Lab, node: LabNode) -> None:
    node.path(f"{PROGRAMS}/bug").unlink()


def restart_with_legacy_iptables(lab: Lab, node: LabNode) -> None:
    """Restart the agent on a node with a chain of Wigglenet's former iptables rules, which iptables-restore cannot remove.

    Agents look for such chains when they start, and remove them when they stop.
    """
    replace_program("iptables-nft-restore", "#!/bin/sh\necho no memory >&2; exit 4\n")(lab, node)
    node.environment["PATH"] = PATH
    node.stop_agent()
    node.place.run("iptables-nft", "-N", "WIGGLENET-FIREWALL")
    node.start_agent()


def occupied_port() -> Fault:
    """Another process listens on the port of the health server when the agent starts."""
    sockets: list[socket.socket] = []

    def inject(_lab: Lab, node: LabNode) -> None:
        node.stop_agent()
        with node.place.network():
            sockets.append(socket.create_server(("127.0.0.1", HEALTH)))
        node.start_agent()

    def repair(_lab: Lab, _node: LabNode) -> None:
        while sockets:
            sockets.pop().close()

    return Fault("the port of the health server is occupied", inject, repair)


def limit_open_files(limit: str) -> Act:
    """Limit the number of files that the agent may have open; `soft:hard`, see prlimit(1)."""

    def act(_lab: Lab, node: LabNode) -> None:
        subprocess.run(["prlimit", "--pid", str(node.agent_pid()), f"--nofile={limit}"], check=True)

    return act
