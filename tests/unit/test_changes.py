"""The law of the difference."""

from hypothesis import given
from hypothesis import strategies as st

from wigglenet_operator.model.changes import diff, patched

TABLES = st.dictionaries(st.integers(0, 9), st.integers(0, 3))


@given(TABLES, TABLES)
def test_a_patched_table_is_the_desired_one(actual: dict[int, int], desired: dict[int, int]) -> None:
    assert patched(actual, diff(actual, desired)) == desired


@given(TABLES)
def test_equal_tables_have_no_difference(table: dict[int, int]) -> None:
    assert not diff(table, dict(table))


@given(TABLES, TABLES)
def test_a_difference_names_each_key_once(actual: dict[int, int], desired: dict[int, int]) -> None:
    changes = diff(actual, desired)

    assert len(changes.add) + len(changes.change) + len(changes.remove) == len({*changes.add, *changes.change, *changes.remove})
