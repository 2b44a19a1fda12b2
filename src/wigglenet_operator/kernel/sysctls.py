"""Kernel settings below /proc/sys, by path. Source: kernel, Documentation/networking/ip-sysctl.rst."""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

from wigglenet_operator.errors import KernelError
from wigglenet_operator.kernel.ports import attempt_all
from wigglenet_operator.model.changes import Changes

log = logging.getLogger(__name__)
FORWARDING = "net/ipv6/conf/all/forwarding"
WRITABLE = "host/proc/sys"
"""Where the manifest has the node's `/proc/sys/net`: a container's own /proc/sys is mounted read-only."""
RTF_DEFAULT_BY_RA = 0x10000 | 0x40000
"""RTF_DEFAULT and RTF_ADDRCONF of linux/ipv6_route.h: a default route that a router advertisement made."""


class SysctlTable:
    """The settings that a plan may name; nothing else is read or written."""

    def __init__(self, names: Iterable[str], root: Path = Path("/")) -> None:
        self._names = tuple(names)
        self._proc = root / "proc"
        self._settings = root / WRITABLE if (root / WRITABLE).is_dir() else self._proc / "sys"

    async def observe(self) -> dict[str, str]:
        """Value by path; a setting that does not exist (its link is missing) is not in it."""
        return {name: value for name in self._names if (value := self._read(name)) is not None}

    async def apply(self, changes: Changes[str, str]) -> None:
        """Write every setting that can be written; each change is logged, for it concerns the whole node."""
        if FORWARDING in changes.put:
            await attempt_all(self._write(name, "2") for name in self._advertised_defaults())
        await attempt_all(self._write(name, value) for name, value in changes.put.items())

    def _advertised_defaults(self) -> list[str]:
        """What must be 2 before forwarding is 1, which else drops the default route of a router advertisement for good."""
        names = {f"net/ipv6/conf/{link}/accept_ra" for link in self._links_with_advertised_default()}
        return sorted(name for name in names if self._read(name) == "1")

    def _links_with_advertised_default(self) -> Iterator[str]:
        table = self._proc / "net/ipv6_route"
        for line in table.read_text().splitlines() if table.exists() else ():
            to, length, *_, flags, link = line.split()
            is_default = int(to, 16) == 0 and int(length, 16) == 0
            if is_default and int(flags, 16) & RTF_DEFAULT_BY_RA == RTF_DEFAULT_BY_RA:
                yield link

    def _read(self, name: str) -> str | None:
        try:
            return (self._settings / name).read_text().strip()
        except FileNotFoundError:
            return None
        except OSError as error:  # a link that goes while it is read: EINVAL, ENODEV
            raise KernelError(f"read {name}: {error.strerror}") from error

    async def _write(self, name: str, value: str) -> None:
        try:
            (self._settings / name).write_text(value)
        except OSError as error:
            raise KernelError(f"set {name} to {value}: {error.strerror}") from error
        log.info("set %s = %s", name, value)
