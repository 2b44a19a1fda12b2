"""The text of our table: its way there and back, how little a change says, and what others may have put in.

What the kernel makes of it is in `tests/contract/test_nft.py`.
"""

import re
import socket
from ipaddress import IPv6Network, ip_network
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.choices import Choices, chosen
from wigglenet_operator.kernel.nft_text import parse, render, render_changes, render_replacement
from wigglenet_operator.model.changes import diff
from wigglenet_operator.model.ruleset import Content, Item, Ruleset, element_text

HOOKS = [
    "type filter hook forward priority filter; policy accept;",
    "type nat hook postrouting priority srcnat; policy accept;",
]
RULES = [
    "ct state established,related accept",
    'oifname "wigglenet" tcp flags syn tcp option maxseg size set rt mtu',
    "ip saddr @wt_own4 ip daddr != @wt_pods4 masquerade fully-random",
    "icmp type { destination-unreachable, time-exceeded, parameter-problem } accept",
    'iifname "veth1" ip saddr . tcp dport @wt_c drop comment "a, b } c"',
    "drop",
]
DEFINITIONS = [("typeof ip saddr", "flags interval"), ("typeof ip6 saddr . tcp dport",), ("typeof iifname",)]
KEYS = ["10.1.0.0/24", "10.1.1.7", "fd00:1::/64", "::ffff:10.0.0.1", '"veth1"', "10.1.0.7 . 80", "10.1.0.0/24 . 1-1023"]
VERDICTS = ["accept", "drop", "jump wt_a", "goto wt_b"]
NAMES = ["wt_a", "wt_b", "wt_own4", "wt_x"]
SET, MAP, CHAIN, HOOKED = Item("set", "wt_own4"), Item("map", "wt_x"), Item("chain", "wt_a"), Item("chain", "wt_forward")
DEFINITION = ("typeof ip saddr", "flags interval")
BASE: Ruleset = {
    SET: DEFINITION,
    Item("set", "wt_own4", "10.1.0.0/24"): "",
    Item("set", "wt_own4", "10.2.0.0/24"): "",
    MAP: ("typeof ip saddr : verdict",),
    Item("map", "wt_x", "10.1.0.7"): "jump wt_a",
    CHAIN: ("ip saddr @wt_own4 accept", "drop"),
    HOOKED: (HOOKS[0], "ip saddr vmap @wt_x"),
}


def any_ruleset(choices: Choices) -> Ruleset:
    found: dict[Item, Content] = {}
    for name in choices.subset(NAMES):
        hook = choices.one([(), *((hook,) for hook in HOOKS)])
        found[Item("chain", name)] = (*hook, *choices.some(lambda: choices.one(RULES), most=5))
    for name in choices.subset(NAMES):
        found[Item("set", name)] = choices.one(DEFINITIONS)
        found |= {Item("set", name, key): "" for key in choices.subset(KEYS)}
    for name in choices.subset(NAMES):
        first, *others = choices.one(DEFINITIONS)
        found[Item("map", f"{name}_map")] = (f"{first} : verdict", *others)
        found |= {Item("map", f"{name}_map", key): choices.one(VERDICTS) for key in choices.subset(KEYS)}
    return found


def any_pair(choices: Choices) -> tuple[Ruleset, Ruleset]:
    """Two that have much in common: of most chains, sets and maps the second has the same declaration, of half the content.

    Sometimes one of them is empty.
    """
    before, other = any_ruleset(choices), any_ruleset(choices)
    after: dict[Item, Content] = {}
    for holder in dict.fromkeys(Item(item.kind, item.name) for item in (*before, *other)):
        declared = choices.one([before] * 6 + [{}, other] if holder in before else [{}, other])
        filled = choices.one([before, other])
        if holder not in declared:
            continue
        hook = tuple(line for line in declared[holder] if holder.kind != "chain" or line in HOOKS)
        rules = tuple(line for line in filled.get(holder, ()) if holder.kind == "chain" and line not in HOOKS)
        after[holder] = hook + rules
        after |= {item: verdict for item, verdict in filled.items() if item.element and Item(item.kind, item.name) == holder}
    nothing: Ruleset = {}
    return choices.one([(before, after)] * 8 + [(nothing, after), (before, nothing)])


SIZE = 3 + len(NAMES) * (7 + 2 + 2 + len(KEYS))
"""Of a ruleset in bytes of choices."""
RULESETS = chosen(any_ruleset, size=SIZE)
PAIRS = chosen(any_pair, size=2 * (SIZE + 3 * len(NAMES)) + 1)
RANDOMS = st.randoms(use_true_random=True)
"""Seeded by Hypothesis, in one choice."""


def shuffled(ruleset: Ruleset, random: Random) -> Ruleset:
    return dict(random.sample(list(ruleset.items()), len(ruleset)))


def transactions(before: Ruleset, after: Ruleset) -> list[list[str]]:
    """The commands of each."""
    return [text.splitlines() for text in render_changes(before, diff(before, after))]


def changed(before: Ruleset, after: Ruleset) -> str:
    return "".join(render_changes(before, diff(before, after)))


def without(ruleset: Ruleset, *items: Item) -> Ruleset:
    """The ruleset without these, and without the elements that they hold."""
    return {item: content for item, content in ruleset.items() if Item(item.kind, item.name) not in items and item not in items}


def numbered(*numbers: int) -> Ruleset:
    return {Item("set", "wt_own4", f"10.9.{number}.0/24"): "" for number in numbers}


def replaced(before: Ruleset, after: Ruleset) -> bool:
    """Whether the whole table is written anew."""
    return render_changes(before, diff(before, after)) == (render_replacement(after),)


@given(RULESETS)
def test_what_was_rendered_is_parsed_as_it_was(ruleset: Ruleset) -> None:
    assert parse(render(ruleset)) == ruleset


@given(RULESETS, RANDOMS)
def test_the_order_of_items_makes_no_difference(ruleset: Ruleset, random: Random) -> None:
    assert render(shuffled(ruleset, random)) == render(ruleset)


@given(PAIRS, RANDOMS)
def test_a_changes_commands_name_nothing_that_stays(pair: tuple[Ruleset, Ruleset], random: Random) -> None:
    before, after = pair
    texts = render_changes(before, diff(shuffled(before, random), shuffled(after, random)))
    if texts == (render_replacement(after),) or not (before or after):
        return
    changes = diff(before, after)
    touched = {f"{item.kind} {item.name}" for item in (*changes.put, *changes.remove) if not item.element}
    holders = {item.name for item in (*changes.put, *changes.remove) if item.element}
    for line in "".join(texts).splitlines():
        if line.endswith(" table inet wigglenet"):
            assert line.startswith("delete" if before else "add")
            assert not (before and after)
            continue
        verb, kind, path = re.findall(r"^(\w+) (\w+) inet wigglenet (\S+)", line)[0]
        named = path in holders if kind == "element" else f"{'chain' if kind == 'rule' else kind} {path}" in touched
        assert named, line
        assert verb in {"add", "delete", "flush"}


@given(PAIRS)
def test_each_set_is_told_once_what_goes_and_once_what_comes(pair: tuple[Ruleset, Ruleset]) -> None:
    told = re.findall(r"^(\w+) element inet wigglenet (\S+)", changed(*pair), re.MULTILINE)

    assert len(set(told)) == len(told)
    for name in {name for _, name in told}:
        assert [verb for verb, other in told if other == name] in (["delete"], ["add"], ["delete", "add"])


@given(RULESETS)
def test_no_change_is_no_text(ruleset: Ruleset) -> None:
    if ruleset:
        assert changed(ruleset, ruleset) == ""


@given(RULESETS)
def test_to_nothing_all_goes_with_the_table_in_one_transaction(ruleset: Ruleset) -> None:
    if ruleset:
        (commands,) = transactions(ruleset, {})
        assert commands[-1] == "delete table inet wigglenet"
        assert {line.split()[0] for line in commands} <= {"delete", "flush"}


@given(RULESETS)
def test_a_replacement_is_one_transaction_that_holds_everything(ruleset: Ruleset) -> None:
    text = render_replacement(ruleset)

    assert text == f"table inet wigglenet {{}}\ndelete table inet wigglenet\n{render(ruleset)}"


@given(PAIRS)
def test_what_is_new_is_made_and_filled_before_any_packet_can_meet_it(pair: tuple[Ruleset, Ruleset]) -> None:
    """By a transaction of its own, which names nothing that is in use and hangs nothing on a hook."""
    before, after = pair
    told = transactions(before, after)
    new = {item.name for item in after.keys() - before.keys() if not item.element}
    made = [re.findall(r"^add (?:set|map|chain) inet wigglenet (\S+)", line) for commands in told for line in commands]
    if replaced(before, after) or not any(made):
        return
    for line in told[0] if len(told) == 2 else []:
        assert line == "add table inet wigglenet" or (line.startswith("add ") and line.split()[4] in new)
        assert "type filter" not in line
        assert "type nat" not in line
    for line in told[-1] if len(told) == 2 else []:
        assert not line.startswith(("add set ", "add map "))


@given(PAIRS)
def test_nothing_that_is_in_use_is_made_anew(pair: tuple[Ruleset, Ruleset]) -> None:
    before, after = pair
    if replaced(before, after):
        return
    stays = {f"{item.kind} inet wigglenet {item.name}" for item in before.keys() & after.keys() if not item.element}
    for line in changed(before, after).splitlines():
        verb, what = line.split(maxsplit=1)
        assert verb == "flush" or what.split(" {")[0] not in stays


def test_nothing_is_an_empty_file_and_a_missing_table() -> None:
    assert render({}) == ""
    assert parse("") == {}
    assert parse("table inet wigglenet {\n}\n") == {}


def test_the_table_is_as_nft_writes_it() -> None:
    assert render(BASE).expandtabs(8) == (
        """\
table inet wigglenet {
        map wt_x {
                typeof ip saddr : verdict
                elements = { 10.1.0.7 : jump wt_a }
        }
        set wt_own4 {
                typeof ip saddr
                flags interval
                elements = { 10.1.0.0/24,
                             10.2.0.0/24 }
        }
        chain wt_a {
                ip saddr @wt_own4 accept
                drop
        }
        chain wt_forward {
                type filter hook forward priority filter; policy accept;
                ip saddr vmap @wt_x
        }
}
"""
    )


def test_ten_elements_that_change_are_ten_elements_of_text() -> None:
    many = {**BASE, **numbered(*range(200))}
    after = {**without(many, *numbered(*range(5))), **numbered(*range(200, 205))}
    ((goes, comes),) = transactions(many, after)

    assert goes == "delete element inet wigglenet wt_own4 { 10.9.0.0/24, 10.9.1.0/24, 10.9.2.0/24, 10.9.3.0/24, 10.9.4.0/24 }"
    assert comes == (
        "add element inet wigglenet wt_own4 { 10.9.200.0/24, 10.9.201.0/24, 10.9.202.0/24, 10.9.203.0/24, 10.9.204.0/24 }"
    )


def test_elements_that_alternate_between_sets_are_told_set_by_set() -> None:
    sets = {Item("set", name): DEFINITION for name in ("wt_one", "wt_two")}
    after = {Item("set", f"wt_{name}", f"10.9.{n}.0/24"): "" for n in range(3) for name in ("two", "one")}

    assert changed(sets, {**sets, **after}) == (
        "add element inet wigglenet wt_one { 10.9.0.0/24, 10.9.1.0/24, 10.9.2.0/24 }\n"
        "add element inet wigglenet wt_two { 10.9.0.0/24, 10.9.1.0/24, 10.9.2.0/24 }\n"
    )


@pytest.mark.parametrize(
    ("after", "told"),
    [
        (
            {**without(BASE, Item("set", "wt_own4", "10.1.0.0/24")), Item("set", "wt_own4", "10.1.0.0/16"): ""},
            [["delete element P wt_own4 { 10.1.0.0/24 }", "add element P wt_own4 { 10.1.0.0/16 }"]],
        ),
        (
            {**BASE, Item("map", "wt_x", "10.1.0.7"): "drop"},
            [["delete element P wt_x { 10.1.0.7 : jump wt_a }", "add element P wt_x { 10.1.0.7 : drop }"]],
        ),
        (
            {**BASE, HOOKED: (HOOKS[0], "ip saddr @wt_own4 drop", "ip saddr vmap @wt_x")},
            [
                [
                    "flush chain P wt_forward",
                    "add rule P wt_forward ip saddr @wt_own4 drop",
                    "add rule P wt_forward ip saddr vmap @wt_x",
                ]
            ],
        ),
        ({**BASE, CHAIN: ()}, [["flush chain P wt_a"]]),
        (
            {**BASE, Item("chain", "wt_b"): ("accept",), Item("map", "wt_x", "10.1.0.8"): "goto wt_b"},
            [["add chain P wt_b", "add rule P wt_b accept"], ["add element P wt_x { 10.1.0.8 : goto wt_b }"]],
        ),
        (
            {**BASE, Item("chain", "wt_nat"): (HOOKS[1], "ip saddr @wt_own4 masquerade")},
            [[f"add chain P wt_nat {{ {HOOKS[1]}; }}", "add rule P wt_nat ip saddr @wt_own4 masquerade"]],
        ),
        (
            {
                **BASE,
                Item("set", "wt_new"): DEFINITION,
                Item("set", "wt_new", "10.0.0.0/8"): "",
                Item("chain", "wt_nat"): (HOOKS[1], "ip saddr @wt_new masquerade"),
            },
            [
                ["add set P wt_new { typeof ip saddr; flags interval; }", "add element P wt_new { 10.0.0.0/8 }"],
                [f"add chain P wt_nat {{ {HOOKS[1]}; }}", "add rule P wt_nat ip saddr @wt_new masquerade"],
            ],
        ),
        (
            {**without(BASE, SET), CHAIN: ("drop",)},
            [["flush chain P wt_a", "delete set P wt_own4", "add rule P wt_a drop"]],
        ),
    ],
)
def test_a_change_says_no_more_than_it_must(after: Ruleset, told: list[list[str]]) -> None:
    assert transactions(BASE, after) == [
        [command.replace(" P ", " inet wigglenet ") for command in commands] for commands in told
    ]


def test_what_refers_to_a_chain_or_set_goes_before_it() -> None:
    (commands,) = transactions(BASE, {HOOKED: (HOOKS[0], "accept")})
    chain, held, hooked = (
        commands.index(f"{what} inet wigglenet {name}")
        for what, name in (("delete chain", "wt_a"), ("delete set", "wt_own4"), ("flush chain", "wt_forward"))
    )

    assert hooked < chain
    assert commands.index("flush chain inet wigglenet wt_a") < held
    assert commands[-1] == "add rule inet wigglenet wt_forward accept"


@pytest.mark.parametrize(
    "was",
    [
        {**BASE, SET: ("typeof ip saddr",)},
        {**BASE, SET: ("type ipv4_addr", "flags interval")},
        {**BASE, SET: (*DEFINITION, "auto-merge")},
        {**BASE, SET: (*DEFINITION, 'comment "x"')},
        {**BASE, MAP: ("type ipv4_addr : verdict",)},
        {**BASE, HOOKED: (HOOKS[0].replace("accept", "drop"), *BASE[HOOKED][1:])},
        {**BASE, HOOKED: (HOOKS[0].replace("priority filter", "priority filter - 1"), *BASE[HOOKED][1:])},
        {**BASE, HOOKED: BASE[HOOKED][1:]},
        {**BASE, HOOKED: ('comment "x"', *BASE[HOOKED])},
        {**BASE, CHAIN: (HOOKS[0], *BASE[CHAIN])},
        {**BASE, CHAIN: ('comment "x"', *BASE[CHAIN])},
        {**BASE, Item("", "flags dormant"): ()},
        {**BASE, Item("", 'comment "x"'): ()},
    ],
)
def test_what_no_delta_can_mend_is_replaced_as_a_whole(was: Ruleset) -> None:
    assert replaced(was, BASE)


@pytest.mark.parametrize(
    "was",
    [
        without(BASE, Item("set", "wt_own4", "10.1.0.0/24")),
        {**BASE, **numbered(1)},
        {**BASE, CHAIN: ()},
        {**BASE, CHAIN: ("drop", *BASE[CHAIN])},
        {**BASE, HOOKED: (HOOKS[0],)},
        {**BASE, Item("chain", "foreign"): ("drop",)},
        {**BASE, Item("set", "foreign"): DEFINITION},
        {**BASE, Item("counter", "c"): ("packets 0 bytes 0",)},
        {**BASE, Item("flowtable", "f"): ("hook ingress priority filter",)},
        {},
    ],
)
def test_what_a_delta_can_mend_is_not_replaced(was: Ruleset) -> None:
    assert not replaced(was, BASE)


def listing(body: str) -> dict[Item, Content]:
    """What is made of a listing of BASE with these lines at the beginning of the table."""
    return parse(render(BASE).replace("{\n", "{\n" + body, 1))


@pytest.mark.parametrize(
    ("body", "item"),
    [
        ('\tcomment "x"\n', Item("", 'comment "x"')),
        ("\tflags dormant\n", Item("", "flags dormant")),
        ("\tflags dormant\n\n", Item("", "flags dormant")),
        ("\tcounter c {\n\t\tpackets 0 bytes 0\n\t}\n\n", Item("counter", "c")),
        (
            "\tflowtable f {\n\t\thook ingress priority filter\n\t\tdevices = { lo }\n\t}\n\n",
            Item("flowtable", "f"),
        ),
        (
            "\tchain wt_c {\n\t\tip saddr 10.0.0.1 jump {\n\t\t\tdrop\n\t\t}\n\t}\n",
            Item("chain", "wt_c"),
        ),
        ("\tquota q {\n\t\tover 25 mbytes\n\t}\n", Item("quota", "q")),
        ("\tsynproxy s {\n\t\tmss 1460\n\t}\n", Item("synproxy", "s")),
    ],
)
def test_what_others_put_into_the_table_is_an_item_more(body: str, item: Item) -> None:
    found = listing(body)

    assert found.keys() - BASE.keys() == {item}
    assert without(found, item) == BASE


@pytest.mark.parametrize(
    ("written", "instead", "item"),
    [
        ("\t\tdrop\n", '\t\tdrop comment "x"\n', CHAIN),
        ("\t\tdrop\n", "\t\tcounter drop\n", CHAIN),
        ("\t\tdrop\n", "\t\tip saddr 10.0.0.1 accept\n\t\tdrop\n", CHAIN),
        ("policy accept;", "policy drop;", HOOKED),
        ("\t\ttype filter", '\t\tcomment "x"\n\t\ttype filter', HOOKED),
        ("\t\tflags interval\n", "\t\tflags interval,timeout\n", SET),
        ("\t\tflags interval\n", "\t\tflags interval\n\t\tauto-merge\n", SET),
        ("\t\tflags interval\n", '\t\tflags interval\n\t\tcomment "x"\n', SET),
        ("10.2.0.0/24 }", '10.2.0.0/24 comment "x" }', Item("set", "wt_own4", "10.2.0.0/24")),
        ("10.2.0.0/24 }", '10.2.0.0/24 comment "x, y" }', Item("set", "wt_own4", "10.2.0.0/24")),
        ("10.2.0.0/24 }", "10.2.0.0-10.2.0.9 }", Item("set", "wt_own4", "10.2.0.0/24")),
        ("10.1.0.7 :", "10.1.0.7 counter packets 0 bytes 0 :", Item("map", "wt_x", "10.1.0.7")),
        ("jump wt_a }", "accept }", Item("map", "wt_x", "10.1.0.7")),
    ],
)
def test_what_others_change_is_a_difference_of_that_item(written: str, instead: str, item: Item) -> None:
    text = render(BASE)
    assert text.count(written) == 1
    changes = diff(parse(text.replace(written, instead)), BASE)

    assert [*changes.put] == [item]


def test_how_a_listing_breaks_lines_between_elements_is_no_difference() -> None:
    elements = numbered(*range(7))
    text = render({**BASE, **elements})

    assert parse(re.sub(r",\n\t+ +", ", ", text)) == {**BASE, **elements}
    assert parse(text.replace("\t}\n\t", "\t}\n\n\t")) == {**BASE, **elements}


@pytest.mark.parametrize(
    ("network", "text"),
    [
        ("10.1.0.0/24", "10.1.0.0/24"),
        ("10.1.0.7/32", "10.1.0.7"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("0.0.0.0/32", "0.0.0.0"),  # noqa: S104 - nothing is bound
        ("fd00:1::/64", "fd00:1::/64"),
        ("fd00:1::7/128", "fd00:1::7"),
        ("::/0", "::/0"),
        ("::/128", "::"),
        ("::1/128", "::1"),
        ("::ffff/128", "::ffff"),
        ("::1:0/112", "::0.1.0.0/112"),
        ("::10.0.0.1/128", "::10.0.0.1"),
        ("::10.0.0.0/104", "::10.0.0.0/104"),
        ("::ffff:10.0.0.1/128", "::ffff:10.0.0.1"),
        ("::ffff:0:0/96", "::ffff:0.0.0.0/96"),
        ("::fffe:a00:1/128", "::fffe:a00:1"),
        ("64:ff9b::a00:1/128", "64:ff9b::a00:1"),
        ("1::ffff:a00:1/128", "1::ffff:a00:1"),
    ],
)
def test_an_element_is_as_nft_writes_it(network: str, text: str) -> None:
    assert element_text(ip_network(network)) == text


@given(st.integers(0, (1 << 128) - 1), st.integers(0, 128), st.integers(0, 128))
def test_addresses_are_written_as_the_c_library_writes_them(number: int, shift: int, length: int) -> None:
    network = IPv6Network((number >> shift, length), strict=False)
    suffix = "" if length == 128 else f"/{length}"

    assert element_text(network) == socket.inet_ntop(socket.AF_INET6, network.network_address.packed) + suffix
