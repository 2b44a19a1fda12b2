"""The CNI configuration file: there only while this node can take pods, never half written."""

import logging
import os
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

from wigglenet_operator.errors import KernelError
from wigglenet_operator.kernel.files import replace
from wigglenet_operator.model.changes import Changes

log = logging.getLogger(__name__)
CONFIGURATIONS = (".conf", ".conflist", ".json")
"""What container runtimes read of the directory, and of that the first by name (libcni, ConfFiles)."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def leased(directory: Path) -> dict[str, list[str]]:
    """Addresses by the id of the pod's sandbox, as host-local keeps them in the network's directory; may be empty."""
    found: dict[str, list[str]] = {}
    with suppress(OSError):  # no directory, no pods
        for path in sorted(directory.iterdir()):
            with suppress(ValueError, OSError):  # its lock, what it gave last, a lease that ends meanwhile
                address, sandbox = str(ip_address(path.name)), path.read_text().partition("\n")[0].strip()
                found.setdefault(sandbox, []).append(address)
    return found


class CniFileTable:
    """Our one file; other files of the directory are never touched."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def observe(self) -> dict[str, str]:
        """Its text by its path; empty if there is none."""
        try:
            return {str(self._path): self._path.read_text()}
        except FileNotFoundError:
            return {}
        except (OSError, UnicodeDecodeError) as error:
            raise KernelError(f"read {self._path}: {error}") from error

    async def apply(self, changes: Changes[str, str]) -> None:
        """Replace or remove the file in one step."""
        try:
            for text in changes.put.values():
                self._path.parent.mkdir(parents=True, exist_ok=True)
                replace(self._path, text.encode(), mode=0o644)
            if changes.remove:
                self._path.unlink(missing_ok=True)
        except OSError as error:
            raise KernelError(f"write {self._path}: {error.strerror}") from error

    def earlier(self) -> frozenset[str]:
        """Configurations of others that the container runtime takes rather than ours, as text of UTF-8; may be empty."""
        try:
            names = [entry.name for entry in os.scandir(self._path.parent) if entry.is_file()]
        except OSError:  # no directory, no configuration
            return frozenset()
        found = (name for name in names if name < self._path.name and name.endswith(CONFIGURATIONS))
        return frozenset(os.fsencode(self._path.with_name(name)).decode(errors="replace") for name in found)

    def forget_last_boot(self, marker: Path) -> bool:
        """Remove the file if it is of an earlier boot, and mark this one; whether it was removed.

        The file outlives a reboot, links and routes do not: a kubelet that finds it would start pods without a network.
        """
        boot = BOOT_ID.read_bytes()
        with suppress(OSError):  # without a marker that can be read, nobody knows of which boot the file is
            if marker.read_bytes() == boot:
                return False
        try:
            stale = self._path.exists()
            self._path.unlink(missing_ok=True)
        except OSError as error:
            raise KernelError(f"remove {self._path} of an earlier boot: {error.strerror}") from error
        try:
            marker.parent.mkdir(parents=True, exist_ok=True)
            marker.write_bytes(boot)
        except OSError as error:
            text = "each start of the agent will take the CNI file away until this node can take pods"
            log.error("the boot cannot be marked in %s (%s); %s", marker, error.strerror, text)  # noqa: TRY400 - no bug
        return stale
