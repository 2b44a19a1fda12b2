"""How each problem of the agent arises and how it is solved: a table of faults with the problems that they cause.

The rows are grouped in stages and waves by what can be tested at the same time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import partial

from tests.builders import key
from tests.lab.faults.agent import (
    fix_bug,
    limit_open_files,
    occupied_port,
    require_wireguard,
    restart_with,
    restart_with_bug,
    restart_with_legacy_iptables,
    restore_program,
)
from tests.lab.faults.api_server import block_api_server, disconnect, unblock_api_server, watch_with_unreadable_node
from tests.lab.faults.cluster import (
    EVENTS_FORBIDDEN,
    OWN_VALUE,
    PATCH_FORBIDDEN,
    add_pod_networks,
    create_node,
    delete_node,
    forbid,
    notify,
    restore_permissions,
    unregister,
)
from tests.lab.faults.fault import Fault, nothing, run, then
from tests.lab.faults.node import (
    EXTRA,
    NFT,
    OTHER_CNI,
    damage_certificate,
    mount_read_only,
    nsenter,
    remove_bridge,
    remove_route_repeatedly,
    replace_link_by_bridge,
    set_mtu,
    unmount,
    write_certificate,
    write_pod_networks,
)
from tests.lab.faults.reports import ALL, IN_EVENTS, IN_LOG, IN_METRICS, IN_STATUS, LOCAL, Channel
from tests.lab.lab import Lab
from tests.lab.node import CONFLIST, KEY, LINK
from tests.lab.sources import NODE_IPS, POD_CIDRS, PUBLIC_KEY
from tests.lab.timing import LAB
from wigglenet_operator.model.problems import Code

ENDPOINT = "wigglenet/endpoint"


@dataclass(frozen=True)
class ProblemRow:
    """A problem, and the fault that causes it; rows of one stage may have the same fault."""

    code: Code
    fault: Fault
    _: KW_ONLY
    channels: Sequence[Channel] = ALL
    """Where the problem and its end are reported."""
    seconds: float = 20.0
    """From the injection until the problem is reported."""
    clear_seconds: float = 20.0
    """From the repair until the end of the problem is reported."""
    after_restart: bool = True
    """Whether an agent that starts while the problem exists reports it at once."""


@dataclass(frozen=True)
class Stage:
    """Faults that are injected into one node at the same time."""

    node: str
    rows: tuple[ProblemRow, ...]
    _: KW_ONLY
    embedded: bool = False
    """Whether only the embedded API server has these faults."""
    lasting: bool = False
    """Whether the problems end a minute after the repair; the next waves do not wait for it."""

    @property
    def faults(self) -> tuple[Fault, ...]:
        """The faults of the rows, each once."""
        return tuple(dict.fromkeys(row.fault for row in self.rows))


def on(node: str, *rows: ProblemRow, embedded: bool = False, lasting: bool = False) -> Stage:
    """A stage on this node."""
    return Stage(node, rows, embedded=embedded, lasting=lasting)


not_after_restart = partial(ProblemRow, after_restart=False)
"""A row whose problem a new agent does not have, or does not report at once."""


def of_another_node(code: Code, annotations: Mapping[str, str], *addresses: str) -> ProblemRow:
    """A problem that another Node with these annotations causes."""
    name = f"x-{code.lower()}"
    return ProblemRow(code, Fault(f"there is a Node {name}", create_node(name, annotations, *addresses), delete_node(name)))


KEEP_REPLACING = "until ip route add blackhole {own4} metric 4294967295 proto static; do ip route del unreachable {own4}; done"
"""The agent may restore the removed route before the other one is added."""
HIDE_NFT = f"cp {NFT} /run/nft; mount --bind /dev/null {NFT}; /run/nft delete table inet wigglenet"
READ_ONLY_SYSCTLS = "mount --bind /proc/sys/net /proc/sys/net; mount -o remount,bind,ro /proc/sys/net"
FOREIGN_ROUTE = "ip route replace {peer4} dev eth0 proto static via 192.0.2.250"
DROPPING = "nft 'table ip other {{ chain forward {{ type filter hook forward priority 0; policy drop; }}; }}'"
OWN_NETWORKS = write_pod_networks("{v4}", "{v6}")
OTHER_NODES = (
    of_another_node(Code.FieldUnusable, {NODE_IPS: "no list"}),
    of_another_node(Code.ClaimRefused, {POD_CIDRS: '["10.1.11.0/24"]'}),
    of_another_node(Code.KeyRepeated, {PUBLIC_KEY: OWN_VALUE}),
    of_another_node(Code.NoEndpoint, {PUBLIC_KEY: key("nowhere")}),
    of_another_node(Code.EndpointRefused, {PUBLIC_KEY: key("loop"), ENDPOINT: "10.1.11.9"}, "192.0.2.99"),
)
KERNEL = (
    ProblemRow(
        Code.SettingsFailed,
        Fault(
            "sysctls are read-only, and one is wrong",
            then(run(READ_ONLY_SYSCTLS), nsenter("sysctl", "-qw", f"net.ipv4.conf.{LINK}.rp_filter=0")),
            repair=run("umount /proc/sys/net"),
        ),
    ),
    ProblemRow(Code.FirewallFailed, Fault("there is no nft", run(HIDE_NFT), run(f"umount {NFT}"))),
    ProblemRow(
        Code.RoutesFailed,
        Fault(
            "another route is in the place of an unreachable route",
            run(KEEP_REPLACING),
            repair=run("ip route del blackhole {own4} metric 4294967295"),
        ),
    ),
)
NEIGHBOURING_SOFTWARE = (
    ProblemRow(Code.CNIOutranked, Fault("there is another network plugin", run(f"echo > {OTHER_CNI}"), run(f"rm {OTHER_CNI}"))),
    ProblemRow(
        Code.RouteBypassed,
        Fault("a foreign route is in the way", run(FOREIGN_ROUTE), run("ip route del {peer4} proto static")),
    ),
    ProblemRow(
        Code.ForwardingDropped, Fault("another table drops forwarded packets", run(DROPPING), run("nft delete table ip other"))
    ),
)
LINKS_AND_KEY = (
    ProblemRow(Code.MTUTooSmall, Fault("the underlay MTU is small", set_mtu(1300), set_mtu(1500))),
    ProblemRow(
        Code.LinkMissing,
        Fault(
            "a link with addresses of the node is missing",
            run(f"ip link del {EXTRA}"),
            repair=run(f"ip link add {EXTRA} type bridge"),
        ),
    ),
    not_after_restart(
        Code.KeyFileReplaced,
        Fault("the key file is replaced", run(f"wg genkey > {KEY}.new && mv {KEY}.new {KEY}"), run(f"rm {KEY}")),
    ),
)
SETTINGS_AND_PROGRAMS = (
    not_after_restart(
        Code.WireGuardOther,
        Fault(
            "another implementation of WireGuard is required",
            require_wireguard(other=True),
            repair=require_wireguard(other=False),
        ),
    ),
    not_after_restart(
        Code.ConditionFailed,
        Fault(
            "the agent sets a condition, which the role in the manifests does not permit",
            restart_with("WIGGLENET_NODE_CONDITION", "on"),
            repair=restart_with("WIGGLENET_NODE_CONDITION", "off"),
        ),
    ),
    not_after_restart(
        Code.LeftoversFailed,
        Fault(
            "former iptables rules cannot be removed",
            restart_with_legacy_iptables,
            repair=restore_program("iptables-nft-restore"),
        ),
    ),
)
UNFIT = Fault("the pod networks are unfit", write_pod_networks("192.0.2.0/24", "fd00:99::/127"), OWN_NETWORKS)
UNREADABLE = watch_with_unreadable_node()
BLOCKED = Fault("the API server is blocked", then(block_api_server, notify), unblock_api_server)
READ_ONLY_CNI = Fault("the directory of the CNI file is read-only", mount_read_only(CONFLIST), unmount(CONFLIST))
READ_ONLY_KEY = Fault("the directory of the key file is read-only", mount_read_only(KEY), unmount(KEY))
CONTENDED = Fault("another process removes a route repeatedly", remove_route_repeatedly)
MALFORMED_FILE = Fault("the file with pod networks is malformed", write_pod_networks("10.1.0.0/99"), OWN_NETWORKS)
OTHER_LINK = Fault("another link has the name of the tunnel link", replace_link_by_bridge, remove_bridge)
DAMAGED_CERTIFICATE = Fault("the certificate is damaged", damage_certificate, write_certificate)
NO_OPEN_FILES = Fault("the agent may not open another file", limit_open_files("10:1024"), limit_open_files("1024:1024"))
READING_FORBIDDEN = Fault(
    "it may neither list nor watch Nodes", then(forbid("nodes", "list", "watch"), disconnect), restore_permissions
)
WAVES: tuple[tuple[Stage, ...], ...] = (
    (
        on("a", *OTHER_NODES),
        on("c", *KERNEL),
        on("b", *NEIGHBOURING_SOFTWARE),
        on("file", ProblemRow(Code.PodNetworkUnfit, UNFIT), ProblemRow(Code.PodsWithheld, UNFIT)),
        on("bare", ProblemRow(Code.NoPodNetwork, Fault("the Node has no pod networks", nothing, add_pod_networks))),
        on("away", not_after_restart(Code.APIUnreachable, BLOCKED, channels=LOCAL, seconds=60, clear_seconds=30)),
    ),
    (
        on("a", *LINKS_AND_KEY),
        on("bare", not_after_restart(Code.ListenFailed, occupied_port(), channels=(IN_LOG, IN_METRICS, IN_STATUS, IN_EVENTS))),
        on("b", ProblemRow(Code.CNIFileFailed, READ_ONLY_CNI)),
        on("c", not_after_restart(Code.RepairUndone, CONTENDED, clear_seconds=LAB.repair_calm + 40), lasting=True),
        on("file", ProblemRow(Code.PodFileUnusable, MALFORMED_FILE)),
        on("d", not_after_restart(Code.TurnCrashed, Fault("the agent has a bug", restart_with_bug, fix_bug))),
        on(
            "away",
            not_after_restart(Code.APIThrottled, UNREADABLE, clear_seconds=LAB.watch_stable + 40),
            not_after_restart(Code.NodeUnreadable, UNREADABLE),
            embedded=True,
            lasting=True,
        ),
    ),
    (
        on("b", not_after_restart(Code.KeyFileFailed, READ_ONLY_KEY), ProblemRow(Code.TunnelFailed, OTHER_LINK)),
        on("file", not_after_restart(Code.CertificateUnusable, DAMAGED_CERTIFICATE)),
        on("d", *SETTINGS_AND_PROGRAMS),
        on(
            "bare",
            not_after_restart(Code.OwnNodeMissing, Fault("the Node is deleted", unregister, Lab.register), channels=LOCAL),
        ),
        on("a", not_after_restart(Code.LookFailed, NO_OPEN_FILES, channels=(IN_LOG,))),
    ),
    (
        on(
            "a",
            not_after_restart(Code.APIRefused, READING_FORBIDDEN, seconds=60, clear_seconds=40),
            not_after_restart(Code.CensusFailed, READING_FORBIDDEN),
        ),
    ),
    (on("a", not_after_restart(Code.PublishFailed, PATCH_FORBIDDEN, channels=(*LOCAL, IN_EVENTS))),),
    (on("a", not_after_restart(Code.EventsFailed, EVENTS_FORBIDDEN, channels=(*LOCAL, IN_STATUS), clear_seconds=40)),),
)
"""Waves are tested one after the other; the stages of a wave are on different nodes and do not disturb each other."""
ROWS = tuple(row for wave in WAVES for stage in wave for row in stage.rows)
