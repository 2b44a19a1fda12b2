"""The environment -> AgentConfig, or one message with every mistake; the only reader of the environment.

The string below each setting is its meaning in docs/configuration.md (`nox -s docs`).
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import PurePath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationError

from wigglenet_operator.errors import ConfigError
from wigglenet_operator.model.config import MIN_MTU, AgentConfig, Bind, Tls
from wigglenet_operator.model.facts import IPAddress, NodeName, PodNetworkSource, WireGuardKind

NOT_YET = frozenset(
    """POD_CIDR_EXPRESSION POD_CIDR_EXPRESSION_PATH BLOCK_POD_METADATA_ACCESS ENABLE_NETWORK_POLICY ENABLE_FLOWTABLE
    FLOWTABLE_DEVICES FLOWTABLE_PACKET_THRESHOLD""".split()  # noqa: SIM905 - as a table it can be read
)
"""Settings of Wigglenet that this version does not have; set, they are a mistake rather than a silent difference."""
INJECTED = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_.*)?$|_PORT$|_PORT_\d+_(TCP|UDP|SCTP)(_.*)?$")
"""What Kubernetes puts into every container for each Service (kubelet, envvars.FromServices)."""
BIND = re.compile(r"(\[(?P<six>[0-9a-fA-F:.]+)\]|(?P<four>[0-9.]+))?:(?P<port>[0-9]{1,5})")
SWITCH = {**dict.fromkeys(("1", "true", "yes", "on"), True), **dict.fromkeys(("0", "false", "no", "off"), False)}
NEAR = 2
"""Edits that still make a name a misspelling of a known one."""


def _auto(value: object) -> object:
    return None if value == "auto" else value


def _none_if_empty(value: object) -> object:
    return None if value == "" else value


def _without_zone(value: object) -> object:
    if "%" in str(value):
        raise ValueError("a zone of one machine is no network")
    return value


def _words(value: object) -> object:
    return [word.strip() for word in value.split(",") if word.strip()] if isinstance(value, str) else value


def _link_name(value: str) -> str:
    if value in {".", ".."} or re.search(r'[/:\s"*\\]', value):
        raise ValueError("the kernel refuses such a name, or nftables means something else by it")
    return value


def _absolute(value: PurePath) -> PurePath:
    if not value.is_absolute():
        raise ValueError("not absolute")
    return value


def _bind(value: object) -> object:
    """`:9091`, `127.0.0.1:9091`, `[::1]:9091`: a name is no address, for its meaning may change."""
    found = BIND.fullmatch(value) if isinstance(value, str) else None
    if not found or not 0 < int(found["port"]) < 1 << 16:
        raise ValueError("no address with a port")
    six, four = found["six"], found["four"]
    host = ip_address(six or four) if six or four else None
    if host and host.version != (6 if six else 4):
        raise ValueError("brackets are for IPv6")
    return Bind(host=host, port=int(found["port"]))


AbsolutePath = Annotated[PurePath, Field(description="an absolute path"), AfterValidator(_absolute)]
OptionalPath = Annotated[AbsolutePath | None, BeforeValidator(_none_if_empty), Field(description="an absolute path")]
BindAddress = Annotated[
    Bind, BeforeValidator(_bind), Field(description=":port for all addresses, IPv4:port or [IPv6]:port; port 1-65535")
]
LinkName = Annotated[str, Field(min_length=1, max_length=15), AfterValidator(_link_name)]
Source = Annotated[PodNetworkSource, Field(description="none, spec or file")]

Switch = Annotated[
    Annotated[bool, BeforeValidator(lambda value: SWITCH.get(value.lower(), value) if isinstance(value, str) else value)],
    Field(strict=True, description="1/0, true/false, yes/no or on/off"),
]


class Settings(BaseModel):
    """The environment variables of this version, by their names."""

    NODE_NAME: Annotated[str, Field(min_length=1, max_length=253, description="the name of this node's Node object")]
    """This node's Node object (in a DaemonSet `fieldRef: spec.nodeName`)."""
    WIGGLENET_IFACE_NAME: Annotated[
        LinkName, Field(description="1-15 characters, no slash, colon, blank, quote, asterisk or backslash")
    ] = "wigglenet"
    """Name of the WireGuard link."""
    WIGGLENET_WG_PORT: Annotated[int, Field(ge=1, le=65535, description="1-65535")] = 24601
    """UDP port of WireGuard; the same on every node."""
    WIGGLENET_PRIVKEY_PATH: AbsolutePath = PurePath("/etc/wigglenet/private.key")
    """The private key; made if missing, mode 0600."""
    WIGGLENET_WG_IMPLEMENTATION: Annotated[
        WireGuardKind | None, BeforeValidator(_auto), Field(description="auto, kernel or userspace")
    ] = None
    """Who implements WireGuard where there is no link yet; `auto` is the kernel if it can, else userspace."""
    WIGGLENET_MTU: Annotated[
        Annotated[int, Field(ge=MIN_MTU, le=65455)] | None,
        BeforeValidator(_auto),
        Field(description=f"auto, or {MIN_MTU}-65455"),
    ] = None
    """MTU of link and pods; `auto` is the smallest MTU of the routes to endpoints minus 80 (60 with `WG_IP_FAMILY=ipv4`)."""
    WIGGLENET_KEEPALIVE: Annotated[int, Field(ge=0, le=65535, description="0-65535 seconds")] = 0
    """Seconds between persistent keepalives to every peer, 0 is off; a node behind NAT needs 25."""
    WG_IP_FAMILY: Annotated[Literal["ipv4", "ipv6", "dualstack"], Field(description="ipv4, ipv6 or dualstack")] = "dualstack"
    """IP versions that may carry the tunnel; the same on every node."""
    NODE_IP_INTERFACES: Annotated[
        tuple[LinkName, ...], BeforeValidator(_words), Field(description="names of links, separated by commas")
    ] = ()
    """Links of this node whose global addresses are announced too."""
    POD_CIDR_SOURCE_IPV4: Source = PodNetworkSource.SPEC
    """Where this node's IPv4 pod networks are from."""
    POD_CIDR_SOURCE_IPV6: Source = PodNetworkSource.SPEC
    """Where this node's IPv6 pod networks are from."""
    POD_CIDR_SOURCE_PATH: OptionalPath = None
    """The file with pod networks, where a source is `file`."""
    NATIVE_ROUTING_IPV4: Switch = False
    """The underlay knows the way to every IPv4 pod: no tunnel, nothing encrypted; the same on every node."""
    NATIVE_ROUTING_IPV6: Switch = False
    """The underlay knows the way to every IPv6 pod: no tunnel, nothing encrypted; the same on every node."""
    CNI_CONFIG_PATH: AbsolutePath = PurePath("/etc/cni/net.d/10-wigglenet.conflist")
    """The CNI configuration that is written."""
    MASQUERADE_IPV4: Switch = True
    """IPv4 packets of pods to the world get the node's address."""
    MASQUERADE_IPV6: Switch = True
    """IPv6 packets of pods to the world get the node's address."""
    NON_MASQUERADE_CIDRS: Annotated[
        tuple[IPv4Network | IPv6Network, ...],
        BeforeValidator(_words),
        BeforeValidator(_without_zone),
        Field(description="networks without host bits, separated by commas"),
    ] = ()
    """Further destinations that see pods' own addresses."""
    FILTER_IPV4: Switch = False
    """Pods take new IPv4 connections of the cluster only."""
    FILTER_IPV6: Switch = False
    """Pods take new IPv6 connections of the cluster only."""
    FIREWALL_ONLY: Switch = False
    """Another plugin makes the pod network; only masquerade and filter are this agent's."""
    FIREWALL_BACKEND: Annotated[Literal["nftables", "iptables"], Field(description="nftables")] = "nftables"
    """The only one; `iptables`, which Wigglenet knew, is accepted with a warning."""
    WIGGLENET_NODE_CONDITION: Switch = False
    """Have the own Node's condition `NetworkUnavailable` say whether its network is as it should be."""
    HEALTH_BIND_ADDR: BindAddress = Bind(host=ip_address("127.0.0.1"), port=9092)
    """Where `/healthz`, `/readyz` and `/status` are; the manifests' probes ask there."""
    ENABLE_METRICS: Switch = False
    """Serve `/metrics` for Prometheus."""
    METRICS_BIND_ADDR: BindAddress = Bind(host=None, port=9091)
    """Where `/metrics` is."""
    METRICS_TLS_CERT_FILE: OptionalPath = None
    """PEM; with the key HTTPS, and never plain HTTP; read again when it changes."""
    METRICS_TLS_KEY_FILE: OptionalPath = None
    """PEM; the certificate's key."""
    METRICS_TLS_CLIENT_CA_FILE: OptionalPath = None
    """PEM; whoever scrapes must show a certificate of this CA."""
    KUBERNETES_SERVICE_HOST: Annotated[str, Field(min_length=1, description="a name or address of the API server")]
    """The API server; Kubernetes sets it in every container."""
    KUBERNETES_SERVICE_PORT: Annotated[int, Field(ge=1, le=65535, description="1-65535")] = 443
    """The API server's port; Kubernetes sets it in every container."""

    def config(self) -> AgentConfig:
        """The same in the words of `model`."""
        return AgentConfig(
            node_name=NodeName(self.NODE_NAME),
            link=self.WIGGLENET_IFACE_NAME,
            port=self.WIGGLENET_WG_PORT,
            key_path=self.WIGGLENET_PRIVKEY_PATH,
            wireguard=self.WIGGLENET_WG_IMPLEMENTATION,
            mtu=self.WIGGLENET_MTU,
            cni_path=self.CNI_CONFIG_PATH,
            sources={4: self.POD_CIDR_SOURCE_IPV4, 6: self.POD_CIDR_SOURCE_IPV6},
            source_path=self.POD_CIDR_SOURCE_PATH if self._reads_a_file() else None,
            node_ip_links=frozenset(self.NODE_IP_INTERFACES),
            endpoint_versions=_versions(self.WG_IP_FAMILY != "ipv6", self.WG_IP_FAMILY != "ipv4"),
            keepalive=self.WIGGLENET_KEEPALIVE,
            native=_versions(self.NATIVE_ROUTING_IPV4, self.NATIVE_ROUTING_IPV6),
            masqueraded=_versions(self.MASQUERADE_IPV4, self.MASQUERADE_IPV6),
            filtered=_versions(self.FILTER_IPV4, self.FILTER_IPV6),
            non_masquerade=frozenset(self.NON_MASQUERADE_CIDRS),
            firewall_only=self.FIREWALL_ONLY,
            node_condition=self.WIGGLENET_NODE_CONDITION,
            health=self.HEALTH_BIND_ADDR,
            metrics=self.METRICS_BIND_ADDR if self.ENABLE_METRICS else None,
            metrics_tls=self._metrics_tls(),
            api_server=_address_or_none(self.KUBERNETES_SERVICE_HOST),
        )

    def _metrics_tls(self) -> Tls | None:
        certificate, key = self.METRICS_TLS_CERT_FILE, self.METRICS_TLS_KEY_FILE
        if certificate is None or key is None:  # neither, or read_settings() has refused it
            return None
        return Tls(certificate=certificate, key=key, client_ca=self.METRICS_TLS_CLIENT_CA_FILE)

    def _reads_a_file(self) -> bool:
        return PodNetworkSource.FILE in {self.POD_CIDR_SOURCE_IPV4, self.POD_CIDR_SOURCE_IPV6}

    def warnings(self) -> list[str]:
        """What is accepted and means something else; may be empty."""
        told = []
        if self.FIREWALL_BACKEND != "nftables":
            text = "is accepted and means nftables, the only one there is; unset it"
            told.append(f"FIREWALL_BACKEND={self.FIREWALL_BACKEND} {text}")
        if self.POD_CIDR_SOURCE_PATH and not self._reads_a_file():
            told.append(f"POD_CIDR_SOURCE_PATH={self.POD_CIDR_SOURCE_PATH} is not read, for no source is file; unset it")
        return told


BINDS = ("HEALTH_BIND_ADDR", "METRICS_BIND_ADDR")
KNOWN = frozenset(Settings.model_fields) | NOT_YET


def read_settings(environment: Mapping[str, str]) -> Settings:
    """The settings; ConfigError with one line for every mistake in the environment."""
    given = {name: value.strip() for name, value in environment.items() if name in Settings.model_fields}
    mistakes = [*_names(environment), *_combinations(given)]
    try:
        settings = Settings.model_validate(given)
    except ValidationError as error:
        mistakes += [_told(given, str(mistake["loc"][0])) for mistake in error.errors()]
    else:
        if not mistakes:
            return settings
    raise ConfigError("the settings are wrong:\n" + "\n".join(f"  {mistake}" for mistake in sorted(set(mistakes))))


def _names(environment: Mapping[str, str]) -> Iterator[str]:
    for name in environment:
        if name in NOT_YET:
            yield f"{name}: this version does not have it yet; unset it"
        elif name not in KNOWN and not INJECTED.search(name):
            near = min(KNOWN, key=lambda known: (_edits(name, known), known))
            if _edits(name, near) <= NEAR:
                yield f"{name}: not a setting; did you mean {near}?"
            elif name.startswith("WIGGLENET_"):
                yield f"{name}: not a setting; the settings are {', '.join(sorted(Settings.model_fields))}"


def _combinations(given: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with values that may each be right."""
    sources = [given.get(f"POD_CIDR_SOURCE_IPV{version}") for version in (4, 6)]
    if PodNetworkSource.FILE.value in sources and not given.get("POD_CIDR_SOURCE_PATH"):
        yield "POD_CIDR_SOURCE_PATH: it must be set where a source is file: an absolute path"
    if sources == [PodNetworkSource.NONE.value] * 2:
        yield "POD_CIDR_SOURCE_IPV4, POD_CIDR_SOURCE_IPV6: not both may be none, for a pod needs an address"
    ports = {given.get(name, str(Settings.model_fields[name].default)).rpartition(":")[2] for name in BINDS}
    if SWITCH.get(given.get("ENABLE_METRICS", "").lower()) and len(ports) < len(BINDS):
        yield "METRICS_BIND_ADDR: its port must be another than that of HEALTH_BIND_ADDR: which of them gets it is chance"
    certificate, key, client_ca = (given.get(f"METRICS_TLS_{of}_FILE") for of in ("CERT", "KEY", "CLIENT_CA"))
    if key and not certificate:
        yield "METRICS_TLS_CERT_FILE: it must be set where METRICS_TLS_KEY_FILE is: an absolute path"
    if certificate and not key:
        yield "METRICS_TLS_KEY_FILE: it must be set where METRICS_TLS_CERT_FILE is: an absolute path"
    if client_ca and not certificate:
        yield "METRICS_TLS_CERT_FILE: it must be set where METRICS_TLS_CLIENT_CA_FILE is: an absolute path"


def _told(given: Mapping[str, str], name: str) -> str:
    allowed = Settings.model_fields[name].description
    if name not in given:
        return f"{name}: it must be set: {allowed}"
    return f"{name}={given[name]!r}: allowed is {allowed}"


def _versions(four: bool, six: bool) -> frozenset[int]:  # noqa: FBT001 - in the order of the versions
    return frozenset(version for version, on in ((4, four), (6, six)) if on)


def _address_or_none(host: str) -> IPAddress | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _edits(one: str, other: str) -> int:
    """The Levenshtein distance, or more than NEAR without counting on where the lengths alone say so."""
    if abs(len(one) - len(other)) > NEAR:
        return NEAR + 1
    row: Iterable[int] = range(len(other) + 1)
    for i, a in enumerate(one, 1):
        above = list(row)
        left = i
        current = [i]
        for j, b in enumerate(other, 1):
            left = min(above[j] + 1, left + 1, above[j - 1] + (a != b))
            current.append(left)
        row = current
    return list(row)[-1]
