"""WireGuard by the cross-platform userspace socket. Source: wireguard.com/xplatform.

The implementation (wireguard-go, …) runs beside the agent, makes the link and keeps it when the agent goes; this module
only speaks to it.  A set operation is applied line by line, so it is not atomic; every order of lines used here is safe
at each line.
"""

import asyncio
import base64
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_address, ip_network
from itertools import islice
from pathlib import Path
from typing import TypeVar

from wigglenet_operator.errors import KernelError, MissingLink
from wigglenet_operator.kernel.keys import PrivateKey
from wigglenet_operator.model.changes import Changes
from wigglenet_operator.model.desired import Device, Endpoint, Peer
from wigglenet_operator.model.facts import PublicKey

Lines = Sequence[tuple[str, str]]
"""Keys and values of an answer, in order."""
T = TypeVar("T")
REPLY_LIMIT = 1 << 26
"""Bytes; 5,000 peers take 1.2 MB."""
SECONDS = 5
"""The longest that an answer may take; a hung implementation must not hang the agent."""
PRIMED_A_SECOND = 200
"""Handshakes asked for; each costs both sides about a millisecond of CPU, and a large mesh starts all at once."""


class UapiSocket:
    """One implementation's socket, by the name of its link; a connection for each operation."""

    def __init__(self, link: str, directory: Path = Path("/run/wireguard")) -> None:
        self.link = link
        self._path = directory / f"{link}.sock"

    async def read(self, parse: Callable[[Lines], T]) -> T:
        """What `parse` makes of the device's lines; MissingLink if nobody answers, KernelError if they make no sense."""
        lines = [(k, v) for k, _, v in (line.partition("=") for line in await self._exchange(["get=1"]))]
        try:
            return parse(lines)
        except ValueError as error:
            raise KernelError(f"get WireGuard device {self.link}: it does not answer as the protocol says: {error}") from error

    async def set(self, lines: Iterable[str]) -> None:
        """Apply the lines in order; KernelError with the reason of the first that was refused."""
        await self._exchange(["set=1", *lines])

    async def _exchange(self, lines: list[str]) -> list[str]:
        operation = f"{lines[0].partition('=')[0]} WireGuard device {self.link}"
        try:
            async with asyncio.timeout(SECONDS):
                reader, writer = await asyncio.open_unix_connection(self._path, limit=REPLY_LIMIT)
                try:
                    writer.write("".join(f"{line}\n" for line in [*lines, ""]).encode())
                    await writer.drain()
                    reply = await reader.readuntil(b"\n\n")
                finally:
                    writer.close()
        except (FileNotFoundError, ConnectionRefusedError) as error:
            text = f"no WireGuard answers at {self._path}; start a userspace implementation: wireguard-go {self.link}"
            raise MissingLink(text) from error
        except TimeoutError as error:
            raise KernelError(f"{operation}: no answer within {SECONDS} s") from error
        except (OSError, EOFError, asyncio.LimitOverrunError) as error:
            raise KernelError(f"{operation}: {error}") from error
        try:
            *answer, status = (line for line in reply.decode().splitlines() if line)
            number = abs(int(status.removeprefix("errno=")))
        except ValueError as error:
            raise KernelError(f"{operation}: it does not answer as the protocol says: {error}") from error
        if number:
            raise KernelError(f"{operation}: {os.strerror(number)}")
        return answer


class DeviceTable:
    """Key and port of the device."""

    def __init__(self, socket: UapiSocket, key: PrivateKey) -> None:
        self._socket = socket
        self._key = key

    async def observe(self) -> dict[str, Device]:
        """Exactly one device; MissingLink without one."""
        return {self._socket.link: await self._socket.read(parse_device)}

    async def apply(self, changes: Changes[str, Device]) -> None:
        """Load the private key and listen on the port."""
        for device in changes.put.values():
            await self._socket.set([f"private_key={self._key.raw.hex()}", f"listen_port={device.port}"])


class PeerTable:
    """The peers of the device."""

    def __init__(self, socket: UapiSocket) -> None:
        self._socket = socket

    async def observe(self) -> dict[PublicKey, Peer]:
        """May be empty; MissingLink without a device."""
        return await self._socket.read(parse_peers)

    async def apply(self, changes: Changes[PublicKey, Peer]) -> None:
        """Remove, write, and prime what is new: WireGuard's own timers would leave a new pair dark for 5 to 15 s."""
        if changes.remove:
            await self._socket.set(f"public_key={_hex(key)}\nremove=true" for key in changes.remove)
        if changes.change:
            await self._socket.set(render_peers(changes.change))
        left = iter(changes.add.items())
        while batch := dict(islice(left, PRIMED_A_SECOND)):
            await self._socket.set(render_peers(batch, keepalive=1))
            await self._socket.set(
                f"public_key={_hex(k)}\npersistent_keepalive_interval={p.keepalive}" for k, p in batch.items()
            )
            if len(batch) == PRIMED_A_SECOND:
                await asyncio.sleep(1)


def render_peers(peers: Mapping[PublicKey, Peer], *, keepalive: int | None = None) -> Iterator[str]:
    """The lines that make each peer as given, its allowed IPs sorted; `keepalive` stands in for all of theirs."""
    for key, peer in peers.items():
        yield f"public_key={_hex(key)}"
        if peer.endpoint:
            yield f"endpoint={peer.endpoint}"
        yield f"persistent_keepalive_interval={peer.keepalive if keepalive is None else keepalive}"
        yield "replace_allowed_ips=true"
        yield from sorted(f"allowed_ip={network}" for network in peer.allowed_ips)


def parse_device(lines: Lines) -> Device:
    """Key and port of a device's lines; ValueError if they are not such."""
    public, port = None, 0
    for name, value in lines:
        match name:
            case "private_key":
                public = PrivateKey(bytes.fromhex(value)).public
            case "listen_port":
                port = int(value)
            case "public_key":
                break  # the first peer: the device's own lines come before
    return Device(public_key=public, port=port)


def parse_peers(lines: Lines) -> dict[PublicKey, Peer]:
    """The peers of a device's lines (keys are hexadecimal there); ValueError if they are not such."""
    blocks: dict[PublicKey, list[tuple[str, str]]] = {}
    block: list[tuple[str, str]] = []
    for name, value in lines:
        if name == "public_key":
            block = blocks[PublicKey(base64.b64encode(bytes.fromhex(value)).decode())] = []
        else:
            block.append((name, value))
    return {key: _peer(block) for key, block in blocks.items()}


def _peer(block: list[tuple[str, str]]) -> Peer:
    fields = dict(block)
    address, _, port = fields.get("endpoint", "").rpartition(":")
    return Peer(
        endpoint=Endpoint(address=ip_address(address.strip("[]").partition("%")[0]), port=int(port)) if address else None,
        allowed_ips=frozenset(ip_network(value) for name, value in block if name == "allowed_ip"),
        keepalive=int(fields.get("persistent_keepalive_interval", 0)),
        handshake=int(fields.get("last_handshake_time_sec", 0)),
        received=int(fields.get("rx_bytes", 0)),
        sent=int(fields.get("tx_bytes", 0)),
    )


def _hex(key: PublicKey) -> str:
    return base64.b64decode(key).hex()
