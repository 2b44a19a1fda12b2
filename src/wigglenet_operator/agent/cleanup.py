"""What the product made of this node goes, and what it changed is as before: `wigglenet-operator cleanup`.

Nothing is remembered of what was made: it is found as the agent finds it, in every mode, also after a crash half-way.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack, closing
from http import HTTPStatus
from itertools import chain
from pathlib import Path
from typing import Any

from wigglenet_operator.agent.mesh import BOOT_MARKER, FORMER_SYSCTLS
from wigglenet_operator.errors import ApiError, KernelError, WigglenetError
from wigglenet_operator.kernel.at_work import only_agent
from wigglenet_operator.kernel.cni_file import CniFileTable, leased
from wigglenet_operator.kernel.files import OwnFiles, unfinished
from wigglenet_operator.kernel.former_sysctls import FormerSysctls
from wigglenet_operator.kernel.link import HOLDERS
from wigglenet_operator.kernel.nft import NftTable
from wigglenet_operator.kernel.nft_watch import NftWatch
from wigglenet_operator.kernel.ports import KeyedTable
from wigglenet_operator.kernel.rtnl import RouteTable, Rtnl
from wigglenet_operator.kernel.wg_uapi import UapiDevice
from wigglenet_operator.kernel.wireguard import DeviceTable, WireGuardLink
from wigglenet_operator.kube.access import ApiAccess, ask
from wigglenet_operator.kube.decode import NETWORK_UNAVAILABLE
from wigglenet_operator.kube.library import ApiClient
from wigglenet_operator.kube.publish import REASON, AnnotationTable, remove_condition
from wigglenet_operator.model.changes import Changes, diff
from wigglenet_operator.model.config import AgentConfig
from wigglenet_operator.model.desired import Route, RouteKey, RouteKind
from wigglenet_operator.model.facts import NodeName
from wigglenet_operator.model.ruleset import FAMILY, TABLE
from wigglenet_operator.plan.cni import DATA_DIR, NETWORK
from wigglenet_operator.plan.desired import IDENTITY, STATUS

PUBLISHED = IDENTITY | {STATUS}
LEASES = Path(DATA_DIR, NETWORK)
KEY_HOME = Path("/etc/wigglenet")
"""The one directory of a key that nobody else has a use for."""
SHOWN = 4
"""Addresses of pods that a line repeats."""
Lines = Callable[[Changes[Any, Any]], Iterable[str]]
"""What was changed, in words."""
END_AGENTS = "kubectl -n kube-system delete ds -l app.kubernetes.io/name=wigglenet-operator"


async def clean(config: AgentConfig, access: ApiAccess, *, purge: bool, dry_run: bool, say: Callable[[str], None]) -> bool:
    """Whether all that is ours has gone, or would go; `say` gets a line for each thing. KernelError beside an agent.

    What cannot be removed is named, and holds up nothing else.
    """
    async with AsyncExitStack() as stack:
        if not dry_run:
            stack.enter_context(_alone(config.link))
        rtnl = await stack.enter_async_context(Rtnl(config.link))
        return await _Cleanup(config, access, rtnl, dry_run=dry_run, say=say).run(purge=purge)


def _alone(link: str) -> closing[Any]:
    try:
        return closing(only_agent(link))
    except KernelError as error:
        raise KernelError(f"nothing was removed, for the agent would put it back; end it first: {END_AGENTS}") from error


class _Cleanup:
    """One run: each part is looked at, removed and told before the next one."""

    def __init__(
        self, config: AgentConfig, access: ApiAccess, rtnl: Rtnl, *, dry_run: bool, say: Callable[[str], None]
    ) -> None:
        self._config, self._access, self._rtnl = config, access, rtnl
        self._dry_run, self._say = dry_run, say
        self._found = self._failed = False

    async def run(self, *, purge: bool) -> bool:
        """First what starts pods; closed routes after all other ways; the Node last, for its server may be slow or away."""
        self._tell_of_pods()
        cni = Path(self._config.cni_path)
        await self._part(str(cni), CniFileTable(cni), _paths)
        await self._routes(RouteKind.TUNNEL)
        await self._link()
        await self._firewall()
        await self._routes(RouteKind.CLOSED)
        restored = await self._sysctls()
        await self._part("files", self._own_files(purge=purge, restored=restored), _paths)
        await self._annotations()
        if self._failed:
            self._say("not everything is done: mend what is named above, and run it again")
        elif not self._found:
            self._say("nothing to remove")
        return not self._failed

    def _tell_of_pods(self) -> None:
        pods = leased(LEASES)
        addresses = [*chain.from_iterable(pods.values())]
        if pods:
            shown = ", ".join(addresses[:SHOWN]) + (", …" if len(addresses) > SHOWN else "")
            text = "without it they are cut off, and end only when another network plugin is there; drain a node before"
            self._say(f"pods with addresses of this network: {len(pods)} ({shown}): {text}")

    async def _routes(self, kind: RouteKind) -> None:
        def ours(actual: Mapping[RouteKey, Route]) -> Changes[RouteKey, Route]:
            return diff({key: route for key, route in actual.items() if route.ours}, {})

        what = f"route dev {self._config.link}" if kind is RouteKind.TUNNEL else f"route {kind.value}"
        table = RouteTable(self._rtnl, kind)
        await self._part(f"{what} …", table, lambda changes: (f"{what} {key.to}" for key in changes.remove), wanted=ours)

    async def _link(self) -> None:
        name = self._config.link
        try:
            link = self._rtnl.own_link()
        except KernelError as error:
            self._left(f"link {name}", error)
            return
        if link and link.kind not in HOLDERS:
            self._say(f"left link {name}: it is no WireGuard ({link.kind or 'a device of its own'}), so it is not ours")
            return
        wireguard = WireGuardLink(self._rtnl, self._config.wireguard, UapiDevice(name), leftover=True)
        await self._part(f"link {name}", DeviceTable(wireguard, None), lambda changes: (f"link {n}" for n in changes.remove))

    async def _firewall(self) -> None:
        what = f"table {FAMILY} {TABLE}"
        try:
            watch = NftWatch()
        except KernelError as error:
            self._left(what, error)
            return
        with closing(watch):
            await self._part(what, NftTable(watch), lambda changes: [what] if changes else [])

    async def _sysctls(self) -> bool:
        former = FormerSysctls(FORMER_SYSCTLS, link=self._config.link)
        done = await self._part(
            "settings",
            former,
            lambda changes: (f"{name} = {value}" for name, value in changes.put.items()),
            wanted=lambda actual: diff(actual, former.desired()),
            verbs=("restore", "restored"),
        )
        for name, value in former.foreign().items() if done else ():
            self._say(f"left {name} = {value}: somebody else has set it since")
        return done

    def _own_files(self, *, purge: bool, restored: bool) -> OwnFiles:
        key, cni = Path(self._config.key_path), Path(self._config.cni_path)
        paths = [unfinished(cni), BOOT_MARKER, *([FORMER_SYSCTLS, unfinished(FORMER_SYSCTLS)] if restored else [])]
        homes = [BOOT_MARKER.parent]
        if purge:
            aside = key.parent.glob(f"{key.name}.corrupt-[0-9]*")
            paths += [key, unfinished(key), *sorted(aside), LEASES]
            homes += [KEY_HOME, LEASES.parent]
        elif key.is_file():
            self._say(f"left {key}: by this key the other nodes know this one; --purge removes it")
        return OwnFiles(paths, homes=homes)

    async def _annotations(self) -> None:
        node = self._config.node_name
        what = f"annotations of node {node}"
        try:
            async with self._access.client() as api:
                found = await _node(api, node)
                await self._condition(api, found)
                there = (found.get("metadata") or {}).get("annotations") or {}
                table = AnnotationTable(api, node, names=PUBLISHED, published=lambda: there, answered=lambda _: None)
                await self._part(what, table, lambda changes: (f"annotation {name}" for name in changes.remove))
        except (WigglenetError, OSError) as error:
            self._left(what, error)

    async def _condition(self, api: ApiClient, node: Mapping[str, Any]) -> None:
        """By its reason it is ours."""
        conditions = (node.get("status") or {}).get("conditions") or ()
        if not any((c.get("type"), c.get("reason")) == (NETWORK_UNAVAILABLE, REASON) for c in conditions):
            return
        what = f"condition {NETWORK_UNAVAILABLE} of node {self._config.node_name}"
        try:
            if not self._dry_run:
                await remove_condition(api, self._config.node_name)
        except ApiError as error:
            self._left(what, error)
            return
        self._found = True
        self._say(f"would remove {what}" if self._dry_run else f"removed {what}")

    async def _part(
        self,
        what: str,
        table: KeyedTable[Any, Any],
        lines: Lines,
        *,
        wanted: Callable[[Mapping[Any, Any]], Changes[Any, Any]] = lambda actual: diff(actual, {}),
        verbs: tuple[str, str] = ("remove", "removed"),
    ) -> bool:
        """Bring the table to what is wanted, which is nothing; whether that could be done."""
        try:
            changes = wanted(await table.observe())
            if changes and not self._dry_run:
                await table.apply(changes)
        except WigglenetError as error:
            self._left(what, error, verbs[1])
            return False
        for line in lines(changes):
            self._found = True
            self._say(f"would {verbs[0]} {line}" if self._dry_run else f"{verbs[1]} {line}")
        return True

    def _left(self, what: str, error: Exception, verb: str = "removed") -> None:
        self._failed = True
        self._say(f"NOT {verb.upper()} {what}: {error}")


async def _node(api: ApiClient, node: NodeName) -> Mapping[str, Any]:
    """The Node; empty without one."""
    try:
        return await ask(api, "GET", f"/api/v1/nodes/{node}", what=f"read node {node}", headers={})
    except ApiError as error:
        if error.status == HTTPStatus.NOT_FOUND:
            return {}
        raise


def _paths(changes: Changes[str, Any]) -> Iterable[str]:
    return changes.remove
