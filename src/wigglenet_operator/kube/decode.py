"""A Node object as the API server sends it -> NodeFacts. Never raises: what cannot be read is left out and named."""

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from wigglenet_operator.kube.schema import LONGEST_NAME, Metadata, Spec, Status
from wigglenet_operator.model.facts import ZONE, IPAddress, NodeFacts, NodeName, NodeUID, PublicKey, parse_network
from wigglenet_operator.model.problems import Code
from wigglenet_operator.model.report import Problem
from wigglenet_operator.plan.claims import NAMED
from wigglenet_operator.plan.desired import ENDPOINT, NODE_IPS, POD_CIDRS, PUBLIC_KEY

PREFIX = "wigglenet/"
NETWORK_UNAVAILABLE = "NetworkUnavailable"
"""A Node's condition; while it is True the node is tainted (Kubernetes, controller node-lifecycle)."""
KEY_BYTES = 32
PORTS = 65535
ENDPOINT_TEXT = re.compile(
    r"(?:\[(?P<six>[^\[\]]*:[^\[\]]*)\]|(?P<four>[0-9.]+))(?::(?P<port>[0-9]{1,5}))?|(?P<bare>[^\[\]]*:[^\[\]]*:[^\[\]]*)"
)
"""An address in brackets or IPv4, and its port; or IPv6 alone."""
SHOWN = 60
"""Characters of a bad value that a problem repeats."""
MOST = 256
"""Values of one field that are used: each is an allowed IP on every node, and 20,000 fit into an annotation."""
AGELESS = "unknown"
"""Sorts after every time: a Node whose age cannot be read is senior to none."""
M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")


def decode_node(body: Mapping[str, Any], *, own: NodeName) -> NodeFacts | Problem:
    """The facts of a Node, with a problem for each field that cannot be used; a Problem if it has no name or UID.

    What is null is absent, as the API server has it.
    """
    reader = _Reader(_subject(body.get("metadata")))
    metadata = reader.part(body, "metadata", Metadata)
    if metadata is None:
        text = f"it is left out: {reader.problems[0].text}"
        return Problem(code=Code.NodeUnreadable, subject=reader.subject, text=text)
    notes = reader.annotations(metadata.annotations)
    spec = reader.part(body, "spec", Spec) or Spec()
    status = reader.part(body, "status", Status) or Status()
    spec_cidrs = spec.podCIDRs or ([spec.podCIDR] if spec.podCIDR else [])
    listed: dict[str, list[str]] = {"InternalIP": [], "ExternalIP": []}
    for entry in status.addresses or ():
        listed.get(entry.type, []).append(entry.address)
    return NodeFacts(
        uid=NodeUID(metadata.uid),
        name=NodeName(metadata.name),
        created=next(iter(reader.each(_time(metadata), decode_time, of="metadata.creationTimestamp")), AGELESS),
        spec_pod_cidrs=frozenset(reader.each(spec_cidrs, parse_network, of="spec.podCIDRs")),
        internal_ips=reader.each(listed["InternalIP"], decode_address, of="status.addresses"),
        external_ips=reader.each(listed["ExternalIP"], decode_address, of="status.addresses"),
        public_key=next(iter(reader.each(_present(notes, PUBLIC_KEY), decode_public_key, of=PUBLIC_KEY)), None),
        pod_cidrs=frozenset(reader.each(reader.json_list(notes, POD_CIDRS), parse_network, of=POD_CIDRS)),
        node_ips=reader.each(reader.json_list(notes, NODE_IPS), decode_address, of=NODE_IPS),
        endpoint=next(iter(reader.each(_present(notes, ENDPOINT), decode_endpoint, of=ENDPOINT)), None),
        annotations=_prefixed(notes) if metadata.name == own else (),
        network_unavailable=_condition(status.conditions) if metadata.name == own else None,
        problems=tuple(reader.problems),
    )


def decode_time(text: str) -> str:
    """A point in time in UTC and in one form, so that text order is time order; ValueError otherwise."""
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError("it has no time zone")
    try:
        return f"{time.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='seconds')}Z"
    except OverflowError as error:
        raise ValueError("it is not of our era") from error


def decode_public_key(text: str) -> PublicKey:
    """A key in canonical base64; ValueError otherwise."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("it is not base64") from error
    if len(raw) != KEY_BYTES or base64.b64encode(raw).decode() != text:
        raise ValueError("it is not a WireGuard key of 44 characters")
    if not any(raw):
        raise ValueError("it is all zero, which is WireGuard's word for no key")
    return PublicKey(text)


def decode_address(text: str) -> IPAddress:
    """An address without zone; ValueError otherwise."""
    address = ip_address(_without_zone(text))
    if address.version == 6 and address.ipv4_mapped:
        raise ValueError("it is IPv4-mapped; write it as IPv4")
    return address


def decode_endpoint(text: str) -> tuple[IPAddress, int | None]:
    """`a.b.c.d`, `a.b.c.d:port`, `v6`, `[v6]` or `[v6]:port`, no names; ValueError otherwise."""
    found = ENDPOINT_TEXT.fullmatch(text)
    if found is None:
        raise ValueError("write it as 192.0.2.1, 192.0.2.1:24601, 2001:db8::1 or [2001:db8::1]:24601")
    address = decode_address(found["six"] or found["four"] or found["bare"])
    port = int(found["port"]) if found["port"] else None
    if port is not None and not 0 < port <= PORTS:
        raise ValueError(f"a port is 1-{PORTS}")
    return address, port


def _without_zone(text: str) -> str:
    if "%" in text:
        raise ValueError(f"it has {ZONE}")
    return text


def _condition(conditions: object) -> tuple[str, str] | None:
    """Status and message of the condition NetworkUnavailable; None without a usable one."""
    for each in conditions if isinstance(conditions, list) else ():
        if isinstance(each, Mapping) and each.get("type") == NETWORK_UNAVAILABLE:
            return str(each.get("status", "")), str(each.get("message", ""))
    return None


class _Reader:
    """Collects a problem for each thing that it had to leave out."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.problems: list[Problem] = []

    def part(self, body: Mapping[str, Any], name: str, model: type[M]) -> M | None:
        """A part of the object by its model; None, with a problem, if it is not of that shape."""
        value = body.get(name)
        try:
            return model.model_validate({} if value is None else value)
        except ValidationError as error:
            for one in error.errors(include_url=False, include_context=False, include_input=False)[:NAMED]:
                self._left_out(".".join(map(str, (name, *one["loc"]))), one["msg"])
            return None

    def annotations(self, value: object) -> dict[str, object]:
        """The annotations that are there, text or not; empty, with a problem, if they are something else."""
        if value is None or isinstance(value, Mapping):
            return {name: text for name, text in (value or {}).items() if isinstance(name, str) and text is not None}
        self._left_out(f"metadata.annotations {_shown(value)}", "it is not an object")
        return {}

    def each(self, values: Iterable[object], decode: Callable[[str], T], *, of: str) -> tuple[T, ...]:
        """Those of the values that can be decoded, in order, without repeats."""
        good: dict[T, None] = {}
        bad: list[tuple[str, str]] = []
        for value in values:
            try:
                if not isinstance(value, str):
                    raise ValueError("it is not a string")  # noqa: TRY004, TRY301 - one way out for every bad value
                one = decode(value)
                if len(good) == MOST and one not in good:
                    raise ValueError(f"it comes after {MOST} others")  # noqa: TRY301 - as above
                good[one] = None
            except ValueError as error:
                bad.append((f"{of} {_shown(value)}", str(error)))
        for what, why in bad[:NAMED]:
            self._left_out(what, why)
        if len(bad) > NAMED:
            self._left_out(f"{of}: a further {len(bad) - NAMED} values", "for like reasons")
        return tuple(good)

    def json_list(self, notes: Mapping[str, object], name: str) -> list[object]:
        """The JSON array of an annotation; empty, with a problem, if it is something else."""
        if name not in notes:
            return []
        text = notes[name]
        try:
            value = json.loads(text) if isinstance(text, str) else None
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, list):
            return value
        self._left_out(f"{name} {_shown(text)}", "it is not a JSON array")
        return []

    def _left_out(self, what: str, why: str) -> None:
        text = f"{what} is not used: {why[: 2 * SHOWN]}"
        self.problems.append(Problem(code=Code.FieldUnusable, subject=self.subject, text=text))


def _subject(metadata: object) -> str:
    """`node NAME`, one printable line whatever the name is."""
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    return f"node {repr(name)[1:-1][:LONGEST_NAME]}" if name and isinstance(name, str) else "a Node"


def _time(metadata: Metadata) -> list[object]:
    time = metadata.creationTimestamp
    return [] if time is None else [str(time) if isinstance(time, datetime) else time]  # a datetime: out of YAML


def _present(notes: Mapping[str, object], name: str) -> list[object]:
    return [notes[name]] if name in notes else []


def _prefixed(notes: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((k, v) for k, v in notes.items() if k.startswith(PREFIX) and isinstance(v, str)))


def _shown(value: object) -> str:
    """One printable line; of what is no text the type only: its text may be of any size, depth and cost."""
    if not isinstance(value, str):
        return f"({type(value).__name__})"
    text = repr(value[: SHOWN + 1])
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
