"""In which words does a real server 1.37 say no?  `ApiStatus`es with its codes, reasons and messages.

`tests/contract/test_api_server.py` compares them with the real one's.
"""

from dataclasses import dataclass
from http import HTTPStatus

from tests.lab.api.client import ApiStatus, Json

RECREATED = "The object might have been deleted and then recreated"


@dataclass(frozen=True, slots=True)
class Kind:
    """A row of the table of what is served; `plural` is the resource's name in paths."""

    group: str
    version: str
    kind: str
    plural: str
    namespaced: bool = False
    has_status: bool = False

    @property
    def api_version(self) -> str:
        """`v1` for the core group, else `GROUP/VERSION`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """The resource's name as error messages give it: `nodes`, `clusterroles.rbac.authorization.k8s.io`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


def refusal(status: HTTPStatus, reason: str, message: str, **details: str) -> ApiStatus:
    """A Status as a real server writes it."""
    body: Json = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message}
    body |= {"reason": reason, "code": int(status)}
    return ApiStatus(body | ({"details": details} if details else {}))


def bad_request(message: str) -> ApiStatus:
    """The client is wrong, whatever the state."""
    return refusal(HTTPStatus.BAD_REQUEST, "BadRequest", message)


def conflict(what: str, kind: str, name: str, why: str) -> ApiStatus:
    """The object is not the one that was meant; a real server says now `nodes`, now `Node` for `what` and `kind`."""
    message = f'Operation cannot be fulfilled on {what} "{name}": {why}'
    return refusal(HTTPStatus.CONFLICT, "Conflict", message, name=name, kind=kind)


def invalid(kind: Kind, name: str, field: str, why: str) -> ApiStatus:
    """The object may not look like this."""
    message = f'{kind.kind} "{name}" is invalid: {field}: {why}'
    named = {"name": name} if name else {}
    return refusal(HTTPStatus.UNPROCESSABLE_ENTITY, "Invalid", message, **named, kind=kind.kind)


class UnreadableError(Exception):
    """Content that does not fit the kind's fields."""
