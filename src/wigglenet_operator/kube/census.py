"""Which Nodes exist (UIDs), asked apart from Kopf: the store is complete when all of them have been recorded."""

from kubernetes_asyncio.client import ApiClient

from wigglenet_operator.errors import ApiError
from wigglenet_operator.kube.access import ask
from wigglenet_operator.model.facts import NodeUID

PAGE = 500
METADATA_ONLY = {"Accept": "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"}


async def list_node_uids(api: ApiClient) -> frozenset[NodeUID]:
    """The UID of every Node, by metadata-only pages; ApiError if the listing fails, then the caller asks again."""
    uids: set[NodeUID] = set()
    query = [("limit", str(PAGE))]
    while True:
        page = await ask(api, "GET", "/api/v1/nodes", what="list Nodes", headers=METADATA_ONLY, query=query)
        try:
            uids.update(NodeUID(item["metadata"]["uid"]) for item in page["items"])
            token = page["metadata"].get("continue")
        except (KeyError, TypeError, AttributeError) as error:
            raise ApiError(f"list Nodes: the API server answers something else: {error!r}") from error
        if not token:
            return frozenset(uids)
        query = [("limit", str(PAGE)), ("continue", token)]
