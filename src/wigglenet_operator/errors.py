"""What can go wrong, by who can mend it.

WigglenetError
    ConfigError     settings or a file named by them are wrong: the message says which and how to fix it; exit status 2
    KernelError     this node refused an operation; retried with a capped back-off
        MissingLink     nothing that speaks WireGuard holds the link (yet)
    PendingError    a write goes on; its end is an event
    ApiError        the API server refused or is away; the data plane goes on
"""

from http import HTTPStatus


class WigglenetError(Exception):
    """The root of everything that this package raises on purpose."""


def describe(error: BaseException) -> str:
    """The words of an error, or its name if it has none: a time-out often has none."""
    return str(error) or type(error).__name__


class ConfigError(WigglenetError):
    """The administrator has to change something; the message has one mistake a line."""


class KernelError(WigglenetError):
    """The kernel, or a process beside it, refused; the message names operation and object."""


class MissingLink(KernelError):  # noqa: N818 - a state of the node, named as one in logs
    """There is no WireGuard link to configure."""


class PendingError(WigglenetError):
    """A write has begun and is neither done nor refused; whoever does it asks for a reconcile pass when it ends."""


class ApiError(WigglenetError):
    """The API server refused or did not answer; the message names operation and object."""

    def __init__(self, message: str, *, status: int = 0) -> None:
        """`status` is the HTTP status of a refusal, 0 if nobody answered."""
        super().__init__(message)
        self.status = status

    @property
    def refused(self) -> bool:
        """Whether it is for an administrator to mend; if not, the server is in trouble, or away."""
        return self.status in range(400, 500) and self.status != HTTPStatus.TOO_MANY_REQUESTS
