"""Which API server does a lab run against?  Two that keep one contract: `kube` is the real one, `embedded` a small one.

`kube` is etcd and kube-apiserver: the truth, but 8 s to start and 10 minutes to build where no binary is at hand.
`embedded` lives in this process, starts in milliseconds, counts requests and misbehaves if asked to.  The suite
`tests/contract/test_api_server.py` runs on both, so what passes on the small one is not an artefact of it.  Both serve TLS
inside of a place only, and neither leaves key material on a disk.
"""

from typing import Literal, Protocol, assert_never

from tests.lab.api.client import ApiStatus, Client, Json
from tests.lab.api.embedded import EmbeddedServer
from tests.lab.namespaces import Place

__all__ = ["ApiServer", "ApiStatus", "Client", "EmbeddedServer", "Json", "Kind", "api_server"]

Kind = Literal["kube", "embedded"]


class ApiServer(Protocol):
    """An API server in a place, with namespace kube-system and nothing of ours in it yet."""

    @property
    def name(self) -> Kind:
        """Which of the two."""

    @property
    def url(self) -> str:
        """`https://ADDRESS:6443`, as nodes reach it."""

    @property
    def ca_pem(self) -> str:
        """The certificate that vouches for the server's."""

    @property
    def admin(self) -> Client:
        """A client that may do everything."""

    def client(self, token: str) -> Client:
        """A client that may do what the bearer of `token` may."""

    def start(self) -> None:
        """Return when /readyz says ok; RuntimeError with the server's last words if it never does. After stop() too."""

    def stop(self) -> None:
        """End the server, keep its objects and the CA for the next start(); twice is fine."""

    def forget_history(self) -> None:
        """Make every watch and `continue` from before now answer 410, as hours of a busy cluster do."""

    def snapshot(self) -> None:
        """Keep objects and versions as they are for restore(); the server may be started anew for it."""

    def restore(self) -> None:
        """Have objects and versions as they were at snapshot(), as etcd does; the server is started anew."""


def api_server(kind: Kind, place: Place, address: str) -> ApiServer:
    """A server that is not yet started; `address` must be one of the place's by then."""
    match kind:
        case "embedded":
            return EmbeddedServer(place, address)
        case "kube":
            # Here, for `python -m tests.lab.api.kube_binary` imports this package first and must not find itself loaded.
            from tests.lab.api.kube import KubeServer  # noqa: PLC0415

            return KubeServer(place, address)
        case _:
            assert_never(kind)
