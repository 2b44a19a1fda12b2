"""What can be wrong with a node's network, by code: how bad it is, what it means and what to do about it.

The one table from which metric, Event, readiness, `wigglenet-operator status` and docs/troubleshooting.md have it.  A code is
stable: alerts and scripts of users name it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum, auto


class Severity(Enum):
    """How much it matters."""

    ERROR = "error"
    """Something does not work."""
    WARNING = "warning"
    """Something is not as it was asked for, or somebody else's."""


class Code(StrEnum):
    """A kind of problem; its value is its name, in the form of an Event's reason."""

    @staticmethod
    def _generate_next_value_(name: str, *_: object) -> str:
        return name

    OwnNodeMissing = auto()
    NodeUnreadable = auto()
    FieldUnusable = auto()
    ClaimRefused = auto()
    KeyRepeated = auto()
    EndpointRefused = auto()
    NoEndpoint = auto()
    NoPodNetwork = auto()
    PodFileUnusable = auto()
    PodNetworkUnfit = auto()
    PodsWithheld = auto()
    CNIOutranked = auto()
    MTUTooSmall = auto()
    LinkMissing = auto()
    WireGuardOther = auto()
    KeyFileReplaced = auto()
    RouteBypassed = auto()
    ForwardingDropped = auto()
    RepairUndone = auto()
    KeyFileFailed = auto()
    TunnelFailed = auto()
    RoutesFailed = auto()
    SettingsFailed = auto()
    FirewallFailed = auto()
    CNIFileFailed = auto()
    LeftoversFailed = auto()
    PublishFailed = auto()
    LookFailed = auto()
    TurnCrashed = auto()
    APIRefused = auto()
    APIUnreachable = auto()
    APIThrottled = auto()
    CensusFailed = auto()
    EventsFailed = auto()
    ConditionFailed = auto()
    ListenFailed = auto()
    CertificateUnusable = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """What is to be known of a code."""

    severity: Severity
    breaks: bool
    """Whether this node's data path is not as it should be: it is not ready for as long as that lasts."""
    meaning: str
    """One sentence."""
    remedy: str
    """What to do, one sentence."""


def _broken(meaning: str, remedy: str) -> Meaning:
    return Meaning(severity=Severity.ERROR, breaks=True, meaning=meaning, remedy=remedy)


def _error(meaning: str, remedy: str) -> Meaning:
    return Meaning(severity=Severity.ERROR, breaks=False, meaning=meaning, remedy=remedy)


def _warning(meaning: str, remedy: str) -> Meaning:
    return Meaning(severity=Severity.WARNING, breaks=False, meaning=meaning, remedy=remedy)


PROBLEMS: Mapping[Code, Meaning] = {
    Code.OwnNodeMissing: _broken(
        "The agent's own Node object is not there, so it does not know which networks are this node's; nothing is changed.",
        "Find out who deleted the Node; restart the kubelet, which registers it anew.",
    ),
    Code.NodeUnreadable: _warning(
        "A Node object has no usable name or UID and is left out of the mesh.",
        "Look at the object with `kubectl get node -o yaml`; no API server should hold such a one.",
    ),
    Code.FieldUnusable: _warning(
        "A field or annotation of a Node cannot be read and is not used; all else of that Node is.",
        "Correct or remove the named value; what an agent publishes comes back by itself.",
    ),
    Code.ClaimRefused: _warning(
        "A Node claims a network or address that it cannot have, as a rule because another Node has it; that one is not used.",
        "Give each node networks of its own: see who has it by `kubectl wigglenet status` and `kubectl get nodes -o yaml`.",
    ),
    Code.KeyRepeated: _warning(
        "Two Nodes announce the same public key, as after a disk was cloned; the younger one is left out.",
        "Remove the private key file of one of them and restart its agent: it makes a new key.",
    ),
    Code.EndpointRefused: _warning(
        "The annotation wigglenet/endpoint of a Node names an address that lies in a pod network, so it would loop.",
        "Correct the annotation: the address at which the node is reached from outside of the mesh.",
    ),
    Code.NoEndpoint: _warning(
        "A Node has a key, but no address that a tunnel could be sent to; its pods are not reached.",
        "See that its kubelet reports an InternalIP, or annotate it with wigglenet/endpoint; look at WG_IP_FAMILY.",
    ),
    Code.NoPodNetwork: _broken(
        "The source of this node's pod networks has none for a family, so no pod starts here.",
        "Let the controller-manager allocate node CIDRs, fill the file, or set the family's source to none.",
    ),
    Code.PodFileUnusable: _broken(
        "The file with this node's pod networks cannot be read or has a line that is no CIDR; none of it is used.",
        "Correct the named line, or make the file; it is read again at once.",
    ),
    Code.PodNetworkUnfit: _broken(
        "A pod network from the file holds an address of this node itself and is not used.",
        "Give pods a network that the node's own interfaces have no address in.",
    ),
    Code.PodsWithheld: _broken(
        "The CNI file is withheld, so no new pod starts here; those that run stay connected.",
        "Do what the text says: networks of this node are refused or too small, or its IPv6 is disabled.",
    ),
    Code.CNIOutranked: _broken(
        "A CNI configuration of somebody else sorts before ours, so the container runtime gives pods that one.",
        "Remove what made it, then the file.",
    ),
    Code.MTUTooSmall: _warning(
        "The underlay carries too little for an IPv6 packet inside of the tunnel; large packets may be lost.",
        "Raise the underlay's MTU to what the text says.",
    ),
    Code.LinkMissing: _warning(
        "A link that NODE_IP_INTERFACES names is not there, so its addresses are not announced.",
        "Make the link, or take it out of the setting.",
    ),
    Code.WireGuardOther: _warning(
        "The tunnel is held by another WireGuard implementation than this node could have, or than is set.",
        "Switch at a quiet time: stop the other implementation, `ip link del` the link; pods are cut off for about a second.",
    ),
    Code.KeyFileReplaced: _warning(
        "The private key file holds another key than the one in force.",
        "Restart the agent to use the one in the file, or remove the file to get back the one in force.",
    ),
    Code.RouteBypassed: _broken(
        "A route of somebody else takes what is for pods past the tunnel, unencrypted.",
        "Remove that route, or what makes it; the agent leaves it alone.",
    ),
    Code.ForwardingDropped: _broken(
        "A chain of somebody else drops what is forwarded, and accepts nothing of the pod networks.",
        "Accept the named networks in that chain, in both directions.",
    ),
    Code.RepairUndone: _broken(
        "Something else keeps undoing what the agent writes; it repairs ever more slowly.",
        "Find out what does so and stop one of the two: another agent, NetworkManager, a firewall service.",
    ),
    Code.KeyFileFailed: _error(
        "The private key file cannot be read or written; the key in force stays.",
        "Look at the disk and at the permissions of its directory: without the file a restart makes a new key.",
    ),
    Code.TunnelFailed: _broken(
        "The kernel, or the userspace WireGuard, refused a write to the tunnel: link, key, address or peers.",
        "Do what the text says; the agent tries again all the time.",
    ),
    Code.RoutesFailed: _broken(
        "The kernel refused a route, or to show them.",
        "Look at the named route with `ip route`; the agent tries again all the time.",
    ),
    Code.SettingsFailed: _broken(
        "A kernel setting that a router of pods needs cannot be written.",
        "See that the agent's container has the node's /proc/sys/net, writable, and who else sets it.",
    ),
    Code.FirewallFailed: _broken(
        "The table of the firewall was refused, or nft could not be run; the rules of before stay in force.",
        "Look at the text; at memory, if it could not be run; at the kernel's nf_tables modules otherwise.",
    ),
    Code.CNIFileFailed: _broken(
        "The CNI file cannot be written or removed.",
        "See whether the disk is full, or /etc/cni/net.d read-only.",
    ),
    Code.LeftoversFailed: _warning(
        "Chains that Wigglenet's iptables left cannot be looked at or removed.",
        "Look at `iptables-save | grep WIGGLENET`; remove them by hand if it goes on.",
    ),
    Code.PublishFailed: _broken(
        "The own Node's annotations cannot be written, so other nodes do not know of this one's changes, and no pod starts "
        "before they do.",
        "Look at the status in the text: 403 means that rbac.yaml or admission.yaml is not of this version.",
    ),
    Code.LookFailed: _broken(
        "This node cannot be looked at, so nothing is changed.",
        "Do what the text says; the agent tries again all the time.",
    ),
    Code.TurnCrashed: _broken(
        "A turn ended by a bug of the agent; the data path stays as it was, the next turn is tried.",
        "Report it with the traceback from the agent's log.",
    ),
    Code.APIRefused: _broken(
        "The API server refuses to show Nodes to the agent; everything stays as it is.",
        "Look at the status in the text: 401 is a bad token (restart the pod), 403 means that rbac.yaml is not applied.",
    ),
    Code.APIUnreachable: _error(
        "The API server does not answer; everything stays as it is, and what was there is still repaired.",
        "See whether it runs and is reached from this node at KUBERNETES_SERVICE_HOST.",
    ),
    Code.APIThrottled: _warning(
        "The API server ends every watch at once, so the agent asks once a second only.",
        "Look at the load and the log of the API server.",
    ),
    Code.CensusFailed: _error(
        "Nodes cannot be listed, so a deletion may go unnoticed; before the first listing nothing is done.",
        "Look at the status in the text: 403 means that rbac.yaml is not of this version.",
    ),
    Code.EventsFailed: _warning(
        "Events on the own Node cannot be written.",
        "Look at the status in the text: 403 means that rbac.yaml or admission.yaml is not of this version.",
    ),
    Code.ConditionFailed: _warning(
        "The own Node's condition NetworkUnavailable cannot be written, so it may not say what is.",
        "Look at the status in the text: 403 means that the component manifests/modes/node-condition is not applied.",
    ),
    Code.ListenFailed: _error(
        "The address for probes or metrics cannot be listened on; an agent without probes is started anew all the time.",
        "Free the port, or set another METRICS_BIND_ADDR, or HEALTH_BIND_ADDR together with the probes of the manifest.",
    ),
    Code.CertificateUnusable: _warning(
        "A file of the metrics' TLS cannot be used; what was in force before stays.",
        "Correct the named file; it is read again as soon as it changes.",
    ),
}
