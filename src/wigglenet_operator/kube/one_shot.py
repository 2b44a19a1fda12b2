"""The Nodes' annotations asked for once, by the standard library: the client library alone takes longer to import than that.

For a command on a node whose agent does not answer; it has the agent's credentials.
"""

import json
import ssl
from http import HTTPStatus
from http.client import HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote

from wigglenet_operator.errors import ApiError, describe

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
SECONDS = 3
PAGE = 500
METADATA_ONLY = {"Accept": "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"}


def node_annotations(host: str, port: int, directory: Path = SERVICE_ACCOUNT) -> dict[str, dict[str, str]]:
    """The annotations of every Node by its name; ApiError if the API server refuses or does not answer."""
    try:
        context = ssl.create_default_context(cafile=str(directory / "ca.crt"))
        headers = {**METADATA_ONLY, "Authorization": f"Bearer {(directory / 'token').read_text().strip()}"}
    except OSError as error:
        raise ApiError(f"list Nodes: no credentials in {directory}: {error.strerror}") from error
    connection = HTTPSConnection(host, port, timeout=SECONDS, context=context)
    found: dict[str, dict[str, str]] = {}
    token = ""
    try:
        while True:
            page = _page(connection, headers, token)
            for item in page["items"]:
                found[item["metadata"]["name"]] = item["metadata"].get("annotations") or {}
            token = page["metadata"].get("continue")
            if not token:
                return found
    except (OSError, HTTPException) as error:
        raise ApiError(f"list Nodes: {describe(error)}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ApiError(f"list Nodes: the API server answers something else: {error!r}") from error
    finally:
        connection.close()


def _page(connection: HTTPSConnection, headers: dict[str, str], token: str) -> dict[str, Any]:
    further = f"&continue={quote(token, safe='')}" if token else ""
    connection.request("GET", f"/api/v1/nodes?limit={PAGE}{further}", headers=headers)
    reply = connection.getresponse()
    page: dict[str, Any] = json.loads(reply.read())
    if reply.status != HTTPStatus.OK:
        raise ApiError(f"list Nodes: the API server answers {reply.status}: {page.get('message')}", status=reply.status)
    return page
