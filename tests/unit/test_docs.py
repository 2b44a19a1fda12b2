"""README and docs/ say what the code does; `nox -s docs` writes their generated tables anew."""

import re
import textwrap
from pathlib import Path

import pytest

import wigglenet_operator
from tests.docs import PAGES, ROOT, TABLE, TABLES, Block, Command, blocks, meanings_of, written
from wigglenet_operator import __version__
from wigglenet_operator.agent.metrics import METRICS
from wigglenet_operator.settings import Settings

README = (ROOT / "README.md").read_text()
ALL = "\n".join(page.read_text() for page in PAGES)
LINK = re.compile(r"\]\((?!https?://)([^)#\s]*)(?:#([^)\s]+))?\)")
BLOCKS = [block for page in PAGES for block in blocks(page)]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@each_page
def test_a_generated_table_is_the_codes(page: Path, request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--update-golden"):
        page.write_text(written(page))

    assert page.read_text() == written(page), "stale: `nox -s docs`"


def test_every_table_that_can_be_generated_is_in_a_page() -> None:
    assert sorted(name for _, name, _ in TABLE.findall(ALL)) == sorted(TABLES)


def test_every_setting_has_a_meaning() -> None:
    assert meanings_of(Settings).keys() == Settings.model_fields.keys()


def anchors(page: Path) -> set[str]:
    """What GitHub makes of a page's headings."""
    prose = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@each_page
def test_every_link_leads_somewhere(page: Path) -> None:
    for path, anchor in LINK.findall(page.read_text()):
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"


def test_every_page_is_reached_from_the_readme() -> None:
    seen: set[Path] = set()
    todo = {ROOT / "README.md"}
    while todo:
        page = todo.pop()
        seen.add(page)
        linked = {(page.parent / path).resolve() for path, _ in LINK.findall(page.read_text()) if path}
        todo |= {one for place in linked for one in (place.glob("*.md") if place.is_dir() else [place])} & {*PAGES} - seen

    assert seen == {*PAGES}


def test_commands_stand_in_console_blocks_only() -> None:
    fences = re.findall(r"^ *```(\w*)\n", ALL, re.MULTILINE)

    assert set(fences) <= {"", "console", "yaml"}
    assert fences.count("console") == len(BLOCKS)
    assert "not run:" not in re.sub(r"<!-- not run: \S[^\n]* -->\n *```console", "", ALL), "a reason, right before a block"


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.where)
def test_a_block_of_commands_begins_with_one_and_says_where_each_is_typed(block: Block) -> None:
    assert block.commands


def test_the_plan_that_is_shown_is_the_golden_one() -> None:
    golden = (ROOT / "tests/golden/three-nodes-b.txt").read_text()
    (command,) = (c for block in BLOCKS for c in block.commands if "examples/three-nodes.yaml --node b" in c.line)

    assert len(command.shown) > 10
    assert command.prints(golden)


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("a\n...\nc", "a\nb\nb\nc\n", True),
        ("a\n...\nc", "a\nc\n", True),
        ("a\n...\nc", "a\nc\nd\n", False),
        ("a ... c", "a b c  \n", True),
        ("a ... c", "a b\nc\n", False),
        ("a.c", "abc\n", False),
    ],
)
def test_three_dots_stand_for_anything_and_all_else_for_itself(shown: str, printed: str, *, same: bool) -> None:
    assert Command(line="", on_a_node=False, shown=tuple(shown.splitlines())).prints(printed) is same


def test_the_picture_is_the_packages() -> None:
    documented = wigglenet_operator.__doc__ or ""
    picture = documented.partition("result is told:\n\n")[2].partition("\n\nLayers")[0]

    assert f"```\n{textwrap.dedent(picture)}\n```" in README


def test_what_the_documents_name_is_there() -> None:
    for path in re.findall(r"`((?:manifests|kind|image|tests|examples)/[\w./-]+)`", ALL):
        assert (ROOT / path).exists(), path
    assert set(re.findall(r"wigglenet-operator[:-](\d[\w.]*\d)", ALL)) == {__version__}


def test_every_metric_that_the_documents_name_is_one() -> None:
    assert set(re.findall(r"\bwigglenet_(?!operator)\w+", ALL)) == {metric.name for metric in METRICS}


def test_a_decision_has_half_a_page_and_what_would_change_it() -> None:
    records = sorted((ROOT / "docs/decisions").glob("*.md"))

    assert 0 < len(records) <= 8
    for number, record in enumerate(records, 1):
        text = record.read_text()
        assert record.name.startswith(f"{number:04}-")
        assert text.startswith(f"# {number}. ")
        assert re.findall(r"^\*\*([\w ]+)\.\*\*", text, re.MULTILINE) == [
            "Context",
            "Decision",
            "Consequences",
            "What would change it",
        ]
        assert len(text.split()) < 350, record.name
