"""What exists, asked apart from Kopf, so that nothing that Kopf never told of is missed."""

from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus
from ipaddress import ip_network
from typing import Any

from wigglenet_operator.errors import ApiError
from wigglenet_operator.kube.access import ask
from wigglenet_operator.kube.library import ApiClient
from wigglenet_operator.kube.one_shot import METADATA_ONLY, PAGE
from wigglenet_operator.model.facts import IPNetwork, NodeUID, Version


async def list_nodes(api: ApiClient) -> dict[NodeUID, Version]:
    """The version of every Node by UID, by metadata-only pages; ApiError if the listing fails, then the caller asks again."""
    found: dict[NodeUID, Version] = {}
    async for item in _listed(api, METADATA_ONLY):
        found[NodeUID(item["metadata"]["uid"])] = Version(item["metadata"].get("resourceVersion") or "")
    return found


async def list_node_bodies(api: ApiClient, *, whole: bool = True) -> list[dict[str, Any]]:
    """Every Node, or its metadata alone; ApiError if the listing fails."""
    return [item async for item in _listed(api, {} if whole else METADATA_ONLY)]


async def _listed(api: ApiClient, headers: Mapping[str, str]) -> AsyncIterator[dict[str, Any]]:
    query = [("limit", str(PAGE))]
    while True:
        page = await ask(api, "GET", "/api/v1/nodes", what="list Nodes", headers=headers, query=query)
        try:
            for item in page["items"]:
                if not item["metadata"]["uid"]:
                    raise KeyError("uid")  # noqa: TRY301 - as if it were not there
                yield item
            token = page["metadata"].get("continue")
        except (KeyError, TypeError, AttributeError) as error:
            raise ApiError(f"list Nodes: the API server answers something else: {error!r}") from error
        if not token:
            return
        query = [("limit", str(PAGE)), ("continue", token)]


async def list_service_ranges(api: ApiClient) -> frozenset[IPNetwork] | None:
    """What ServiceCIDR objects say (networking.k8s.io/v1, Kubernetes 1.33); None where there are none, or not for us."""
    path = "/apis/networking.k8s.io/v1/servicecidrs"
    try:
        page = await ask(api, "GET", path, what="list ServiceCIDRs", headers={})
        texts = [text for item in page["items"] for text in item["spec"].get("cidrs") or ()]
        return frozenset(ip_network(text, strict=False) for text in texts)
    except ApiError as error:
        if error.status in {HTTPStatus.NOT_FOUND, HTTPStatus.FORBIDDEN}:
            return None
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ApiError(f"list ServiceCIDRs: the API server answers something else: {error!r}") from error
