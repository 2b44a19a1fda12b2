"""What `status` shows of a node and of a cluster: by golden text, for scripts, and to somebody who writes nasty annotations."""

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.builders import config, ips, key, nets
from tests.unit.commands import Ended, ended, started
from wigglenet_operator import cli
from wigglenet_operator.kernel.link import OwnLink
from wigglenet_operator.model.desired import Device, Endpoint, Peer
from wigglenet_operator.model.ruleset import Item
from wigglenet_operator.show import node as show_node
from wigglenet_operator.show import status as show_status
from wigglenet_operator.show.cluster import NodeView, cluster_json, cluster_page, view
from wigglenet_operator.show.cluster import well as all_well
from wigglenet_operator.show.look import Look
from wigglenet_operator.show.node import faults
from wigglenet_operator.show.page import Cell, Grid, Line, Page, age, plain, size
from wigglenet_operator.show.terminal import Terminal
from wigglenet_operator.show.told import read_status

GOLDEN = Path(__file__).parents[1] / "golden"
NOW = 1_800_000_000.0
PROBLEM = {
    "code": "NoEndpoint",
    "object": "node d",
    "since": "2027-01-15T07:00:00Z",
    "text": "it has a key but no usable IPv4 or IPv6 address; its status, wigglenet/node-ips or /endpoint must name one",
}
WITHHELD = {
    "code": "PodsWithheld",
    "object": "node b",
    "since": "2027-01-15T06:30:00Z",
    "text": "the CNI file is withheld while 10.2.0.0/24 of its pod networks cannot be used",
}
READY = {"phase": "Ready", "version": "0.1.0", "wireguard": "kernel", "mtu": 1420, "peers": 3, "handshaken": 3, "problems": []}
CNI = {"plugins": [{"ipam": {"ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00:10:1::/64"}]]}}]}
PEERS = {
    key("b"): Peer(
        endpoint=Endpoint(address=ips("192.0.2.2")[0], port=24601),
        allowed_ips=nets("10.2.0.0/24 fd00:10:2::/64 192.0.2.2/32"),
        handshake=int(NOW) - 75,
        received=123_456_789,
        sent=2048,
    ),
    key("c"): Peer(
        endpoint=Endpoint(address=ips("2001:db8:ffff:ffff:ffff:ffff:ffff:c")[0], port=24601),
        allowed_ips=nets("10.3.0.0/24 2001:db8:ffff:ffff:ffff:ffff:ffff:c/128"),
    ),
}
ROUTED = nets("10.2.0.0/24 fd00:10:2::/64 10.3.0.0/24")
WELL = Look(
    config=config(),
    at=NOW,
    at_work=True,
    started="2027-01-15T04:55:00Z",
    ready=True,
    status=read_status(READY),
    versions=frozenset({4, 6}),
    link=OwnLink(index=7, mtu=1420, up=True, kind="wireguard"),
    device=Device(public_key=key("a"), port=24601),
    peers=PEERS,
    names={key("b"): "b", key("c"): "c.example"},
    tunnel=ROUTED,
    closed=ROUTED | nets("10.1.0.0/24 fd00:10:1::/64"),
    firewall={Item("chain", "wt_forward"): (), Item("set", "wt_pods4"): (), Item("set", "wt_pods4", "10.1.0.0"): ""},
    cni=json.dumps(CNI),
)
HARMED = replace(
    WELL,
    at_work=False,
    started="",
    ready=None,
    status=read_status(READY | {"phase": "Degraded", "problems": [PROBLEM, WITHHELD], "more": 2}),
    link=OwnLink(index=7, mtu=1420, up=False, kind="tun"),
    device=Device(public_key=None, port=1),
    names={},
    tunnel=nets("10.2.0.0/24"),
    closed=frozenset(),
    firewall={},
    cni=None,
    untold=("list Nodes: Connection refused",),
)
FIREWALL_ONLY = replace(
    WELL,
    config=config(firewall_only=True),
    link=None,
    device=None,
    peers={},
    tunnel=frozenset(),
    closed=frozenset(),
    cni=None,
)
NODES = [
    view({"metadata": {"name": name, "annotations": {f"wigglenet/{k}": json.dumps(v) for k, v in notes.items()}}})
    for name, notes in (
        ("a", {"status": READY, "pod-cidrs": ["fd00:10:1::/64", "10.1.0.0/24"]}),
        ("b.example", {"status": READY | {"phase": "Degraded", "handshaken": 2, "problems": [WITHHELD, PROBLEM]}}),
        ("c", {}),
        ("d", {"status": {"phase": "Waiting", "version": "0.2.0", "problems": [PROBLEM], "more": 1}, "pod-cidrs": []}),
    )
]


def node_page(look: Look) -> Page:
    return show_node.node_page(look, faults(look))


def well(look: Look) -> bool | None:
    return show_node.well(look, faults(look))


PAGES = {"node": node_page(WELL), "harmed": node_page(HARMED), "firewall-only": node_page(FIREWALL_ONLY)}


@pytest.fixture(autouse=True)
def _at_that_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wigglenet_operator.show.cluster.time.time", lambda: NOW)


def on_terminal(page: Page, width: int) -> str:
    out = io.StringIO()
    Terminal(out, width=width).show(page)
    return out.getvalue()


@pytest.mark.parametrize("name", [*PAGES, "cluster"])
def test_a_page_is_the_golden_one_in_a_pipe_and_on_terminals(name: str, request: pytest.FixtureRequest) -> None:
    page = PAGES.get(name) or cluster_page(NODES)
    shown = "".join(f"--- {width} columns\n{on_terminal(page, width)}" for width in (60, 80, 120))
    printed = f"--- pipe\n{plain(page)}{shown}".replace("\x1b", "^[")
    golden = GOLDEN / f"status-{name}.txt"
    if request.config.getoption("--update-golden"):
        golden.write_text(printed)

    assert printed == golden.read_text()


@pytest.mark.parametrize("page", [*PAGES.values(), cluster_page(NODES)])
def test_a_narrow_terminal_loses_no_word(page: Page) -> None:
    narrow = re.sub(r"\x1b\[[\d;]*m|\s", "", on_terminal(page, 50))

    for word in plain(page).split():
        assert word in narrow


@pytest.mark.parametrize("nasty", ["\x1b[2J", "\x07", "\r", "\n", "\x9b31m", "\u202e", "[red]", "[/]", "\\[bold]"])
def test_what_a_cluster_says_steers_no_terminal(nasty: str) -> None:
    text = f"before{nasty}after"
    problem = dict.fromkeys(PROBLEM, text)
    status = read_status(READY | {"phase": text, "version": text, "wireguard": text, "problems": [problem, text]})
    looked = replace(HARMED, status=status, names={key("b"): text}, reasons=(text,), untold=(text,))
    pages = [node_page(looked), cluster_page([NodeView(name=text, status=status, networks=(text,))])]

    for page in pages:
        allowed = {c for c in nasty if c.isprintable()} | {"\n"}
        assert all(c.isprintable() or c in allowed for c in plain(page))
        shown = re.sub(r"\x1b\[[\d;]*m", "", on_terminal(page, 500))  # rich's own, which this takes away
        assert all(c.isprintable() or c == "\n" for c in shown)
        assert (text if nasty.isprintable() else "before?") in shown


def test_a_healthy_node_is_well_and_lacks_nothing() -> None:
    assert not faults(WELL)
    assert well(WELL) is True
    assert well(FIREWALL_ONLY) is True
    assert well(replace(WELL, untold=("nft: not permitted",))) is None


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        ({"at_work": False, "ready": None}, "no agent is at work"),
        ({"ready": None}, "does not answer"),
        ({"ready": False, "reasons": ("TunnelFailed: no",)}, "not ready: TunnelFailed: no"),
        ({"ready": False}, "the agent is not ready"),
        ({"link": None, "device": None, "peers": {}}, "there is no link wigglenet"),
        (
            {"link": OwnLink(index=7, mtu=1420, up=True, kind="dummy"), "device": None, "peers": {}},
            "link wigglenet is no WireGuard (dummy)",
        ),
        ({"link": OwnLink(index=7, mtu=1420, up=False, kind="tun")}, "link wigglenet is down"),
        ({"device": Device(public_key=None, port=24601)}, "link wigglenet has no key"),
        ({"device": Device(public_key=key("a"), port=1)}, "listens on UDP port 1, not on 24601"),
        ({"tunnel": nets("10.2.0.0/24 fd00:10:2::/64")}, "no route to 10.3.0.0/24, which a peer has"),
        ({"closed": nets("10.3.0.0/24 fd00:10:2::/64")}, "no closed route to 10.2.0.0/24, which a peer has"),
        ({"firewall": {}}, "there is no table inet wigglenet"),
        ({"cni": None}, "there is no /etc/cni/net.d/10-wigglenet.conflist"),
    ],
)
def test_what_a_node_lacks_is_said_and_makes_it_unwell(harm: dict[str, Any], told: str) -> None:
    look = replace(WELL, **harm)

    (fault,) = faults(look)
    assert told in fault
    assert fault in plain(node_page(look))
    assert well(look) is False


def test_what_could_not_be_read_is_not_said_to_be_missing() -> None:
    nothing: dict[str, Any] = {"link": None, "tunnel": frozenset(), "closed": frozenset(), "firewall": {}, "cni": None}
    look = replace(WELL, **nothing, unread=frozenset(nothing), untold=("nft: not permitted",))

    assert not faults(look)
    assert well(look) is None


def test_a_node_whose_agent_says_that_it_is_degraded_is_not_well() -> None:
    assert well(replace(WELL, status=read_status(READY | {"phase": "Degraded"}))) is False


def test_a_family_without_a_tunnel_needs_no_route() -> None:
    native = replace(WELL, config=config(native=frozenset({6})), tunnel=nets("10.2.0.0/24 10.3.0.0/24"))

    assert not faults(native)


def test_a_cluster_is_well_if_every_node_says_so() -> None:
    assert all_well([NODES[0]])
    assert not all_well(NODES[:2])
    assert not all_well([NODES[0], NODES[2]]), "a node without an agent has no network"
    assert not all_well([])


def test_a_problem_that_many_nodes_have_is_told_once() -> None:
    many = [replace(NODES[3], name=f"n{number}") for number in range(100)]

    assert plain(cluster_page(many)).count(PROBLEM["text"]) == 1
    assert "on nodes n0, n1, n10, n11, n12 and 95 more" in plain(cluster_page(many))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", '"x"', "null", "[" * 100_000, '{"problems": 7}', '{"problems": [7, null]}', '{"mtu": "x"}']
)
def test_a_status_of_any_text_is_shown(text: str) -> None:
    node = view({"metadata": {"name": "a", "annotations": {"wigglenet/status": text, "wigglenet/pod-cidrs": text}}})

    assert plain(cluster_page([node]))
    assert json.dumps(cluster_json([node]))
    assert not all_well([node])


def test_one_node_that_says_too_much_makes_no_table_wide() -> None:
    said = {**dict.fromkeys(("phase", "version", "wireguard"), "x" * 200_000), **dict.fromkeys(("mtu", "peers"), 10**4000)}
    node = view({"metadata": {"name": "a", "annotations": {"wigglenet/status": json.dumps(said)}}})

    assert max(map(len, plain(cluster_page([node, NODES[0]])).splitlines()[:3])) < 250


def test_json_has_what_scripts_were_promised() -> None:
    """The shape that docs/status.md describes; names may come, none may go."""
    node, cluster = json.loads(json.dumps(show_node.node_json(WELL, faults(WELL)))), json.loads(json.dumps(cluster_json(NODES)))
    described = (Path(__file__).parents[2] / "docs/status.md").read_text()

    assert node["peers"][0] == {
        "node": "b",
        "publicKey": key("b"),
        "endpoint": "192.0.2.2:24601",
        "handshake": "2027-01-15T07:58:45Z",
        "received": 123_456_789,
        "sent": 2048,
        "allowedIPs": ["10.2.0.0/24", "192.0.2.2/32", "fd00:10:2::/64"],
    }
    assert cluster["nodes"][1]["problems"][0] | {"remedy": ""} == WITHHELD | {"severity": "error", "remedy": ""}
    for name in {*_names(node), *_names(cluster)} - {"pods4"}:
        assert f"`{name}`" in described, name


def _names(value: object) -> set[str]:
    if isinstance(value, dict):
        return set(value).union(*map(_names, value.values()))
    return set().union(*map(_names, value)) if isinstance(value, list) else set()


def test_columns_are_as_wide_as_what_is_in_them_and_nothing_is_cut() -> None:
    page: Page = [
        Grid(heads=("A", "B"), rows=[[Cell("x" * 300), Cell("1")], [Cell("y"), Cell("2")]]),
        Line(cells=[Cell("z" * 300)]),
    ]

    assert plain(page).splitlines() == [f"{'A':<300}  B", f"{'x' * 300}  1", f"{'y':<300}  2", "z" * 300]


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(-5, "0 s"), (0.9, "0 s"), (59, "59 s"), (60, "1 min"), (61, "1 min 1 s"), (3605, "1 h"), (90_000, "1 d 1 h")],
)
def test_an_age_has_its_two_largest_units(seconds: float, told: str) -> None:
    assert age(seconds) == told


@pytest.mark.parametrize(("count", "told"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1 << 60, "1024.0 PiB")])
def test_a_size_is_for_people(count: int, told: str) -> None:
    assert size(count) == told


COMMANDS = ("run", "install-plugins", "plan", "status", "diff", "cleanup")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_has_an_example_and_the_exit_statuses(command: str) -> None:
    status, said, _ = ended(command, "--help")

    assert status == 0
    assert f"example: wigglenet-operator {command}" in said
    assert cli.STATUSES in said


def test_as_a_plugin_of_kubectl_it_says_so() -> None:
    _, said, _ = ended("status", "--help", program="/usr/local/bin/kubectl-wigglenet")

    assert said.startswith("usage: kubectl wigglenet status")
    assert "example: kubectl wigglenet status" in said


@pytest.mark.parametrize(
    "arguments", [(), ("nope",), *((command, "--nope") for command in COMMANDS), ("status", "-o", "yaml"), ("diff", "x")]
)
def test_wrong_arguments_end_with_2(arguments: tuple[str, ...]) -> None:
    status, _, said = ended(*arguments)

    assert status == 2
    assert "usage: " in said


@pytest.mark.parametrize(
    ("command", "arguments", "environment", "told"),
    [
        (started, ("status",), {}, "kubeconfig: "),  # the client library reads the environment when it is imported
        (ended, ("status", "--kubeconfig", "/nowhere"), {"NODE_NAME": "a"}, "kubeconfig /nowhere: "),
        (ended, ("status",), {"NODE_NAME": "a", "WIGGLENET_MTU": "7"}, "WIGGLENET_MTU"),
        (ended, ("diff",), {}, "NODE_NAME"),
    ],
)
def test_wrong_settings_end_with_2_and_say_which(
    command: Callable[..., Ended], arguments: tuple[str, ...], environment: dict[str, str], told: str
) -> None:
    status, _, said = command(*arguments, **environment)

    assert status == 2, said
    assert told in said
    assert "Traceback" not in said


UNFIT: dict[str, object] = {
    "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:9"}}],
    "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    "users": [{"name": "u", "user": {"client-certificate-data": "aGVsbG8=", "client-key-data": "aGVsbG8="}}],
    "current-context": "c",
}
"""A certificate that is none."""


def test_a_cluster_that_is_not_reached_ends_with_3(tmp_path: Path) -> None:
    file = tmp_path / "config"
    clusters = [{"name": "c", "cluster": {"server": "http://127.0.0.1:9"}}]
    contexts = [{"name": "c", "context": {"cluster": "c", "user": "u"}}]
    users = [{"name": "u", "user": {}}]
    file.write_text(json.dumps({"clusters": clusters, "contexts": contexts, "users": users, "current-context": "c"}))

    for status, _, said in (ended("status", "--kubeconfig", str(file)), started("status", KUBECONFIG=str(file))):
        assert status == 3, said
        assert "list Nodes: " in said


class TerminalStream(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_json_on_a_terminal_is_only_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(show_status, "WATCH_SECONDS", 0)
    out, looks = TerminalStream(), iter(range(3))

    async def look() -> show_status.View:
        if next(looks) == 2:
            raise KeyboardInterrupt
        return show_status.View(page=list, json=lambda: {"well": True}, well=True)

    assert show_status.watch_status(look, out, as_json=True) is True
    assert out.getvalue() == '{"well": true}\n' * 2


def test_an_agent_may_have_as_many_files_as_the_system_lets_it() -> None:
    code = """
import resource, sys, types
from wigglenet_operator import cli
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
async def told(*_, **__):
    print(resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard))
sys.modules["wigglenet_operator.agent.run"] = types.SimpleNamespace(run=told)  # without what an agent imports
sys.modules["wigglenet_operator.kube.access"] = types.SimpleNamespace(ApiAccess=dict)
sys.argv = ["wigglenet-operator", "run"]
cli.main()
"""
    environment = {"PYTHONPATH": ":".join(filter(None, sys.path)), "NODE_NAME": "a", "KUBERNETES_SERVICE_HOST": "192.0.2.1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)

    assert done.stdout == "True\n"


@pytest.mark.parametrize("text", ["", "[1]", "clusters: 7", "{", "\x00", json.dumps(UNFIT)])
def test_a_kubeconfig_of_any_text_is_wrong_and_no_crash(text: str, tmp_path: Path) -> None:
    file = tmp_path / "config"
    file.write_text(text)

    status, _, said = ended("status", "--kubeconfig", str(file))

    assert status == 2, said
    assert said.startswith(f"wigglenet-operator: kubeconfig {file}: ")


def test_an_answer_that_cannot_be_written_is_no_answer() -> None:
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m wigglenet_operator status > /dev/full"],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": ":".join(filter(None, sys.path)), "NODE_NAME": "a", "WIGGLENET_IFACE_NAME": "wgnosuch"},
    )

    assert done.returncode == 3, done.stderr
    assert "No space left on device" in done.stderr


def test_help_and_status_import_no_client_library() -> None:
    """Each of these costs from 0.1 to 0.5 s."""
    heavy = {"kubernetes_asyncio", "aiohttp", "kopf", "pyroute2", "yaml", "prometheus_client"}
    modules = ("cli", "show.look", "show.node", "show.status")
    code = f"import sys, importlib\nfor m in {modules}: importlib.import_module('wigglenet_operator.' + m); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    for module, imported in zip(modules, done.stdout.splitlines(), strict=True):
        assert f"wigglenet_operator.{module}" in imported.split()
        assert not heavy & {*imported.split()}, f"{module}, or one before"


def test_what_went_wrong_steers_no_terminal(tmp_path: Path) -> None:
    file = tmp_path / "config"
    file.write_text("\x1b]0;title\x07")
    nodes = str(GOLDEN.parents[1] / "examples/three-nodes.yaml")

    for arguments in (("status", "--kubeconfig", str(file)), ("plan", nodes, "--node", "a\x1b[2J")):
        _, out, said = ended(*arguments)

        assert said
        assert all(c.isprintable() or c == "\n" for c in out + said)
