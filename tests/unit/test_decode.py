"""Node objects as they come: what is good is used, what is bad is left out and named."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import ips, key, nets
from wigglenet_operator.kube.decode import MOST, decode_node
from wigglenet_operator.model.facts import NodeFacts, NodeName
from wigglenet_operator.model.report import Problem

BODY: dict[str, Any] = {
    "metadata": {
        "name": "b",
        "uid": "u-1",
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "annotations": {
            "wigglenet/public-key": key("b"),
            "wigglenet/node-ips": '["192.0.2.9"]',
            "wigglenet/pod-cidrs": '["fd00:2::/64","10.2.0.0/24"]',
            "other/annotation": "x",
        },
    },
    "spec": {"podCIDR": "10.2.0.0/24", "podCIDRs": ["10.2.0.0/24", "fd00:2::/64"]},
    "status": {
        "addresses": [
            {"type": "InternalIP", "address": "192.0.2.2"},
            {"type": "Hostname", "address": "b"},
            {"type": "ExternalIP", "address": "2001:db8::2"},
        ]
    },
}


def decoded(*, own: str = "a", **annotations: str) -> NodeFacts:
    metadata = {**BODY["metadata"], "annotations": {**BODY["metadata"]["annotations"], **annotations}}
    facts = decode_node({**BODY, "metadata": metadata}, own=NodeName(own))
    assert isinstance(facts, NodeFacts)
    return facts


def test_a_whole_node_is_read() -> None:
    facts = decoded()

    assert facts.problems == ()
    assert facts.public_key == key("b")
    assert facts.spec_pod_cidrs == facts.pod_cidrs == nets("10.2.0.0/24 fd00:2::/64")
    assert (facts.internal_ips, facts.external_ips, facts.node_ips) == (ips("192.0.2.2"), ips("2001:db8::2"), ips("192.0.2.9"))


def test_the_annotations_themselves_are_kept_of_the_own_node_only() -> None:
    assert decoded().annotations == ()
    assert {name for name, _ in decoded(own="b").annotations} == {
        "wigglenet/public-key",
        "wigglenet/node-ips",
        "wigglenet/pod-cidrs",
    }


def test_another_nodes_status_changes_no_fact() -> None:
    assert decoded() == decoded(**{"wigglenet/status": '{"phase":"Ready"}'})


def test_an_old_node_has_one_pod_cidr() -> None:
    facts = decode_node({**BODY, "spec": {"podCIDR": "10.7.0.0/24"}}, own=NodeName("a"))

    assert isinstance(facts, NodeFacts)
    assert facts.spec_pod_cidrs == nets("10.7.0.0/24")


@pytest.mark.parametrize(
    ("annotation", "value", "told"),
    [
        ("public-key", "short", "it is not"),
        ("public-key", key("b")[:-1], "it is not"),
        ("public-key", "A" * 43 + "B", "it is not"),
        ("pod-cidrs", "10.2.0.0/24", "not a JSON array"),
        ("pod-cidrs", '["10.2.0.0"]', "no prefix length"),
        ("pod-cidrs", '["10.2.0.0/33"]', "10.2.0.0/33"),
        ("pod-cidrs", "[7]", "not a string"),
        ("pod-cidrs", "[" * 100_000, "not a JSON array"),
        ("node-ips", '["fe80::1%eth0"]', "zone"),
        ("node-ips", '["::ffff:192.0.2.1"]', "IPv4-mapped"),
        ("node-ips", "null", "not a JSON array"),
    ],
)
def test_a_bad_annotation_is_named_and_the_rest_is_used(annotation: str, value: str, told: str) -> None:
    facts = decoded(**{f"wigglenet/{annotation}": value})

    (problem,) = facts.problems
    assert problem.subject == "node b"
    assert annotation in problem.text
    assert told in problem.text
    assert len(problem.text) < 250
    assert facts.spec_pod_cidrs == nets("10.2.0.0/24 fd00:2::/64")


def test_many_bad_values_are_counted_not_listed() -> None:
    facts = decoded(**{"wigglenet/node-ips": str(list(range(40_000)))})

    assert len(facts.problems) == 6
    assert "a further 39995 values" in facts.problems[-1].text


def test_a_huge_value_is_named_in_few_characters() -> None:
    (problem,) = decoded(**{"wigglenet/node-ips": f'["{"1" * 200_000}"]'}).problems

    assert len(problem.text) < 250


def test_annotations_that_are_no_text_are_left_alone() -> None:
    metadata = {**BODY["metadata"], "creationTimestamp": None, "annotations": {**BODY["metadata"]["annotations"], "x": 1}}
    facts = decode_node({**BODY, "metadata": metadata}, own=NodeName("a"))

    assert isinstance(facts, NodeFacts)
    assert facts.public_key == key("b")


def test_one_bad_network_costs_that_network_only() -> None:
    assert decoded(**{"wigglenet/pod-cidrs": '["10.2.0.0/24","x/1"]'}).pod_cidrs == nets("10.2.0.0/24")


def test_without_a_uid_there_is_a_problem_and_no_node() -> None:
    assert isinstance(decode_node({"metadata": {"name": "b"}}, own=NodeName("a")), Problem)


def test_a_part_of_another_shape_is_named_and_the_others_are_used() -> None:
    facts = decode_node({**BODY, "status": {"addresses": "none"}}, own=NodeName("a"))

    assert isinstance(facts, NodeFacts)
    assert [p.text.split(" ")[0] for p in facts.problems] == ["status.addresses"]
    assert facts.public_key == key("b")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["", "x", "10.0.0.0/8", "\ud800", "[["]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "uid", "annotations", "podCIDRs", "x"]), inner)
    ),
    max_leaves=8,
)


@given(st.fixed_dictionaries({}, optional={"metadata": JSON, "spec": JSON, "status": JSON}))
def test_no_body_makes_the_decoder_raise(body: dict[str, Any]) -> None:
    assert isinstance(decode_node(body, own=NodeName("a")), NodeFacts | Problem)


def test_of_very_many_values_the_first_are_used() -> None:
    many = [f"192.0.{i // 256}.{i % 256}" for i in range(MOST + 3)]
    facts = decoded(**{"wigglenet/node-ips": json.dumps(many)})

    assert [str(ip) for ip in facts.node_ips] == many[:MOST]
    assert [p.text for p in facts.problems] == [
        f"wigglenet/node-ips '{ip}' is not used: it comes after {MOST} others" for ip in many[MOST:]
    ]


@pytest.mark.parametrize(
    ("text", "address", "port"),
    [
        ("192.0.2.1", "192.0.2.1", None),
        ("192.0.2.1:555", "192.0.2.1", 555),
        ("2001:db8::1", "2001:db8::1", None),
        ("::1:2:3:4", "::1:2:3:4", None),
        ("[2001:db8::1]", "2001:db8::1", None),
        ("[2001:db8::1]:65535", "2001:db8::1", 65535),
    ],
)
def test_an_endpoint_is_an_address_and_perhaps_a_port(text: str, address: str, port: int | None) -> None:
    facts = decoded(**{"wigglenet/endpoint": text})

    assert facts.endpoint == (ips(address)[0], port)
    assert facts.problems == ()


@pytest.mark.parametrize(
    "text",
    """a.example a.example:555 192.0.2.1:0 192.0.2.1:65536 192.0.2.1: 192.0.2.256 [2001:db8::1]:0 [2001:db8::1 2001:db8::1]:5
    [192.0.2.1]:5 fe80::1%eth0 :555 ::ffff:192.0.2.1 [::]: 192.0.2.1:555:6""".split(),  # noqa: SIM905 - as a table
)
def test_what_is_no_endpoint_is_named_and_not_used(text: str) -> None:
    facts = decoded(**{"wigglenet/endpoint": text})

    assert facts.endpoint is None
    assert ["wigglenet/endpoint" in p.text for p in facts.problems] == [True]
