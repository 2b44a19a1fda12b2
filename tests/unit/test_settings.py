"""The environment: every mistake in one message, nothing silently ignored."""

import pytest

from tests.builders import nets
from wigglenet_operator.errors import ConfigError
from wigglenet_operator.model.facts import WireGuardKind
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
