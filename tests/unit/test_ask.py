"""Talk with an API server that misbehaves: every refusal and every silence is an ApiError that says what was asked."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import ClientError, ClientSession, web
from aiohttp.test_utils import TestServer
from kubernetes_asyncio.client import ApiClient, Configuration

from wigglenet_operator.errors import ApiError, ConfigError
from wigglenet_operator.kube.access import ApiAccess, TimedClient
from wigglenet_operator.kube.census import list_nodes, list_service_ranges
from wigglenet_operator.kube.publish import AnnotationTable
from wigglenet_operator.model.facts import NodeName

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def application(handler: Handler) -> web.Application:
    """One that answers everything by `handler`."""
    made = web.Application()
    made.router.add_route("*", "/{path:.*}", handler)
    return made


def against(handler: Handler, work: Callable[[ApiClient], Awaitable[Any]]) -> Any:
    """What `work` gives with a client of a server on loopback that answers everything by `handler`."""

    async def main() -> Any:
        runner = web.AppRunner(application(handler), shutdown_timeout=0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        try:
            async with TimedClient(Configuration(host=f"http://{host}:{port}")) as api:
                return await work(api)
        finally:
            await runner.cleanup()

    return asyncio.run(main())


def test_requests_are_told_with_what_became_of_them() -> None:
    told: list[tuple[str, int]] = []
    access = ApiAccess(host="127.0.0.1", port=1, asked=lambda method, status: told.append((method, status)))

    async def handler(request: web.Request) -> web.StreamResponse:
        return await hanging_up(request) if request.path == "/gone" else web.Response(status=403)

    async def main() -> None:
        async with TestServer(application(handler)) as server, ClientSession(middlewares=(access.counted,)) as session:
            for method, path in (("GET", "/"), ("PATCH", "/gone")):
                with suppress(ClientError):
                    await session.request(method, server.make_url(path))

    asyncio.run(main())

    assert told == [("GET", 403), ("PATCH", 0)]


async def annotate(api: ApiClient) -> None:
    table = AnnotationTable(api, NodeName("a"), names=(), published=dict, answered=lambda _: None)
    await table.write({"wigglenet/x": "1"})


def answering(text: str, *, status: int = 200) -> Handler:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(text=text, status=status, content_type="application/json")

    return handler


async def hanging_up(request: web.Request) -> web.Response:
    assert request.transport
    request.transport.close()
    return web.Response()


@pytest.mark.parametrize("work", [annotate, list_nodes])
@pytest.mark.parametrize(
    ("handler", "told"),
    [
        (answering('{"kind":"Status","message":"nodes is forbidden"}', status=403), "answers 403: nodes is forbidden"),
        (answering("<html>bad gateway</html>", status=502), "answers 502"),
        (answering('{"message":"Unauthorized"}', status=401), "answers 401: Unauthorized"),
        (answering("null"), "answers no object"),
        (answering("[]"), "answers no object"),
        (answering("{"), "answers no object"),
        (answering("{}"), "(the server did not keep wigglenet/x|answers something else)"),
        (hanging_up, "disconnected"),
    ],
)
def test_what_goes_wrong_is_an_api_error_that_names_it(
    work: Callable[[ApiClient], Awaitable[Any]], handler: Handler, told: str
) -> None:
    with pytest.raises(ApiError, match=f"(?i)^(annotate node a|list Nodes): .*{told}"):
        against(handler, work)


def test_nobody_listening_is_an_api_error() -> None:
    async def main() -> None:
        async with TimedClient(Configuration(host="http://127.0.0.1:9")) as api:
            await annotate(api)

    with pytest.raises(ApiError, match="annotate node a: "):
        asyncio.run(main())


def test_a_census_takes_every_page() -> None:
    pages = {"": ("1", "next"), "next": ("2", "")}

    async def handler(request: web.Request) -> web.Response:
        uid, token = pages[request.query.get("continue", "")]
        item = {"metadata": {"uid": uid, "resourceVersion": f"v{uid}"}}
        return web.json_response({"metadata": {"continue": token}, "items": [item]})

    assert against(handler, list_nodes) == {"1": "v1", "2": "v2"}


def test_a_rotated_token_is_shown_with_the_next_request(tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.crt"))
    shown: list[str | None] = []

    async def handler(request: web.Request) -> web.Response:
        shown.append(request.headers.get("Authorization"))
        return web.json_response({"metadata": {}, "items": []})

    async def rotate(plain: ApiClient) -> None:
        access = ApiAccess(host="127.0.0.1", port=1, directory=tmp_path)
        (tmp_path / "token").write_text("old")
        async with access.client() as api:
            api.configuration.host = plain.configuration.host
            await list_nodes(api)
            (tmp_path / "token").write_text("new")
            await list_nodes(api)

    against(handler, rotate)
    assert shown == ["Bearer old", "Bearer new"]


def test_a_missing_service_account_says_what_to_look_at(tmp_path: Path) -> None:
    async def connect() -> None:
        async with ApiAccess(host="127.0.0.1", port=1, directory=tmp_path).client():
            pass

    with pytest.raises(ConfigError, match="is automountServiceAccountToken off"):
        asyncio.run(connect())


def test_a_server_with_a_certificate_of_a_new_authority_is_trusted_once_the_file_has_it(tmp_path: Path) -> None:
    """Open clients follow the file, and the authority of before stays trusted."""
    old, new = trustme.CA(), trustme.CA()
    old.cert_pem.write_to_path(str(tmp_path / "ca.crt"))
    (tmp_path / "token").write_text("t")

    async def handler(_: web.Request) -> web.Response:
        return web.json_response({"metadata": {}, "items": []}, headers={"Connection": "close"})

    async def main() -> None:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", handler)
        runner = web.AppRunner(application, shutdown_timeout=0)
        await runner.setup()
        contexts = [ssl.create_default_context(ssl.Purpose.CLIENT_AUTH) for _ in range(2)]
        for authority, context in zip((old, new), contexts, strict=True):
            authority.issue_cert("127.0.0.1").configure_cert(context)
            await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        before, after = (address[1] for address in runner.addresses)
        access = ApiAccess(host="127.0.0.1", port=before, directory=tmp_path)
        async with access.client() as api:
            await list_nodes(api)
            api.configuration.host = f"https://127.0.0.1:{after}"
            with pytest.raises(ApiError, match="certificate verify failed"):
                await list_nodes(api)
            (tmp_path / "ca.crt").write_text("half a fi")
            with pytest.raises(ApiError, match="certificate verify failed"):
                await list_nodes(api)
            new.cert_pem.write_to_path(str(tmp_path / "ca.crt"))
            await list_nodes(api)
            api.configuration.host = f"https://127.0.0.1:{before}"
            await list_nodes(api)
        await runner.cleanup()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("status", "text", "found"),
    [
        (200, '{"items":[{"spec":{"cidrs":["10.96.0.0/16","fd00::/112"]}},{"spec":{}}]}', {"10.96.0.0/16", "fd00::/112"}),
        (404, '{"message":"no such resource"}', None),
        (403, '{"message":"forbidden"}', None),
    ],
)
def test_service_ranges_are_listed_where_they_are_served(status: int, text: str, found: set[str] | None) -> None:
    ranges = against(answering(text, status=status), list_service_ranges)

    assert found == (None if ranges is None else {str(one) for one in ranges})


@pytest.mark.parametrize(("status", "text"), [(500, "{}"), (200, '{"items":[{"spec":{"cidrs":["x"]}}]}'), (200, "{}")])
def test_service_ranges_that_cannot_be_read_are_an_api_error(status: int, text: str) -> None:
    with pytest.raises(ApiError, match="list ServiceCIDRs: "):
        against(answering(text, status=status), list_service_ranges)


def test_an_error_without_words_is_told_by_its_name() -> None:
    class Silent(ApiClient):  # type: ignore[misc]  # the library has no types
        async def call_api(self, *_: object, **__: object) -> None:
            raise TimeoutError

    async def main() -> None:
        api = Silent(Configuration(host="http://127.0.0.1:9"))
        api.seconds = 1
        try:
            await list_nodes(api)
        finally:
            await api.close()

    with pytest.raises(ApiError, match=r"^list Nodes: TimeoutError$"):
        asyncio.run(main())
