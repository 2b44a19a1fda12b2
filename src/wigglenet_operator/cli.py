"""The command line: `run` is the agent, `install-plugins` goes before it, `plan` shows what it would do."""

import argparse
import asyncio
import logging
import os
import sys
from pathlib import Path

from wigglenet_operator import __version__
from wigglenet_operator.errors import ConfigError, WigglenetError


def main() -> None:
    """Exit status: 0, 1 if a command failed, 2 if the settings or arguments are wrong."""
    arguments = _parser().parse_args()
    try:
        if arguments.command == "run":
            _run()
        elif arguments.command == "install-plugins":
            _install_plugins(arguments.source, arguments.target)
        else:
            _plan(arguments.file, arguments.node)
    except ConfigError as error:
        sys.exit(_failed(error, status=2))
    except WigglenetError as error:
        sys.exit(_failed(error, status=1))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="wigglenet-operator", description="An encrypted dual-stack pod network.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run", help="serve this node; settings come from the environment (README, Settings)")
    install = commands.add_parser("install-plugins", help="copy CNI plugins to where they are missing or older")
    install.add_argument("source", type=Path, help="a directory of plugins")
    install.add_argument("target", type=Path, help="the node's, as a rule /opt/cni/bin")
    plan = commands.add_parser(
        "plan",
        help="print what one node's agent would make of a cluster, by the environment's settings; without cluster or root",
    )
    plan.add_argument("file", type=Path, help="what `kubectl get nodes -o yaml` prints")
    plan.add_argument("--node", required=True, help="the node to plan for")
    return parser


def _failed(error: WigglenetError, *, status: int) -> int:
    print(f"wigglenet-operator: {error}", file=sys.stderr)
    return status


def _run() -> None:
    from wigglenet_operator.settings import read_settings  # noqa: PLC0415 - a wrong setting is told before a second of imports

    settings = read_settings(os.environ)
    from wigglenet_operator import logs  # noqa: PLC0415 - as above
    from wigglenet_operator.agent.run import run  # noqa: PLC0415 - as above
    from wigglenet_operator.kube.access import ApiAccess  # noqa: PLC0415 - as above

    logs.setup()
    for warning in settings.warnings():
        logging.getLogger(__name__).warning(warning)
    access = ApiAccess(host=settings.KUBERNETES_SERVICE_HOST, port=settings.KUBERNETES_SERVICE_PORT)
    asyncio.run(run(settings.config(), access))


def _install_plugins(source: Path, target: Path) -> None:
    from wigglenet_operator import logs  # noqa: PLC0415 - as above
    from wigglenet_operator.kernel.cni_plugins import install_plugins  # noqa: PLC0415 - as above

    logs.setup()
    install_plugins(source, target)


def _plan(file: Path, node: str) -> None:
    from wigglenet_operator.show import show_plan  # noqa: PLC0415 - `run` needs none of it

    print(show_plan(file, node, os.environ), end="")
