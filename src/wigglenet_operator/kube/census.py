"""Which Nodes exist (UIDs), asked apart from Kopf: the store is complete when all of them have been recorded."""

import json

from kubernetes_asyncio.client import ApiClient
from kubernetes_asyncio.client.exceptions import ApiException

from wigglenet_operator.errors import ApiError
from wigglenet_operator.model.facts import NodeUID

PAGE = 500
METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
SECONDS = 30


async def list_node_uids(api: ApiClient) -> frozenset[NodeUID]:
    """The UID of every Node, by metadata-only pages; ApiError if the listing fails, then the caller asks again."""
    uids: set[NodeUID] = set()
    query = [("limit", str(PAGE))]
    while True:
        try:
            reply = await api.call_api(
                "/api/v1/nodes",
                "GET",
                query_params=query,
                header_params={"Accept": METADATA_ONLY},
                auth_settings=["BearerToken"],
                _preload_content=False,
                _request_timeout=SECONDS,
            )
            page = json.loads(await reply.read())
            uids.update(NodeUID(item["metadata"]["uid"]) for item in page["items"])
        except (ApiException, OSError, TimeoutError, ValueError, KeyError) as error:
            raise ApiError(f"list Nodes: {error}") from error
        if not (token := page["metadata"].get("continue")):
            return frozenset(uids)
        query = [("limit", str(PAGE)), ("continue", token)]
