"""A Node object as the API server sends it -> NodeFacts. Never raises: what cannot be read is left out and named."""

import base64
import binascii
import json
from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_address, ip_network
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from wigglenet_operator.kube.schema import Metadata, Spec, Status
from wigglenet_operator.model.facts import IPAddress, IPNetwork, NodeFacts, NodeName, NodeUID, PublicKey
from wigglenet_operator.model.report import Problem
from wigglenet_operator.plan.desired import NODE_IPS, POD_CIDRS, PUBLIC_KEY

PREFIX = "wigglenet/"
KEY_BYTES = 32
SHOWN = 60
"""Characters of a bad value that a problem repeats."""
NAMED = 5
"""Bad values of one field that are named one by one."""
M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")


def decode_node(body: Mapping[str, Any], *, own: NodeName) -> NodeFacts | Problem:
    """The facts of a Node, with a problem for each field that cannot be used; a Problem if it has no name or UID."""
    reader = _Reader()
    metadata = reader.part(body, "metadata", Metadata)
    if metadata is None:
        return Problem(subject="a Node", text="it has no readable metadata and is left out")
    reader.subject = f"node {metadata.name}"
    notes = {name: value for name, value in (metadata.annotations or {}).items() if isinstance(value, str)}
    spec = reader.part(body, "spec", Spec) or Spec()
    status = reader.part(body, "status", Status) or Status()
    spec_cidrs = spec.podCIDRs or ([spec.podCIDR] if spec.podCIDR else [])
    listed: dict[str, list[str]] = {"InternalIP": [], "ExternalIP": []}
    for entry in status.addresses or ():
        listed.get(entry.type, []).append(entry.address)
    return NodeFacts(
        uid=NodeUID(metadata.uid),
        name=NodeName(metadata.name),
        created=str(metadata.creationTimestamp or ""),
        spec_pod_cidrs=frozenset(reader.each(spec_cidrs, decode_network, of="spec.podCIDRs")),
        internal_ips=reader.each(listed["InternalIP"], decode_address, of="status.addresses"),
        external_ips=reader.each(listed["ExternalIP"], decode_address, of="status.addresses"),
        public_key=next(iter(reader.each(_present(notes, PUBLIC_KEY), decode_public_key, of=PUBLIC_KEY)), None),
        pod_cidrs=frozenset(reader.each(reader.json_list(notes, POD_CIDRS), decode_network, of=POD_CIDRS)),
        node_ips=reader.each(reader.json_list(notes, NODE_IPS), decode_address, of=NODE_IPS),
        annotations=_prefixed(notes) if metadata.name == own else (),
        problems=tuple(reader.problems),
    )


def decode_public_key(text: str) -> PublicKey:
    """A key in canonical base64; ValueError otherwise."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("it is not base64") from error
    if len(raw) != KEY_BYTES or base64.b64encode(raw).decode() != text:
        raise ValueError("it is not a WireGuard key of 44 characters")
    return PublicKey(text)


def decode_network(text: str) -> IPNetwork:
    """A CIDR without zone; host bits are masked, as the kernel masks them. ValueError otherwise."""
    if "/" not in text:
        raise ValueError("it has no prefix length")
    return ip_network(_without_zone(text), strict=False)


def decode_address(text: str) -> IPAddress:
    """An address without zone; ValueError otherwise."""
    address = ip_address(_without_zone(text))
    if address.version == 6 and address.ipv4_mapped:
        raise ValueError("it is IPv4-mapped; write it as IPv4")
    return address


def _without_zone(text: str) -> str:
    if "%" in text:
        raise ValueError("it has a zone, which means nothing on another node")
    return text


class _Reader:
    """Collects a problem for each thing that it had to leave out."""

    def __init__(self) -> None:
        self.subject = "a Node"
        self.problems: list[Problem] = []

    def part(self, body: Mapping[str, Any], name: str, model: type[M]) -> M | None:
        """A part of the object by its model; None, with a problem, if it is not of that shape."""
        try:
            return model.model_validate(body.get(name) or {})
        except ValidationError as error:
            where = ".".join(map(str, error.errors()[0]["loc"]))
            self._left_out(f"{name}.{where}", error.errors()[0]["msg"])
            return None

    def each(self, values: Iterable[object], decode: Callable[[str], T], *, of: str) -> tuple[T, ...]:
        """Those of the values that can be decoded, in order, without repeats."""
        good: dict[T, None] = {}
        bad: list[tuple[str, str]] = []
        for value in values:
            try:
                if not isinstance(value, str):
                    raise ValueError("it is not a string")  # noqa: TRY004, TRY301 - one way out for every bad value
                good[decode(value)] = None
            except ValueError as error:
                bad.append((f"{of} {_shown(value)}", str(error)))
        for what, why in bad[:NAMED]:
            self._left_out(what, why)
        if len(bad) > NAMED:
            self._left_out(f"{of}: a further {len(bad) - NAMED} values", "they are as bad")
        return tuple(good)

    def json_list(self, notes: Mapping[str, str], name: str) -> list[object]:
        """The JSON array of an annotation; empty, with a problem, if it is something else."""
        text = notes.get(name)
        if text is None:
            return []
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, list):
            return value
        self._left_out(f"{name} {_shown(text)}", "it is not a JSON array")
        return []

    def _left_out(self, what: str, why: str) -> None:
        self.problems.append(Problem(subject=self.subject, text=f"{what} is not used: {why[: 2 * SHOWN]}"))


def _present(notes: Mapping[str, str], name: str) -> list[str]:
    return [notes[name]] if name in notes else []


def _prefixed(notes: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((k, v) for k, v in notes.items() if k.startswith(PREFIX)))


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
