"""What settings were before they were first written, for `cleanup`; kept where a reboot forgets it as it forgets them.

Forwarding of a node is written to each of its links by the kernel, which forgets what they had: what will be overwritten is
remembered, too.  Source: kernel, net/ipv4/devinet.c (inet_forward_change), net/ipv6/addrconf.c (addrconf_forward_change).
"""

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from wigglenet_operator.errors import KernelError
from wigglenet_operator.kernel.files import replace
from wigglenet_operator.kernel.ports import attempt_all
from wigglenet_operator.kernel.sysctls import ACCEPT_RA, read_setting, settings_below, write_setting
from wigglenet_operator.model.changes import Changes

log = logging.getLogger(__name__)
FOLLOWERS = {
    "net/ipv4/ip_forward": (("net/ipv4/conf/*/forwarding", "0", "1"), ("net/ipv4/conf/all/accept_redirects", "1", "0")),
    "net/ipv6/conf/all/forwarding": (("net/ipv6/conf/*/forwarding", "0", "1"),),
}
"""What the kernel writes along: a pattern of paths, the value with 0 and the one with 1."""


OF_WIREGUARD = {"net/ipv4/conf/all/send_redirects": "0"}
"""What WireGuard of the kernel writes for the whole node when its link goes up (drivers/net/wireguard/device.c, wg_open)."""


class Former(NamedTuple):
    """Values of one setting."""

    before: str
    written: str


class FormerSysctls:
    """Settings that were written on this node, as a table: their values by path."""

    def __init__(self, path: Path, *, link: str, root: Path = Path("/")) -> None:
        """`path` is the file; what belongs to our own link goes with it, and is not remembered."""
        self._path, self._link, self._settings = path, f"/{link}/", settings_below(root)
        self._now: dict[str, str] = {}

    def remember(self, wanted: Mapping[str, str]) -> None:
        """Call it before the settings are written; what is remembered already stays. What goes wrong is logged only."""
        try:
            known = self._read()
            new = {name: former for name, former in self._formers(wanted) if name not in known}
            if new:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                replace(self._path, json.dumps({**known, **new}, indent=1).encode(), mode=0o644)
        except (OSError, KernelError) as error:
            text = "what these settings were cannot be remembered, so `cleanup` will leave them: %s"
            log.error(text, error)  # noqa: TRY400 - no bug, and no reason to leave pods without a network

    async def observe(self) -> dict[str, str]:
        """What is remembered as it is now; without what does not exist any more."""
        values = {name: read_setting(self._settings, name) for name in self._read()}
        self._now = {name: value for name, value in values.items() if value is not None}
        return dict(self._now)

    def desired(self) -> dict[str, str]:
        """Of what was observed: as before, where it is as it was written; else as it is, for somebody wants it so."""
        return {name: f.before if f.written == self._now[name] else self._now[name] for name, f in self._there()}

    def foreign(self) -> dict[str, str]:
        """Of what was observed, values that are somebody else's."""
        return {name: self._now[name] for name, former in self._there() if self._now[name] not in former}

    async def apply(self, changes: Changes[str, str]) -> None:
        """Forwarding first, then what the kernel wrote along; accept_ra, which guards a route while it is on, last."""
        wanted = {**self._now, **changes.put}
        first = [name for name in wanted if name in FOLLOWERS]
        last = [name for name in wanted if name.endswith(f"/{ACCEPT_RA}")]
        for names in (first, [name for name in wanted if name not in {*first, *last}], last):
            different = [name for name in names if read_setting(self._settings, name) not in {None, wanted[name]}]
            await attempt_all(write_setting(self._settings, name, wanted[name]) for name in different)

    def _there(self) -> Iterator[tuple[str, Former]]:
        return ((name, former) for name, former in self._read().items() if name in self._now)

    def _formers(self, wanted: Mapping[str, str]) -> Iterator[tuple[str, Former]]:
        """Of all that will be written, by us or along by the kernel, and would not be undone by undoing what we write."""
        for name, written in wanted.items():
            for follower, off, on in self._followers(name):
                if (before := read_setting(self._settings, follower)) not in {None, off}:
                    yield follower, Former(str(before), on)
            before = read_setting(self._settings, name)
            if before is not None and self._link not in name:
                yield name, Former(before, written)

    def _followers(self, name: str) -> Iterator[tuple[str, str, str]]:
        for pattern, off, on in FOLLOWERS.get(name, ()):
            found = (str(path.relative_to(self._settings)) for path in sorted(self._settings.glob(pattern)))
            yield from ((path, off, on) for path in found if path != name and self._link not in path)

    def _read(self) -> dict[str, Former]:
        try:
            found = json.loads(self._path.read_bytes())
            return {str(name): Former(str(before), str(written)) for name, (before, written) in found.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            remedy = "look at it, then remove it: settings stay as they are"
            raise KernelError(f"read {self._path}, which has what settings were: {error}; {remedy}") from error
