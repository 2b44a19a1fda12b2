"""A Ruleset -> what `nft -f` reads, and back from what `nft list table` writes.

`parse(render(r)) == r`, also by way of the kernel.  The text format because JSON cannot say `typeof` to nft 1.0.6, and a
set that nft 1.1.3 makes without it crashes older ones; no `destroy`, which 1.0.6 does not know.  Commands are grouped by
set, for nft folds only neighbours.  Source: nft(8), nftables 1.0.1 and later.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain

from wigglenet_operator.model.changes import Changes, patched
from wigglenet_operator.model.ruleset import FAMILY, TABLE, Content, Item, Ruleset

DEFINING = ("type ", "comment ")
"""How the first line of a chain begins where it is no rule."""
BEGIN = "elements = { "


def render(ruleset: Ruleset) -> str:
    """The table as a file: sets and maps by name, then chains by name; empty for an empty ruleset."""
    if not ruleset:
        return ""
    elements = _by_holder(ruleset.items())
    blocks = sorted((item for item in ruleset if not item.element), key=lambda item: (item.kind == "chain", item))
    lines = chain.from_iterable(_block(item, ruleset[item], elements.get(item, [])) for item in blocks)
    return "\n".join([f"table {FAMILY} {TABLE} {{", *lines, "}"]) + "\n"


def render_replacement(ruleset: Ruleset) -> str:
    """One transaction after which the table is this, whatever was there; packets may find a new set still empty, see below."""
    return f"table {FAMILY} {TABLE} {{}}\ndelete table {FAMILY} {TABLE}\n{render(ruleset)}"


def render_changes(actual: Ruleset, changes: Changes[Item, Content]) -> tuple[str, ...]:
    """The transactions that make the changes to a table with that content: what no packet meets yet, then the change itself.

    Two, because no packet may see a part.  A transaction is atomic for the rules, but on Linux 6.18 not for the content of an
    interval set that it makes: for an instant the new rules find the set empty.  Measured with new connections all the time:
    of 100 replacements of the whole table two or three had one dropped, or sent out with a pod's address; of 100,000
    connections beside changes of this form, none.  For the same reason nothing that is in use is ever made anew.
    """
    redefined = (
        i for i, now in changes.change.items() if not i.element and _definition(i, now) != _definition(i, changes.was[i])
    )
    if any(redefined) or any(not item.kind for item in changes.remove):
        return (render_replacement(patched(actual, changes)),)
    new = {i for i, lines in changes.add.items() if not i.element and not (i.kind == "chain" and _definition(i, lines))}
    unmet = {i: content for i, content in changes.add.items() if _holder(i) in new}
    met = {i: content for i, content in changes.add.items() if _holder(i) not in new}
    table = f"table {FAMILY} {TABLE}"
    first = [f"add {table}"] if not actual else []
    last = [f"delete {table}"] if not patched(actual, changes) else []
    transactions = (
        [*first, *_additions(unmet)],
        [*_removals(changes), *_additions({**met, **changes.change}, changes.change), *last],
    )
    return tuple("".join(f"{line}\n" for line in lines) for lines in transactions if lines)


def _additions(items: Mapping[Item, Content], there: Collection[Item] = ()) -> Iterator[str]:
    """What is needed comes before what needs it; chains and sets that are `there` are not made, only filled."""
    objects = {item: content for item, content in items.items() if not item.element}
    for item, lines in objects.items():
        if item not in there:
            definition = " ".join(f"{line};" for line in _definition(item, lines))
            yield f"add {_path(item)} {{ {definition} }}" if definition else f"add {_path(item)}"
    yield from _element_commands("add", items.items())
    for item, lines in objects.items():
        rules = lines[len(_definition(item, lines)) :]
        yield from (f"add rule {FAMILY} {TABLE} {item.name} {rule}" for rule in rules)


def _removals(changes: Changes[Item, Content]) -> Iterator[str]:
    """And the rules of the chains that change; elements, sets and maps first, for they may call chains that go."""
    old = [*changes.was.items(), *changes.remove.items()]
    yield from _element_commands("delete", (pair for pair in old if _holder(pair[0]) not in changes.remove))
    objects = [item for item, _ in old if not item.element]
    yield from (f"flush {_path(item)}" for item in objects if item.kind == "chain")
    gone = sorted((item for item in objects if item in changes.remove), key=lambda item: item.kind == "chain")
    yield from (f"delete {_path(item)}" for item in gone)


def _definition(item: Item, lines: Content) -> Content:
    """Those of the lines that `flush` does not remove: all of a set's; of a chain's the first, if it is no rule."""
    return lines[: 1 if lines and lines[0].startswith(DEFINING) else 0] if item.kind == "chain" else lines


def _path(item: Item) -> str:
    return f"{item.kind} {FAMILY} {TABLE} {item.name}"


def _holder(item: Item) -> Item:
    return Item(item.kind, item.name) if item.element else item


def _element_commands(verb: str, items: Iterable[tuple[Item, Content]]) -> Iterator[str]:
    for holder, elements in sorted(_by_holder(items).items()):
        yield f"{verb} element {FAMILY} {TABLE} {holder.name} {{ {', '.join(elements)} }}"


def _by_holder(items: Iterable[tuple[Item, Content]]) -> dict[Item, list[str]]:
    """The elements among the items, by the set or map that has them, sorted."""
    found: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for (kind, name, element), verdict in items:
        if element:
            found[kind, name].append(f"{element} : {verdict}" if verdict else element)
    return {Item(*holder): sorted(elements) for holder, elements in found.items()}


def _block(item: Item, lines: Content, elements: Iterable[str]) -> Iterator[str]:
    yield f"\t{item.kind} {item.name} {{"
    yield from (f"\t\t{line}" for line in lines)
    if elements:
        yield f"\t\t{BEGIN}" + ",\n\t\t\t     ".join(elements) + " }"
    yield "\t}"


def parse(listing: str) -> dict[Item, Content]:
    """What a listing of our table says, whoever has written it; what is not known is there as an Item of another kind."""
    found: dict[Item, Content] = {}
    lines = iter(listing.splitlines()[1:-1])  # the table's braces
    for line in lines:
        kind, _, name = line.strip().removesuffix(" {").partition(" ")
        if line.endswith(" {"):
            item = Item(kind, name)
            found[item] = tuple(_inside(item, lines, found))
        elif line.strip():
            found[Item("", line.strip())] = ()  # flags or comment of the table
    return found


def _inside(item: Item, lines: Iterator[str], found: dict[Item, Content]) -> Iterator[str]:
    """The lines of a block, up to its end; its elements are added to what was found."""
    for line in lines:
        text = line.strip()
        if line == "\t}":
            return
        if not text.startswith(BEGIN):
            yield text
            continue
        while not text.endswith(" }"):
            text += f" {next(lines).strip()}"
        for element in text.removeprefix(BEGIN).removesuffix(" }").split(","):
            key, _, verdict = element.strip().partition(" : ")
            found[Item(item.kind, item.name, key)] = verdict
