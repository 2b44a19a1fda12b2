"""The condition NetworkUnavailable, by option; on the real API server, for the embedded one knows no strategic merge patch."""

from typing import Any

import pytest
import yaml

from tests.lab.lab import MANIFESTS, Lab
from tests.lab.node import CONFLIST, LabNode
from tests.lab.wait import eventually

pytestmark = pytest.mark.kube
ROLE = "/apis/rbac.authorization.k8s.io/v1/clusterroles/wigglenet-operator"
OTHER = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "as the kubelet has it"}


def conditions(lab: Lab, node: LabNode) -> dict[str, Any]:
    """Those of its Node by type."""
    found = lab.api.admin.get(f"/api/v1/nodes/{node.name}")["status"].get("conditions") or []
    return {condition["type"]: condition for condition in found}


def said(lab: Lab, node: LabNode) -> str:
    """The status of NetworkUnavailable, empty without one."""
    return str(conditions(lab, node).get("NetworkUnavailable", {}).get("status", ""))


def test_the_condition_says_whether_the_network_is_there_and_cleanup_takes_it_away(empty_lab: Lab) -> None:
    lab = empty_lab
    parts = yaml.safe_load((MANIFESTS / "modes/node-condition/kustomization.yaml").read_text())["patches"]
    node = lab.add_node("a", agent=False, environment={"WIGGLENET_NODE_CONDITION": "on"})
    lab.api.admin.patch("/api/v1/nodes/a/status", {"status": {"conditions": [OTHER]}})
    lab.start(node)

    eventually(lambda: "[ConditionFailed]" in node.log(), what="it is told that the right is missing", seconds=30)
    (added,) = yaml.safe_load(parts[1]["patch"])
    rules = lab.api.admin.get(ROLE)["rules"]
    lab.api.admin.patch(ROLE, {"rules": [*rules, added["value"]]})
    eventually(lambda: said(lab, node) == "False", what="the network is there", seconds=60)
    assert conditions(lab, node)["Ready"]["reason"] == "KubeletReady"
    eventually(lambda: "solved: API server: set NetworkUnavailable" in node.log(), what="nothing is missing", seconds=30)

    node.path(CONFLIST).with_name("00-other.conflist").write_text("{}")
    eventually(lambda: said(lab, node) == "True", what="pods get another network", seconds=60)
    assert "00-other.conflist" in conditions(lab, node)["NetworkUnavailable"]["message"]
    since = conditions(lab, node)["NetworkUnavailable"]["lastTransitionTime"]
    another = node.path(CONFLIST).with_name("00-other.conflist").rename(node.path(CONFLIST).with_name("00-another.conflist"))
    eventually(
        lambda: another.name in str(conditions(lab, node)["NetworkUnavailable"]), what="it is told of another one", seconds=90
    )
    assert conditions(lab, node)["NetworkUnavailable"]["lastTransitionTime"] == since
    another.unlink()
    eventually(lambda: said(lab, node) == "False", what="the network is there again", seconds=90)
    assert conditions(lab, node)["NetworkUnavailable"]["lastTransitionTime"] > since

    node.stop_agent()
    status, told = node.cleanup()
    assert (status, "removed condition NetworkUnavailable of node a" in told) == (0, True)
    assert set(conditions(lab, node)) == {"Ready"}
