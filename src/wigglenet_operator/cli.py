"""The command line, the composition root: what the words mean and who answers them. A command imports what it needs."""

import argparse
import contextlib
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from wigglenet_operator import __version__
from wigglenet_operator.errors import ConfigError, WigglenetError
from wigglenet_operator.model.timing import PRODUCTION, Timing

PLUGIN = "kubectl-wigglenet"
"""By this name `kubectl wigglenet` finds the same program."""
DONE, NOT_SO, WRONG, UNKNOWN = 0, 1, 2, 3
STATUSES = """exit status:
  0  done; well (status); nothing would be changed (diff)
  1  failed; not well (status); something would be changed (diff)
  2  wrong arguments or settings
  3  it cannot be told (status, diff): the message says why"""
STATUS = """tell whether this node is well (where NODE_NAME is set: in the agent's pod) or every node of a cluster (by a
kubeconfig, from anywhere), what is wrong, and what to do about it"""
DIFF = "tell what the agent's next turn would change on this node; writes nothing, and may run beside the agent"
STDOUT = 1
"""Its file descriptor, also where Python found it closed."""
ASKING = frozenset({"status", "diff"})
"""Commands whose answer is their exit status."""


def main(timing: Timing = PRODUCTION) -> None:
    """Run one command and exit with its status (see STATUSES); tests shorten the agent's `timing`."""
    parser = _parser("kubectl wigglenet" if Path(sys.argv[0]).name == PLUGIN else "wigglenet-operator")
    parser.set_defaults(timing=timing)
    arguments = parser.parse_args()
    try:
        status = arguments.call(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read it has seen enough
        status = _cut_off(arguments)
    except ConfigError as error:
        status = _failed(parser.prog, error, status=WRONG)
    except WigglenetError as error:
        status = _failed(parser.prog, error, status=UNKNOWN if arguments.command in ASKING else NOT_SO)
    except Exception:  # a bug, or a full disk: no answer, least of all "not well"
        if arguments.command not in ASKING:
            raise
        traceback.print_exc()
        status = _cut_off(arguments)
    sys.exit(status)


def _cut_off(arguments: argparse.Namespace) -> int:
    """The exit status of a command that has not said all; what is still to be written goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)
    return UNKNOWN if arguments.command in ASKING else NOT_SO


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program,
        description="An encrypted dual-stack pod network.",
        epilog=f"example: {program} status --help\n\n{STATUSES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, call: Callable[[argparse.Namespace], int], *, does: str, example: str) -> argparse.ArgumentParser:
        return _command(commands, name, call, does=does, example=f"{program} {example}")

    command("run", _run, does="serve this node; settings come from the environment (docs/configuration.md)", example="run")
    install = command(
        "install-plugins",
        _install_plugins,
        does="copy CNI plugins to where they are missing or older",
        example="install-plugins /opt/plugins /host/opt/cni/bin",
    )
    install.add_argument("source", type=Path, help="a directory of plugins")
    install.add_argument("target", type=Path, help="the node's, as a rule /opt/cni/bin")
    cleanup = command(
        "cleanup",
        _cleanup,
        does="remove from this node what its agent made, and give back the settings that it changed; by the agent's settings",
        example="cleanup --dry-run",
    )
    cleanup.add_argument("--purge", action="store_true", help="the private key and the pods' leases of addresses, too")
    cleanup.add_argument("--dry-run", action="store_true", help="say what would be removed, also beside the agent")
    plan = command(
        "plan",
        _plan,
        does="print what one node's agent would make of a cluster, by the environment's settings; without cluster or root",
        example="plan nodes.yaml --node b",
    )
    plan.add_argument("file", type=Path, help="what `kubectl get nodes -o yaml` prints")
    plan.add_argument("--node", required=True, help="the node to plan for")
    status = command("status", _status, does=STATUS, example="status -o json")
    status.add_argument("--cluster", action="store_true", help="every node, by a kubeconfig, also where NODE_NAME is set")
    status.add_argument("--kubeconfig", metavar="PATH", help="instead of $KUBECONFIG or ~/.kube/config; implies --cluster")
    status.add_argument("--context", metavar="NAME", help="of the kubeconfig; implies --cluster")
    status.add_argument("--watch", action="store_true", help="look again every 2 s until Ctrl-C")
    diff = command("diff", _diff, does=DIFF, example="diff")
    for asking in (status, diff):
        asking.add_argument("-o", "--output", choices=["json"], help="for scripts: docs/status.md describes it")
    return parser


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    call: Callable[[argparse.Namespace], int],
    *,
    does: str,
    example: str,
) -> argparse.ArgumentParser:
    """One sub-command; `call` returns the exit status."""
    parser = commands.add_parser(
        name,
        help=does,
        description=f"{does[0].upper()}{does[1:]}.",
        epilog=f"example: {example}\n\n{STATUSES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(call=call)
    return parser


def _failed(program: str, error: WigglenetError, *, status: int) -> int:
    from wigglenet_operator.show.page import printable

    print(f"{program}: {printable(str(error))}", file=sys.stderr)
    return status


def _run(arguments: argparse.Namespace) -> int:
    from wigglenet_operator.settings import read_settings  # a wrong setting is told before a second of imports

    settings = read_settings(os.environ)
    from wigglenet_operator import logs

    logs.setup()
    slow = logs.report_slow_start(arguments.timing.start)
    import asyncio
    import logging
    import resource

    from wigglenet_operator.agent.run import run
    from wigglenet_operator.kube.access import ApiAccess

    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # as Go's programs do: strangers at a port must not use up 1,024
    for warning in settings.warnings():
        logging.getLogger(__name__).warning(warning)
    access = ApiAccess(host=settings.KUBERNETES_SERVICE_HOST, port=settings.KUBERNETES_SERVICE_PORT, timing=arguments.timing)
    try:
        asyncio.run(run(replace(settings.config(), timing=arguments.timing), access, started=slow.cancel))
    finally:
        slow.cancel()
    return DONE


def _install_plugins(arguments: argparse.Namespace) -> int:
    from wigglenet_operator import logs
    from wigglenet_operator.kernel.cni_plugins import install_plugins

    logs.setup()
    install_plugins(arguments.source, arguments.target)
    return DONE


def _cleanup(arguments: argparse.Namespace) -> int:
    from wigglenet_operator.settings import read_settings

    settings = read_settings({"KUBERNETES_SERVICE_HOST": "unknown", **os.environ})  # on a node that has lost its API server
    import asyncio

    from wigglenet_operator.agent.cleanup import clean
    from wigglenet_operator.kube.access import ApiAccess

    access = ApiAccess(host=settings.KUBERNETES_SERVICE_HOST, port=settings.KUBERNETES_SERVICE_PORT)

    def say(line: str) -> None:
        with contextlib.suppress(OSError):  # what is removed does not depend on who listens
            print(line, flush=True)

    whole = asyncio.run(clean(settings.config(), access, purge=arguments.purge, dry_run=arguments.dry_run, say=say))
    return DONE if whole else NOT_SO


def _plan(arguments: argparse.Namespace) -> int:
    from wigglenet_operator.show.page import printable
    from wigglenet_operator.show.plan import show_plan

    print(printable(show_plan(arguments.file, arguments.node, os.environ)), end="")
    return DONE


def _status(arguments: argparse.Namespace) -> int:
    from wigglenet_operator.show.status import cluster_looks, node_looks, show_status, watch_status

    if arguments.cluster or arguments.kubeconfig or arguments.context or "NODE_NAME" not in os.environ:
        looks = cluster_looks(arguments.kubeconfig, arguments.context)
    else:
        looks = node_looks(os.environ)
    ask = watch_status if arguments.watch else show_status
    well = ask(looks, sys.stdout, as_json=arguments.output == "json")
    return UNKNOWN if well is None else DONE if well else NOT_SO


def _diff(arguments: argparse.Namespace) -> int:
    from wigglenet_operator.settings import read_settings

    settings = read_settings(os.environ)
    import asyncio
    import json

    from wigglenet_operator.agent.foresee import foresee
    from wigglenet_operator.kube.access import ApiAccess
    from wigglenet_operator.show.diff import Words, diff_json, diff_page, told, unchanged
    from wigglenet_operator.show.page import show

    access = ApiAccess(host=settings.KUBERNETES_SERVICE_HOST, port=settings.KUBERNETES_SERVICE_PORT)
    found = asyncio.run(foresee(settings.config(), access))
    link = settings.WIGGLENET_IFACE_NAME
    words = Words(link=link, bare=found.bare, names=found.names, new_key=found.new_key)
    lines = told(found.changes, words)
    if arguments.output == "json":
        print(json.dumps(diff_json(lines, found.report, found.doubts), indent=2))
    else:
        show(diff_page(lines, found.report, found.doubts), sys.stdout)
    same = unchanged(lines, found.report)
    return UNKNOWN if same is None else DONE if same else NOT_SO
