"""What does the embedded server serve?  The documents by which clients find out: /api, /apis, their groups, /version."""

from collections.abc import Sequence
from http import HTTPStatus

from tests.lab.api.client import Json
from tests.lab.api.refusals import Kind, refusal

VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]
STATUS_VERBS = ["get", "patch", "update"]
VERSION = {"major": "1", "minor": "37", "gitVersion": "v1.37.2+embedded", "platform": "linux"}


def document(path: str, kinds: Sequence[Kind]) -> Json:
    """The document at a path; 404 if there is none."""
    groups = sorted({(kind.group, kind.version) for kind in kinds if kind.group})
    match path.strip("/").split("/"):
        case ["version"]:
            return dict(VERSION)
        case ["api"]:
            return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
        case ["apis"]:
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(*one) for one in groups]}
        case ["apis", group] if group in dict(groups):
            return {"kind": "APIGroup", "apiVersion": "v1", **_group(group, dict(groups)[group])}
        case ["api", "v1"]:
            return _resources("v1", kinds)
        case ["apis", group, version] if (group, version) in groups:
            return _resources(f"{group}/{version}", kinds)
        case _:
            raise refusal(HTTPStatus.NOT_FOUND, "NotFound", "the server could not find the requested resource")


def _group(group: str, version: str) -> Json:
    served = {"groupVersion": f"{group}/{version}", "version": version}
    return {"name": group, "versions": [served], "preferredVersion": served}


def _resources(api_version: str, kinds: Sequence[Kind]) -> Json:
    listed: list[Json] = []
    for kind in kinds:
        if kind.api_version != api_version:
            continue
        row = {"name": kind.plural, "singularName": kind.kind.lower(), "namespaced": kind.namespaced, "kind": kind.kind}
        listed.append(row | {"verbs": VERBS})
        if kind.has_status:
            listed.append(row | {"name": f"{kind.plural}/status", "singularName": "", "verbs": STATUS_VERBS})
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version, "resources": listed}
