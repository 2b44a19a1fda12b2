"""Acts on the objects of the cluster: Nodes, their annotations, the permissions of agents; two faults that tests share."""

import time
from collections.abc import Mapping
from datetime import datetime
from itertools import count

from tests.lab.faults.fault import Act, Fault, run, then
from tests.lab.faults.node import OTHER_CNI
from tests.lab.lab import MANIFESTS, Lab
from tests.lab.node import LabNode
from tests.lab.sources import NODE_IPS, PUBLIC_KEY
from tests.lab.state import IDENTITY
from tests.lab.wait import eventually

ROLE = "/apis/rbac.authorization.k8s.io/v1/clusterroles/wigglenet-operator"
NUMBERS = count(1)
OWN_VALUE = "taken"
"""In `create_node`: stands for the value that the faulty node itself announces."""

# The Node object of the node


def annotate(values: Mapping[str, str | None]) -> Act:
    """Set annotations of the Node; None removes one."""
    return lambda lab, node: lab.annotate(node.name, values)


remove_annotations = annotate(dict.fromkeys(IDENTITY))
notify = annotate({"example.org/news": "x"})
"""Change the Node without any meaning, so that its agent receives an event."""


def delete_node_object(lab: Lab, node: LabNode) -> None:
    """Delete the Node; return when no pod can start on the node."""
    unregister(lab, node)
    eventually(lambda: node.conflist() is None, what=f"{node.name} takes no pods without a Node")


def unregister(lab: Lab, node: LabNode) -> None:
    """Delete the Node."""
    lab.api.admin.delete_node(node.name)


def register_in_parts(lab: Lab, node: LabNode) -> None:
    """Create the Node without addresses and pod networks, add them, and give the node a token last.

    Return when the other agents have reported an annotation of the incomplete Node as well.
    """
    others = {one: one.log_size() for one in lab.nodes.values() if one is not node}
    lab.api.admin.create_node(node.name)
    lab.annotate(node.name, {NODE_IPS: "no list"})
    for one, since in others.items():
        one.wait_logged(f"problem: node {node.name}", NODE_IPS, since=since)
    lab.annotate(node.name, {NODE_IPS: None})
    lab.api.admin.complete_node(node.name, node.pod_cidrs, [str(a) for a in node.addresses])
    lab.give_credentials(node)


def add_pod_networks(lab: Lab, node: LabNode) -> None:
    """Give a Node without pod networks those of its number."""
    node.pod_cidrs = (f"10.1.{node.number}.0/24", f"fd00:10:1:{node.number:x}::/64")
    lab.api.admin.complete_node(node.name, node.pod_cidrs, [str(a) for a in node.addresses])


# Other Nodes


def create_node(name: str, annotations: Mapping[str, str], *addresses: str) -> Act:
    """Create a Node without a machine; the value OWN_VALUE of an annotation is replaced by the faulty node's own value."""

    def act(lab: Lab, node: LabNode) -> None:
        own = lab.annotations(node.name)
        lab.api.admin.create_node(name, (), addresses)
        lab.annotate(name, {key: own[key] if value == OWN_VALUE else value for key, value in annotations.items()})

    return act


def delete_node(name: str) -> Act:
    """Delete the Node that `create_node` made."""
    return lambda lab, _node: lab.api.admin.delete_node(name)


def create_malformed_node(lab: Lab, node: LabNode) -> None:
    """Create a Node without a machine whose networks and key are unusable; return when every agent reports it.

    Its name is new: an agent does not report the same problem of the same Node again soon after it was solved.
    """
    eventually(lambda: all(_is_old(lab, name) for name in lab.nodes), what="every Node is older than one that is created now")
    since = {one: one.log_size() for one in lab.nodes.values()}
    name = f"malformed-{next(NUMBERS)}"
    lab.api.admin.create_node(name, ["0.0.0.0/0", node.pod_cidrs[1]])
    lab.annotate(name, {PUBLIC_KEY: "no key"})
    for one, start in since.items():
        for word in (PUBLIC_KEY, "0.0.0.0/0", node.pod_cidrs[1]):
            one.wait_logged(f"problem: node {name}", word, since=start)


def delete_malformed_nodes(lab: Lab, _node: LabNode) -> None:
    """Delete every Node that `create_malformed_node` made."""
    names = [node["metadata"]["name"] for node in lab.api.admin.get("/api/v1/nodes")["items"]]
    for name in names:
        if name.startswith("malformed"):
            lab.api.admin.delete_node(name)


def _is_old(lab: Lab, name: str) -> bool:
    """Whether the Node was created in an earlier second than this one."""
    created = lab.api.admin.get(f"/api/v1/nodes/{name}")["metadata"]["creationTimestamp"]
    return datetime.fromisoformat(created).timestamp() <= time.time() - 1


# Permissions


def forbid(resource: str, *verbs: str) -> Act:
    """Remove verbs on a resource from the role of all agents."""

    def act(lab: Lab, _node: LabNode) -> None:
        rules = lab.api.admin.get(ROLE)["rules"]
        for rule in rules:
            if resource in rule["resources"]:
                rule["verbs"] = [verb for verb in rule["verbs"] if verb not in verbs]
        lab.api.admin.patch(ROLE, {"rules": [rule for rule in rules if rule["verbs"]]})

    return act


def restore_permissions(lab: Lab, _node: LabNode) -> None:
    """Apply the role of the manifests again."""
    lab.api.admin.apply(MANIFESTS / "agent/rbac.yaml")


PATCH_FORBIDDEN = Fault(
    "it may not patch Nodes", then(forbid("nodes", "patch"), annotate({NODE_IPS: None})), repair=restore_permissions
)
"""An annotation is missing meanwhile, so the agent tries."""
EVENTS_FORBIDDEN = Fault(
    "it may not create Events",
    then(forbid("events", "create"), run(f"echo > {OTHER_CNI}")),
    repair=then(restore_permissions, run(f"rm {OTHER_CNI}")),
)
"""Another problem exists meanwhile, so the agent tries to create an Event."""
