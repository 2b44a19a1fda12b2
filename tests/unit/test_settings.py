"""The environment: every mistake in one message, nothing silently ignored."""

from dataclasses import replace
from random import Random

import pytest

from tests.builders import cluster, host, nets, numbered
from wigglenet_operator.errors import ConfigError
from wigglenet_operator.model.facts import PodNetworkSource, WireGuardKind
from wigglenet_operator.plan.planner import plan
from wigglenet_operator.settings import Settings, read_settings

GOOD = {"NODE_NAME": "a", "KUBERNETES_SERVICE_HOST": "10.96.0.1"}


def mistakes(**environment: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read_settings({**GOOD, **environment})
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


def test_the_defaults_are_those_of_wigglenet() -> None:
    config = read_settings(GOOD).config()

    assert (config.link, config.port, config.mtu) == ("wigglenet", 24601, None)
    assert str(config.key_path) == "/etc/wigglenet/private.key"
    assert str(config.cni_path) == "/etc/cni/net.d/10-wigglenet.conflist"
    assert str(config.api_server) == "10.96.0.1"


def test_values_are_read_and_blanks_trimmed() -> None:
    config = read_settings({**GOOD, "WIGGLENET_MTU": " 1400 ", "WIGGLENET_WG_PORT": "51820"}).config()

    assert (config.mtu, config.port) == (1400, 51820)


@pytest.mark.parametrize(
    ("value", "expected"), [("auto", None), ("kernel", WireGuardKind.KERNEL), ("userspace", WireGuardKind.USERSPACE)]
)
def test_who_implements_wireguard(value: str, expected: WireGuardKind | None) -> None:
    assert read_settings({**GOOD, "WIGGLENET_WG_IMPLEMENTATION": value}).config().wireguard is expected
    assert read_settings(GOOD).config().wireguard is None


@pytest.mark.parametrize(("words", "on"), [("1 true YES On", True), ("0 False no OFF", False)])
def test_switches_have_many_words(words: str, on: bool) -> None:  # noqa: FBT001 - a table
    for word in words.split():
        assert read_settings({**GOOD, "FIREWALL_ONLY": f" {word} "}).config().firewall_only is on


def test_each_family_is_switched_alone() -> None:
    config = read_settings({**GOOD, "MASQUERADE_IPV4": "off", "FILTER_IPV4": "on"}).config()

    assert (config.masqueraded, config.filtered) == (frozenset({6}), frozenset({4}))


def test_networks_are_a_list_and_an_address_is_one() -> None:
    config = read_settings({**GOOD, "NON_MASQUERADE_CIDRS": " 10.0.0.0/8 ,fd00::/8,, 192.0.2.1"}).config()

    assert config.non_masquerade == nets("10.0.0.0/8 fd00::/8 192.0.2.1/32")


def test_the_back_end_of_the_predecessor_is_accepted_with_a_warning() -> None:
    (warning,) = read_settings({**GOOD, "FIREWALL_BACKEND": "iptables"}).warnings()

    assert "means nftables" in warning
    assert not read_settings(GOOD).warnings()


def test_auto_is_the_mtu_of_the_routes() -> None:
    assert read_settings({**GOOD, "WIGGLENET_MTU": "auto"}).config().mtu is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WIGGLENET_WG_PORT", "70000"),
        ("WIGGLENET_WG_PORT", "yes"),
        ("WIGGLENET_WG_PORT", "0"),
        ("WIGGLENET_WG_IMPLEMENTATION", "Kernel"),
        ("WIGGLENET_MTU", "1279"),
        ("WIGGLENET_MTU", "65456"),
        ("WIGGLENET_IFACE_NAME", "sixteen-letters-"),
        ("WIGGLENET_IFACE_NAME", "a/b"),
        ("WIGGLENET_IFACE_NAME", "wg*"),
        ("WIGGLENET_PRIVKEY_PATH", "private.key"),
        ("NODE_NAME", ""),
        ("MASQUERADE_IPV4", "maybe"),
        ("FILTER_IPV6", ""),
        ("FIREWALL_ONLY", "2"),
        ("NON_MASQUERADE_CIDRS", "10.0.0.1/8, x"),
        ("NON_MASQUERADE_CIDRS", "fd00:1::%x/64"),
        ("FIREWALL_BACKEND", "nft"),
    ],
)
def test_a_value_out_of_range_is_named_with_what_is_allowed(name: str, value: str) -> None:
    assert mistakes(**{name: value}) == [f"{name}={value!r}: allowed is {Settings.model_fields[name].description}"]


def test_every_mistake_is_in_one_message() -> None:
    found = mistakes(WIGGLENET_MTU="x", WIGGLENET_WG_PORT="x", WIGGLENET_WG_PROT="1", MASQUERADE_IPV4="maybe")

    assert [line.split("=")[0].split(":")[0] for line in found] == [
        "MASQUERADE_IPV4",
        "WIGGLENET_MTU",
        "WIGGLENET_WG_PORT",
        "WIGGLENET_WG_PROT",
    ]


def test_a_setting_that_does_not_exist_yet_says_so() -> None:
    assert mistakes(ENABLE_NETWORK_POLICY="true") == ["ENABLE_NETWORK_POLICY: this version does not have it yet; unset it"]


def test_a_misspelt_name_is_a_mistake() -> None:
    assert mistakes(MASQUERADE_IP4="1") == ["MASQUERADE_IP4: not a setting; did you mean MASQUERADE_IPV4?"]


def test_an_unknown_name_with_our_prefix_is_a_mistake() -> None:
    (found,) = mistakes(WIGGLENET_COLOUR="red")

    assert found.startswith("WIGGLENET_COLOUR: not a setting; the settings are CNI_CONFIG_PATH")


def test_names_that_kubernetes_injects_for_services_are_not_ours() -> None:
    injected = {
        "WIGGLENET_METRICS_SERVICE_HOST": "10.96.0.7",
        "WIGGLENET_METRICS_SERVICE_PORT": "9091",
        "WIGGLENET_METRICS_SERVICE_PORT_HTTP": "9091",
        "WIGGLENET_METRICS_PORT": "tcp://10.96.0.7:9091",
        "WIGGLENET_METRICS_PORT_9091_TCP": "tcp://10.96.0.7:9091",
        "WIGGLENET_METRICS_PORT_9091_TCP_ADDR": "10.96.0.7",
        "PATH": "/bin",
        "HOSTNAME": "a",
    }

    assert read_settings({**GOOD, **injected}).NODE_NAME == "a"


def test_what_must_be_set_is_named() -> None:
    with pytest.raises(ConfigError, match="NODE_NAME: it must be set"):
        read_settings({"KUBERNETES_SERVICE_HOST": "10.96.0.1"})


@pytest.mark.parametrize(
    ("name", "value", "field", "expected"),
    [
        ("WIGGLENET_KEEPALIVE", "25", "keepalive", 25),
        ("WG_IP_FAMILY", "ipv4", "endpoint_versions", frozenset({4})),
        ("WG_IP_FAMILY", "ipv6", "endpoint_versions", frozenset({6})),
        ("WG_IP_FAMILY", "dualstack", "endpoint_versions", frozenset({4, 6})),
        ("NODE_IP_INTERFACES", " eth1, wan0.7 ,", "node_ip_links", frozenset({"eth1", "wan0.7"})),
        ("NATIVE_ROUTING_IPV6", "yes", "native", frozenset({6})),
        ("POD_CIDR_SOURCE_IPV6", "none", "sources", {4: PodNetworkSource.SPEC, 6: PodNetworkSource.NONE}),
        ("POD_CIDR_SOURCE_PATH", "", "source_path", None),
    ],
)
def test_addresses_reach_and_modes(name: str, value: str, field: str, expected: object) -> None:
    assert getattr(read_settings({**GOOD, name: value}).config(), field) == expected


def test_a_file_as_source_needs_a_path() -> None:
    asked = "POD_CIDR_SOURCE_PATH: it must be set where a source is file: an absolute path"

    assert mistakes(POD_CIDR_SOURCE_IPV4="file") == [asked]
    assert mistakes(POD_CIDR_SOURCE_IPV6="file", POD_CIDR_SOURCE_PATH="") == [asked]
    assert read_settings({**GOOD, "POD_CIDR_SOURCE_IPV6": "file", "POD_CIDR_SOURCE_PATH": "/etc/pods"})


def test_a_certificate_is_never_left_out_for_want_of_another_file() -> None:
    asked = "METRICS_TLS_{}_FILE: it must be set where METRICS_TLS_{}_FILE is: an absolute path"
    certificate, key, client_ca = ({f"METRICS_TLS_{of}_FILE": f"/tls/{of}"} for of in ("CERT", "KEY", "CLIENT_CA"))

    assert mistakes(**certificate) == [asked.format("KEY", "CERT")]
    assert mistakes(**key) == [asked.format("CERT", "KEY")]
    assert mistakes(**client_ca, ENABLE_METRICS="on") == [asked.format("CERT", "CLIENT_CA")]
    tls = read_settings({**GOOD, **certificate, **key, **client_ca}).config().metrics_tls
    assert tls
    assert (str(tls.certificate), str(tls.key), str(tls.client_ca)) == ("/tls/CERT", "/tls/KEY", "/tls/CLIENT_CA")


def test_metrics_are_served_only_where_they_are_wanted() -> None:
    assert read_settings(GOOD).config().metrics is None
    served = read_settings({**GOOD, "ENABLE_METRICS": "on", "METRICS_BIND_ADDR": "[::1]:9091"}).config()
    assert (str(served.metrics), str(served.health), served.metrics_tls) == ("[::1]:9091", "127.0.0.1:9092", None)


def test_metrics_do_not_take_the_port_of_the_probes() -> None:
    for metrics in ("127.0.0.1:9092", ":9092", "[::]:9092"):
        assert read_settings({**GOOD, "METRICS_BIND_ADDR": metrics})
        (found,) = mistakes(METRICS_BIND_ADDR=metrics, ENABLE_METRICS="on")
        assert found.startswith("METRICS_BIND_ADDR: its port must be another")


def test_a_path_that_no_source_reads_is_a_warning() -> None:
    (warning,) = read_settings({**GOOD, "POD_CIDR_SOURCE_PATH": "/etc/pods"}).warnings()

    assert "no source is file" in warning


def test_a_node_has_pods_of_one_family_at_least() -> None:
    (found,) = mistakes(POD_CIDR_SOURCE_IPV4="none", POD_CIDR_SOURCE_IPV6="none")

    assert "not both may be none" in found


def test_what_other_versions_have_as_a_source_is_not_taken_for_another() -> None:
    for value in ("expression", "uplink", "metadata", "Spec"):
        assert mistakes(POD_CIDR_SOURCE_IPV6=value) == [f"POD_CIDR_SOURCE_IPV6={value!r}: allowed is none, spec or file"]


VALUES = {
    "WIGGLENET_IFACE_NAME": ("wigglenet wg0", "a/b sixteen-letters-"),
    "WIGGLENET_WG_PORT": ("1 24601 65535", "0 65536 x"),
    "WIGGLENET_PRIVKEY_PATH": ("/etc/key", "key"),
    "WIGGLENET_WG_IMPLEMENTATION": ("auto kernel userspace", "Kernel"),
    "WIGGLENET_MTU": ("auto 1280 65455", "1279 65456 x"),
    "WIGGLENET_KEEPALIVE": ("0 25 65535", "-1 65536 x"),
    "WG_IP_FAMILY": ("ipv4 ipv6 dualstack", "4 IPv4"),
    "NODE_IP_INTERFACES": ("eth0 eth0,eth1", "a/b sixteen-letters-"),
    "POD_CIDR_SOURCE_IPV4": ("none spec file", "uplink"),
    "POD_CIDR_SOURCE_IPV6": ("none spec file", "x"),
    "POD_CIDR_SOURCE_PATH": ("/etc/pods", "pods"),
    "NATIVE_ROUTING_IPV4": ("on off", "2"),
    "NATIVE_ROUTING_IPV6": ("1 0", "x"),
    "CNI_CONFIG_PATH": ("/etc/cni/net.d/1.conflist", "cni"),
    "MASQUERADE_IPV4": ("yes no", "x"),
    "MASQUERADE_IPV6": ("true false", "x"),
    "NON_MASQUERADE_CIDRS": ("10.0.0.0/8 10.0.0.0/8,fd00::/8", "10.0.0.1/8 x"),
    "FILTER_IPV4": ("on off", "x"),
    "FILTER_IPV6": ("on off", "x"),
    "FIREWALL_ONLY": ("on off", "x"),
    "FIREWALL_BACKEND": ("nftables iptables", "x"),
    "HEALTH_BIND_ADDR": (
        ":1 127.0.0.1:9092 [::1]:65535",
        ":0 127.0.0.1 localhost:9092 ::1:9092 [127.0.0.1]:9092 1:9092 :65536",
    ),
    "ENABLE_METRICS": ("on off", "x"),
    "METRICS_BIND_ADDR": (":9091 0.0.0.0:9091 [::]:9091", "9091 [fe80::1%eth0]:9091 [::1]9091"),
    "METRICS_TLS_CERT_FILE": ("/tls/tls.crt", "tls.crt"),
    "METRICS_TLS_KEY_FILE": ("/tls/tls.key", "tls.key"),
    "METRICS_TLS_CLIENT_CA_FILE": ("/tls/ca.crt", "ca.crt"),
    "KUBERNETES_SERVICE_PORT": ("443", "0"),
}
"""Good and bad ones of every setting that has a default."""
NEVER = {"WIGGLENET_COLOUR": "red", "MASQUERADE_IP4": "1", "ENABLE_FLOWTABLE": "1"}
NODES = [numbered(number, name=name) for number, name in enumerate("ab")]


def wrong_tls(environment: dict[str, str]) -> set[str]:
    """Files that must be set for the sake of another."""
    certificate, key, client_ca = (f"METRICS_TLS_{of}_FILE" in environment for of in ("CERT", "KEY", "CLIENT_CA"))
    missing = {"METRICS_TLS_CERT_FILE"} if (key or client_ca) and not certificate else set()
    return missing | ({"METRICS_TLS_KEY_FILE"} if certificate and not key else set())


def test_three_thousand_configurations_are_planned_or_refused_with_every_mistake() -> None:
    random = Random(1)  # noqa: S311 - the same ones again
    refused = 0
    for _ in range(3000):
        chosen = {name: random.choice(random.choices(both, [9, 1])[0].split()) for name, both in VALUES.items()}
        environment = {name: value for name, value in chosen.items() if random.random() < 0.5}
        environment |= dict(random.sample(sorted(NEVER.items()), k=random.choice([0, 0, 0, 1, 2])))
        bad = {n for n, value in environment.items() if n in NEVER or value in VALUES[n][1].split()}
        sources = [environment.get(f"POD_CIDR_SOURCE_IPV{version}") for version in (4, 6)]
        bad |= {"POD_CIDR_SOURCE_PATH"} if "file" in sources and "POD_CIDR_SOURCE_PATH" not in environment else set()
        bad |= {"POD_CIDR_SOURCE_IPV4, POD_CIDR_SOURCE_IPV6"} if sources == ["none", "none"] else set()
        bad |= wrong_tls(environment)
        if bad:
            assert {line.split("=")[0].split(":")[0] for line in mistakes(**environment)} == bad
            refused += 1
        else:
            config = read_settings({**GOOD, **environment}).config()
            facts = host("a") if config.tunnelled else replace(host("a"), public_key=None, wireguard=None)
            planned = plan(cluster(*NODES), config, facts)
            assert planned.desired or planned.problems

    assert 0 < refused < 3000
