"""The law of the difference, for plain state tables and for those in parts."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wigglenet_operator.model.changes import Parts, diff, patched

Table = Mapping[int, int]
PLAIN: st.SearchStrategy[Table] = st.dictionaries(st.integers(0, 9), st.integers(0, 3))


def by_third(key: int) -> str:
    return f"part {key % 3}"


def in_parts(items: Table) -> Parts[int, int]:
    return Parts.of(items.items(), by_third)


TABLES = PLAIN | PLAIN.map(in_parts)


@given(TABLES, TABLES)
def test_a_patched_table_is_the_desired_one(actual: Table, desired: Table) -> None:
    assert patched(actual, diff(actual, desired)) == desired


@given(TABLES, st.booleans())
def test_equal_tables_have_no_difference(table: Table, parts: bool) -> None:  # noqa: FBT001 - drawn
    assert not diff(table, in_parts(table) if parts else dict(table))


@given(TABLES, TABLES)
def test_a_difference_names_each_key_once(actual: Table, desired: Table) -> None:
    changes = diff(actual, desired)

    assert len(changes.add) + len(changes.change) + len(changes.remove) == len({*changes.add, *changes.change, *changes.remove})


@given(PLAIN, PLAIN)
def test_a_table_in_parts_has_the_difference_of_a_plain_one(actual: Table, desired: Table) -> None:
    assert diff(in_parts(actual), in_parts(desired)) == diff(actual, desired)


@given(PLAIN)
def test_a_table_in_parts_is_equal_to_a_plain_one_and_has_no_empty_part(table: Table) -> None:
    parts = in_parts(table)
    assert (dict(parts), len(parts), {key: parts[key] for key in table}) == (table, len(table), table)
    assert parts == table
    assert all(parts.parts.values())
    with pytest.raises(KeyError):
        parts[10]


def test_a_part_that_does_not_change_stays_the_same_object() -> None:
    before = in_parts({0: 1, 1: 1, 2: 1, 3: 1})

    after = patched(before, diff(before, in_parts({0: 1, 1: 1, 2: 2})))

    assert isinstance(after, Parts)
    assert [after.parts.get(name) is part for name, part in before.parts.items()] == [False, True, False]


class Once(dict[int, int]):
    """A part that must not be compared: it can be asked for nothing but whether it is empty."""

    def items(self) -> None:  # type: ignore[override]
        raise AssertionError

    def __eq__(self, other: object) -> bool:
        raise AssertionError

    __hash__ = None


def test_a_part_that_is_the_same_object_is_not_compared() -> None:
    same = Once({1: 1, 4: 1})
    one, other = (Parts({"part 0": {0: value}, "part 1": same}, by_third) for value in (1, 2))

    assert dict(diff(one, other).change) == {0: 2}
