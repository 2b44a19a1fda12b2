"""Kernel settings below /proc/sys, by path. Source: kernel, Documentation/networking/ip-sysctl.rst."""

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from wigglenet_operator.errors import KernelError
from wigglenet_operator.kernel.ports import attempt_all
from wigglenet_operator.model.changes import Changes

log = logging.getLogger(__name__)
WRITABLE = "host/proc/sys"
"""Where the manifest has the node's `/proc/sys/net`: a container's own /proc/sys is mounted read-only."""
ACCEPT_RA = "accept_ra"
KERNELS = frozenset({"1", "2"})
"""Values of accept_ra with which the kernel listens to router advertisements; at 0 somebody else may."""


IPV6_OFF = "net/ipv6/conf/{}/disable_ipv6"
"""Takes IPv6 off every link (`all`), or off each new one (`default`); without it the kernel has no IPv6."""


def settings_below(root: Path) -> Path:
    """Where this node's `/proc/sys` can be written."""
    return root / WRITABLE if (root / WRITABLE).is_dir() else root / "proc/sys"


def ip_versions(root: Path = Path("/"), *, of: str = "all") -> frozenset[int]:
    """What the kernel serves here; with `default`, what a link has that is made now, such as a pod's."""
    try:
        off = any((settings_below(root) / IPV6_OFF.format(name)).read_text().strip() != "0" for name in {"all", of})
    except OSError:
        off = True
    return frozenset({4} if off else {4, 6})


class SysctlTable:
    """The settings that a plan may name, and accept_ra of links whose default route a router advertisement made."""

    def __init__(
        self,
        names: Iterable[str],
        advertised: Callable[[], Iterable[str]],
        remember: Callable[[Mapping[str, str]], None],
        root: Path = Path("/"),
    ) -> None:
        """`advertised` tells those links by name, `remember` is called with what will be written."""
        self._names, self._advertised, self._remember = tuple(names), advertised, remember
        self._settings = settings_below(root)

    async def observe(self) -> dict[str, str]:
        """Value by path; a setting that does not exist (its link is missing) is not in it."""
        found = {name: value for name in self._names if (value := read_setting(self._settings, name)) is not None}
        accepting = (f"net/ipv6/conf/{link}/{ACCEPT_RA}" for link in self._advertised())
        return found | {name: value for name in accepting if (value := read_setting(self._settings, name)) in KERNELS}

    async def apply(self, changes: Changes[str, str]) -> None:
        """Write every setting that can be written; each change is logged, for it concerns the whole node.

        accept_ra comes first: forwarding would drop the default route of an advertisement at once, and for good.
        """
        self._remember(changes.put)
        first = [name for name in changes.put if name.endswith(ACCEPT_RA)]
        for names in (first, [name for name in changes.put if name not in first]):
            await attempt_all(write_setting(self._settings, name, changes.put[name]) for name in names)


def read_setting(settings: Path, name: str) -> str | None:
    """Its value; None if it does not exist, KernelError if it cannot be read."""
    try:
        return (settings / name).read_text().strip()
    except FileNotFoundError:
        return None
    except OSError as error:  # a link that goes while it is read: EINVAL, ENODEV
        raise KernelError(f"read {name}: {error.strerror}") from error


async def write_setting(settings: Path, name: str, value: str) -> None:
    """Write it, and log that; KernelError if it is refused."""
    try:
        (settings / name).write_text(value)
    except OSError as error:
        raise KernelError(f"set {name} to {value}: {error.strerror}") from error
    log.info("set %s = %s", name, value)
