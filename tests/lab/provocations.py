"""How each problem comes to be, and how it is mended: a table, by what can happen at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.builders import key
from tests.lab.denials import Misled, admit_api, allow, cut, forbid, refuse_api
from tests.lab.faults import annotate, run, then
from tests.lab.harms import (
    CERTIFICATE,
    EXTRA,
    NFT,
    TAKEN,
    Squatter,
    certify,
    complete,
    conditional,
    create_node,
    delete_node,
    empty,
    fight,
    fill,
    full,
    give_the_name,
    insist,
    leave_chains,
    limit_files,
    mend_iptables,
    mend_the_bug,
    outside,
    spoil_certificate,
    start_with_a_bug,
    take_the_name,
    unregister,
    widen,
)
from tests.lab.lab import Lab
from tests.lab.node import CONFLIST, LINK
from tests.lab.sources import NODE_IPS, POD_CIDRS, PUBLIC_KEY, filed, sources
from tests.lab.strike import KEY, Act, nothing
from tests.lab.told import EVENT, EVERYWHERE, HERE, LOG, METRIC, STATUS_OF_NODE, Place
from wigglenet_operator.model.problems import Code

ENDPOINT = "wigglenet/endpoint"


@dataclass(frozen=True, kw_only=True)
class Row:
    """A problem of one node."""

    code: Code
    provoke: Act
    heal: Act
    told: Sequence[Place] = EVERYWHERE
    """Where it can be told while it lasts, and that it is over."""
    seconds: float = 20.0
    """Until it is told."""
    calm: float = 20.0
    """Until it is over, from when it was mended."""
    restarts: bool = True
    """Whether an agent that starts meanwhile has it at once as well."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What happens to a node at once."""

    node: str
    rows: tuple[Row, ...]
    embedded: bool = False
    """Whether no real API server does that."""
    lasting: bool = False
    """Whether it takes a minute until it is over, in which other waves may come."""


def node_row(code: Code, notes: Mapping[str, str], *addresses: str) -> Row:
    """A problem that another Node makes."""
    name = f"x-{code.lower()}"
    return Row(code=code, provoke=create_node(name, notes, *addresses), heal=delete_node(name))


MISLED, SQUATTER = Misled(), Squatter()
LISTEN = Row(
    code=Code.ListenFailed,
    provoke=SQUATTER.provoke,
    heal=SQUATTER.heal,
    told=(LOG, METRIC, STATUS_OF_NODE, EVENT),
    restarts=False,
)
KEEP_FORGETTING = "until ip route add blackhole {own4} metric 4294967295 proto static; do ip route del unreachable {own4}; done"
"""The agent may put back what is removed before the other is there."""
HIDE_NFT = f"cp {NFT} /run/nft; mount --bind /dev/null {NFT}; /run/nft delete table inet wigglenet"
READ_ONLY_SETTINGS = "mount --bind /proc/sys/net /proc/sys/net; mount -o remount,bind,ro /proc/sys/net"
FOREIGN = "ip route replace {v4} dev eth0 proto static via 192.0.2.250"
DROPPING = "nft 'table ip other {{ chain forward {{ type filter hook forward priority 0; policy drop; }}; }}'"
OTHER_CNI = f"{Path(CONFLIST).parent}/05-other.conf"
NODES = (
    node_row(Code.FieldUnusable, {NODE_IPS: "no list"}),
    node_row(Code.ClaimRefused, {POD_CIDRS: '["10.1.11.0/24"]'}),
    node_row(Code.KeyRepeated, {PUBLIC_KEY: TAKEN}),
    node_row(Code.NoEndpoint, {PUBLIC_KEY: key("nowhere")}),
    node_row(Code.EndpointRefused, {PUBLIC_KEY: key("loop"), ENDPOINT: "10.1.11.9"}, "192.0.2.99"),
)
STEPS = (
    Row(
        code=Code.SettingsFailed,
        provoke=then(run(READ_ONLY_SETTINGS), outside("sysctl", "-qw", f"net.ipv4.conf.{LINK}.rp_filter=0")),
        heal=run("umount /proc/sys/net"),
    ),
    Row(code=Code.FirewallFailed, provoke=run(HIDE_NFT), heal=run(f"umount {NFT}")),
    Row(code=Code.RoutesFailed, provoke=run(KEEP_FORGETTING), heal=run("ip route del blackhole {own4} metric 4294967295")),
)
OTHERS = (
    Row(code=Code.CNIOutranked, provoke=run(f"echo > {OTHER_CNI}"), heal=run(f"rm {OTHER_CNI}")),
    Row(code=Code.RouteBypassed, provoke=run(FOREIGN), heal=run("ip route del {v4} proto static")),
    Row(code=Code.ForwardingDropped, provoke=run(DROPPING), heal=run("nft delete table ip other")),
)
UNFIT = (
    Row(code=Code.PodNetworkUnfit, provoke=fill("192.0.2.0/24", "fd00:99::/127"), heal=nothing),
    Row(code=Code.PodsWithheld, provoke=nothing, heal=fill("{v4}", "{v6}")),
)
PATCH = Row(
    code=Code.PublishFailed,
    provoke=then(forbid("nodes", "patch"), lambda lab, node: annotate(lab, node.name, {NODE_IPS: None})),
    heal=allow,
    told=(*HERE, EVENT),
    restarts=False,
)
WAVES: tuple[tuple[Stage, ...], ...] = (
    (
        Stage(node="a", rows=NODES),
        Stage(node="c", rows=STEPS),
        Stage(node="b", rows=OTHERS),
        Stage(node="file", rows=UNFIT),
        Stage(node="bare", rows=(Row(code=Code.NoPodNetwork, provoke=nothing, heal=complete),)),
        Stage(
            node="away",
            rows=(
                Row(
                    code=Code.APIUnreachable,
                    provoke=then(refuse_api, lambda lab, node: annotate(lab, node.name, {"example.org/news": "x"})),
                    heal=admit_api,
                    told=HERE,
                    seconds=60,
                    calm=30,
                    restarts=False,
                ),
            ),
        ),
    ),
    (
        Stage(
            node="a",
            rows=(
                Row(code=Code.MTUTooSmall, provoke=lambda lab, node: lab.set_mtu(node, 1300), heal=widen),
                Row(code=Code.LinkMissing, provoke=run(f"ip link del {EXTRA}"), heal=run(f"ip link add {EXTRA} type bridge")),
                Row(
                    code=Code.KeyFileReplaced,
                    provoke=run(f"wg genkey > /run/key; mv /run/key {KEY}"),
                    heal=run(f"rm {KEY}"),
                    restarts=False,
                ),
            ),
        ),
        Stage(node="bare", rows=(LISTEN,)),
        Stage(node="b", rows=(Row(code=Code.CNIFileFailed, provoke=run(empty(CONFLIST)), heal=run(full(CONFLIST))),)),
        Stage(
            node="c", lasting=True, rows=(Row(code=Code.RepairUndone, provoke=fight, heal=nothing, calm=100, restarts=False),)
        ),
        Stage(
            node="file",
            rows=(Row(code=Code.PodFileUnusable, provoke=fill("10.1.0.0/99"), heal=fill("{v4}", "{v6}")),),
        ),
        Stage(
            node="d",
            rows=(Row(code=Code.TurnCrashed, provoke=start_with_a_bug, heal=mend_the_bug, restarts=False),),
        ),
        Stage(
            node="away",
            embedded=True,
            lasting=True,
            rows=(
                Row(code=Code.APIThrottled, provoke=MISLED.provoke, heal=nothing, calm=100, restarts=False),
                Row(code=Code.NodeUnreadable, provoke=nothing, heal=MISLED.heal, restarts=False),
            ),
        ),
    ),
    (
        Stage(
            node="b",
            rows=(
                Row(code=Code.KeyFileFailed, provoke=run(empty(KEY)), heal=run(full(KEY)), restarts=False),
                Row(code=Code.TunnelFailed, provoke=take_the_name, heal=give_the_name),
            ),
        ),
        Stage(
            node="file",
            rows=(Row(code=Code.CertificateUnusable, provoke=spoil_certificate, heal=certify, restarts=False),),
        ),
        Stage(
            node="d",
            rows=(
                Row(code=Code.WireGuardOther, provoke=insist(other=True), heal=insist(other=False), restarts=False),
                Row(code=Code.ConditionFailed, provoke=conditional("on"), heal=conditional("off"), restarts=False),
                Row(code=Code.LeftoversFailed, provoke=leave_chains, heal=mend_iptables, restarts=False),
            ),
        ),
        Stage(
            node="bare",
            rows=(Row(code=Code.OwnNodeMissing, provoke=unregister, heal=Lab.register, told=HERE, restarts=False),),
        ),
        Stage(
            node="a",
            rows=(
                Row(
                    code=Code.LookFailed,
                    provoke=limit_files("10:1024"),
                    heal=limit_files("1024:1024"),
                    told=(LOG,),
                    restarts=False,
                ),
            ),
        ),
    ),
    (
        Stage(
            node="a",
            rows=(
                Row(
                    code=Code.APIRefused,
                    provoke=then(forbid("nodes", "list", "watch"), cut),
                    heal=nothing,
                    seconds=60,
                    calm=40,
                    restarts=False,
                ),
                Row(code=Code.CensusFailed, provoke=nothing, heal=allow, restarts=False),
            ),
        ),
    ),
    (Stage(node="a", rows=(PATCH,)),),
    (
        Stage(
            node="a",
            rows=(
                Row(
                    code=Code.EventsFailed,
                    provoke=then(forbid("events", "create"), run(f"echo > {OTHER_CNI}")),
                    heal=then(allow, run(f"rm {OTHER_CNI}")),
                    told=(*HERE, STATUS_OF_NODE),
                    calm=40,
                    restarts=False,
                ),
            ),
        ),
    ),
)
"""One wave after the other; the stages of one are on different nodes and do not disturb each other."""
ROWS = tuple(row for wave in WAVES for stage in wave for row in stage.rows)


def add_nodes(lab: Lab) -> None:
    """The nodes that the stages name, ready but for the one without pod networks."""
    settings = {name: {"ENABLE_METRICS": "on"} for name in ("a", "b", "c", "d", "file", "bare", "away")}
    settings["a"] |= {"NODE_IP_INTERFACES": f"eth0,{EXTRA}"}
    settings["file"] |= sources("file", "file") | {"METRICS_TLS_CERT_FILE": CERTIFICATE, "METRICS_TLS_KEY_FILE": CERTIFICATE}
    for name, environment in settings.items():
        node = lab.add_node(name, agent=False, pod_cidrs=() if name == "bare" else None, environment=environment)
        node.place.batch(f"link add {EXTRA} type bridge")
        if name == "file":
            fill("{v4}", "{v6}")(lab, node)
            certify(lab, node)
            node.pod_cidrs = (filed(node, 4), filed(node, 6))
        lab.start(node)
    for name, node in lab.nodes.items():
        if name != "bare":
            node.wait_ready(seconds=60)
