"""What exists, asked apart from Kopf, so that nothing that Kopf never told of is missed."""

from http import HTTPStatus
from ipaddress import ip_network

from kubernetes_asyncio.client import ApiClient

from wigglenet_operator.errors import ApiError
from wigglenet_operator.kube.access import ask
from wigglenet_operator.model.facts import IPNetwork, NodeUID, Version

PAGE = 500
METADATA_ONLY = {"Accept": "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"}


async def list_nodes(api: ApiClient) -> dict[NodeUID, Version]:
    """The version of every Node by UID, by metadata-only pages; ApiError if the listing fails, then the caller asks again."""
    found: dict[NodeUID, Version] = {}
    query = [("limit", str(PAGE))]
    while True:
        page = await ask(api, "GET", "/api/v1/nodes", what="list Nodes", headers=METADATA_ONLY, query=query)
        try:
            for item in page["items"]:
                found[NodeUID(item["metadata"]["uid"])] = Version(item["metadata"].get("resourceVersion") or "")
            token = page["metadata"].get("continue")
        except (KeyError, TypeError, AttributeError) as error:
            raise ApiError(f"list Nodes: the API server answers something else: {error!r}") from error
        if not token:
            return found
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
