"""How to reach the API server from a pod: address from the environment, token and CA from the service account's files."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import ClientError
from kubernetes_asyncio.client import ApiClient, Configuration
from kubernetes_asyncio.client.exceptions import ApiException

from wigglenet_operator.errors import ApiError, ConfigError

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
SECONDS = 30
"""For one request."""
REFUSED = 300
"""HTTP statuses from here on; with the raw reply the client library raises for none of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiAccess:
    """Where the API server is and what proves who we are; the token file is rotated by the kubelet, so it is read again."""

    host: str
    port: int
    directory: Path = SERVICE_ACCOUNT

    @property
    def server(self) -> str:
        """The base URL."""
        return f"https://[{self.host}]:{self.port}" if ":" in self.host else f"https://{self.host}:{self.port}"

    @property
    def ca_file(self) -> Path:
        """PEM."""
        return self.directory / "ca.crt"

    def token(self) -> str:
        """The token of now; OSError if there is none."""
        return (self.directory / "token").read_text().strip()

    def client(self) -> ApiClient:
        """A kubernetes_asyncio client of the running loop; ConfigError if the service account's files are missing."""
        for path in (self.ca_file, self.directory / "token"):
            if not path.exists():
                raise ConfigError(f"{path} is missing; is automountServiceAccountToken off?")
        configuration = Configuration(host=self.server, ssl_ca_cert=str(self.ca_file))
        self._show_token(configuration)  # the library asks the hook only where it has a key already
        configuration.refresh_api_key_hook = self._show_token
        return ApiClient(configuration)

    def _show_token(self, configuration: Configuration) -> None:
        configuration.api_key["BearerToken"] = f"Bearer {self.token()}"


async def ask(  # noqa: PLR0913 - the one door for every request
    api: ApiClient,
    method: str,
    path: str,
    *,
    what: str,
    headers: Mapping[str, str],
    query: Iterable[tuple[str, str]] = (),
    body: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The JSON object that the API server answers; ApiError that begins with `what` if it refuses or does not answer."""
    try:
        reply = await api.call_api(
            *(path, method),
            query_params=list(query),
            header_params={"Accept": "application/json", **headers},
            body=body,
            auth_settings=["BearerToken"],
            _preload_content=False,
            _request_timeout=SECONDS,
        )
        text = await reply.read()
    except (ApiException, ClientError, OSError, TimeoutError) as error:
        raise ApiError(f"{what}: {error or type(error).__name__}") from error
    try:
        answer = json.loads(text)
    except ValueError:
        answer = None
    if reply.status >= REFUSED:
        said = answer.get("message") if isinstance(answer, dict) else text[:200]
        raise ApiError(f"{what}: the API server answers {reply.status}: {said}")
    if not isinstance(answer, dict):
        raise ApiError(f"{what}: the API server answers no object: {text[:200]!r}")
    return answer
