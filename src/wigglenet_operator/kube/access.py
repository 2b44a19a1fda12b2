"""How to reach the API server: from a pod by environment and service account, from anywhere by a kubeconfig."""

import json
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import ClientError, ClientHandlerType, ClientRequest, ClientResponse, ClientSession, TCPConnector
from yaml import YAMLError

from wigglenet_operator.errors import ApiError, ConfigError, describe
from wigglenet_operator.kube.library import ApiClient, ApiException, ConfigException, Configuration, load_kube_config
from wigglenet_operator.kube.one_shot import SERVICE_ACCOUNT
from wigglenet_operator.model.timing import PRODUCTION, Timing

log = logging.getLogger(__name__)
REFUSED = 300
"""HTTP statuses from here on; with the raw reply the client library raises for none of them."""


class TimedClient(ApiClient):  # type: ignore[misc]  # the library has no types
    """A client that waits so many seconds for the answer to one request."""

    seconds: float = PRODUCTION.request


@dataclass(slots=True, kw_only=True)
class ApiAccess:
    """Where the API server is and what proves who is who; both files are rotated by the kubelet, so they are read again."""

    host: str
    port: int
    directory: Path = SERVICE_ACCOUNT
    timing: Timing = PRODUCTION
    asked: Callable[[str, int], None] = lambda _method, _status: None
    """Told, in the thread that asked, of each request: its method and the status of the answer, 0 if there was none."""
    _context: ssl.SSLContext | None = field(default=None, init=False)
    _trusted: str = field(default="", init=False)

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

    def bearer(self) -> str:
        """The Authorization header of the next request, which also trusts who vouches for the server by now."""
        self.tls()
        return f"Bearer {self.token()}"

    def tls(self) -> ssl.SSLContext:
        """Always the same context, so that open sessions follow the CA file; what it held before stays trusted."""
        if self._context is None:
            self._context = ssl.create_default_context(cafile=str(self.ca_file))
            self._trusted = self.ca_file.read_text()
            return self._context
        try:
            if (text := self.ca_file.read_text()) != self._trusted:
                self._trusted = text
                self._context.load_verify_locations(cadata=text)
                log.info("%s has changed and is trusted from now on", self.ca_file)
        except (OSError, ssl.SSLError) as error:  # half written: the next request looks again
            log.warning("%s cannot be used, the CA of before stays: %s", self.ca_file, error)
        return self._context

    @asynccontextmanager
    async def client(self) -> AsyncIterator[ApiClient]:
        """A kubernetes_asyncio client of the running loop; ConfigError if the service account's files are missing."""
        for path in (self.ca_file, self.directory / "token"):
            if not path.exists():
                raise ConfigError(f"{path} is missing; is automountServiceAccountToken off?")
        configuration = Configuration(host=self.server)
        self._show_token(configuration)  # the library asks the hook only where it has a key already
        configuration.refresh_api_key_hook = self._show_token
        async with TimedClient(configuration) as api:
            api.seconds = self.timing.request
            await api.rest_client.pool_manager.close()  # it trusts what is given at its start, for ever
            api.rest_client.pool_manager = ClientSession(connector=TCPConnector(ssl=self.tls()), middlewares=(self.counted,))
            yield api

    async def counted(self, request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        """Middleware of every session: `asked` is told."""
        status = 0
        try:
            response = await handler(request)
            status = response.status
            return response
        finally:
            self.asked(request.method, status)

    def _show_token(self, configuration: Configuration) -> None:
        configuration.api_key["BearerToken"] = self.bearer()


@asynccontextmanager
async def kubeconfig_client(path: str | None, context: str | None) -> AsyncIterator[ApiClient]:
    """A client as kubectl would have one: of `path`, else KUBECONFIG, else ~/.kube/config; ConfigError if that is none."""
    configuration = Configuration()
    try:
        await load_kube_config(config_file=path, context=context, client_configuration=configuration)
        api = TimedClient(configuration)  # which reads the certificates
    except (ConfigException, OSError, ValueError, TypeError, LookupError, AttributeError, YAMLError) as error:
        raise ConfigError(f"kubeconfig{f' {path}' if path else ''}: {error}") from error
    async with api:
        yield api


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
            _request_timeout=api.seconds,
        )
        text = await reply.read()
    except (ApiException, ClientError, OSError, TimeoutError) as error:
        raise ApiError(f"{what}: {describe(error)}") from error
    try:
        answer = json.loads(text)
    except ValueError:
        answer = None
    if reply.status >= REFUSED:
        said = answer.get("message") if isinstance(answer, dict) else text[:200]
        raise ApiError(f"{what}: the API server answers {reply.status}: {said}", status=reply.status)
    if not isinstance(answer, dict):
        raise ApiError(f"{what}: the API server answers no object: {text[:200]!r}")
    return answer
