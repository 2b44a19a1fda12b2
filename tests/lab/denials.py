"""What an API server, or the way to it, can refuse to one node or to all, and how to have it do so."""

from contextlib import ExitStack

from aiohttp import web

from tests.lab.api.access import Asked
from tests.lab.api.embedded import EmbeddedServer
from tests.lab.api.faults import Fault
from tests.lab.api.watching import line
from tests.lab.faults import annotate, says, spoken
from tests.lab.lab import API_ADDRESS, MANIFESTS, Lab
from tests.lab.node import SERVICE_ACCOUNT, LabNode
from tests.lab.strike import Act
from tests.lab.wait import eventually

ROLE = "/apis/rbac.authorization.k8s.io/v1/clusterroles/wigglenet-operator"


def refuse_api(_lab: Lab, node: LabNode) -> None:
    """Whoever on the node talks to the API server is cut off."""
    rule = f"ip daddr {API_ADDRESS} tcp dport 6443 reject with tcp reset"
    node.place.run("nft", f"table inet cut {{ chain output {{ type filter hook output priority 0; {rule}; }}; }}")


def admit_api(_lab: Lab, node: LabNode) -> None:
    node.place.run("nft", "delete", "table", "inet", "cut")


def cut(lab: Lab, node: LabNode) -> None:
    """End its connections to the API server, which notices that when it has something to tell."""
    refuse_api(lab, node)

    def ended() -> bool:
        annotate(lab, node.name, {"example.org/news": str(spoken(node))})
        return not node.place.run("ss", "-Htn", "state", "established", "dst", API_ADDRESS)

    eventually(ended, what=f"{node.name} has no connection to the API server")
    admit_api(lab, node)


def forbid(resource: str, *verbs: str) -> Act:
    """Take verbs on a resource from the agents' role."""

    def act(lab: Lab, _node: LabNode) -> None:
        rules = lab.api.admin.get(ROLE)["rules"]
        for rule in rules:
            if resource in rule["resources"]:
                rule["verbs"] = [verb for verb in rule["verbs"] if verb not in verbs]
        lab.api.admin.patch(ROLE, {"rules": [rule for rule in rules if rule["verbs"]]})

    return act


def allow(lab: Lab, _node: LabNode) -> None:
    """Give the role what the manifests do."""
    lab.api.admin.apply(MANIFESTS / "agent/rbac.yaml")


class Misled:
    """A server that tells one node, and no other, what it should not."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def provoke(self, lab: Lab, node: LabNode) -> None:
        """Each watch begins well, tells of a Node without a UID, and ends."""
        self._tell(lab, node, "ADDED")

    def heal(self, lab: Lab, node: LabNode) -> None:
        """That Node is deleted; after that all is well."""
        since = spoken(node)
        self._tell(lab, node, "DELETED")
        says(node, "solved", "[NodeUnreadable]", since=since)
        self._stack.close()

    def _tell(self, lab: Lab, node: LabNode, event: str) -> None:
        assert isinstance(lab.api, EmbeddedServer)
        bearer = "Bearer " + node.path(f"{SERVICE_ACCOUNT}/token").read_text()
        told = line(event, {"kind": "Node", "apiVersion": "v1", "metadata": {"name": "nobody", "resourceVersion": "1"}})

        async def answer(request: web.Request, asked: Asked) -> web.StreamResponse | None:
            if asked.verb != "watch" or request.headers.get("Authorization") != bearer:
                return None
            response = web.StreamResponse(headers={"Content-Type": "application/json"})
            await response.prepare(request)
            await response.write(told)
            return response

        self._stack.close()
        self._stack.enter_context(lab.api.misbehaving(Fault(answer=answer)))
