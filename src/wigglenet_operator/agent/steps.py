"""The tables of a node, read and written: every table is read, and written when the steps that it needs have not failed."""

import time
from collections.abc import Iterable, Mapping
from typing import Any

from wigglenet_operator.errors import PendingError, WigglenetError
from wigglenet_operator.kernel.ports import KeyedTable
from wigglenet_operator.model.changes import Changes, diff
from wigglenet_operator.model.report import Problem, StepReport
from wigglenet_operator.plan.desired import STEPS

Tables = Mapping[str, KeyedTable[Any, Any]]  # each has types of its own; STEPS ties their names to DesiredState
Observed = Mapping[str, Mapping[Any, Any] | WigglenetError]
Differences = Mapping[str, Changes[Any, Any] | WigglenetError]


async def observe(tables: Tables, names: Iterable[str]) -> Observed:
    """What is there in the tables of those names; the error of a table that could not be read in its place."""
    return {name: await _seen(tables[name]) for name in names}


async def apply(tables: Tables, differences: Differences) -> dict[str, StepReport]:
    """What each step did, in the order of STEPS; a table that could not be read is a failed step.

    What waits for everything is taken back first of all, for a server that is slow could hold it up.
    """
    done: dict[str, StepReport] = {}
    taken_back: dict[str, StepReport] = {}
    stopped: set[str] = set()  # what failed and what needs it, for a step with nothing to write passes the wait on
    for step in STEPS:
        going = differences.get(step.table)
        if step.table in tables and step.needs == ("*",) and isinstance(going, Changes) and going.remove and not going.put:
            taken_back[step.table] = await _step(tables[step.table], going)
    for step in STEPS:
        if step.table not in tables:
            continue
        if step.table in taken_back:
            done[step.table] = taken_back[step.table]
            continue
        changes = differences[step.table]
        before = done.keys() if step.needs == ("*",) else done.keys() & set(step.needs)
        needed = next((name for name in done if name in before & stopped), None)
        if needed and changes:
            pending = done[needed].pending
            done[step.table] = StepReport(waits_for="" if pending else needed, pending=pending)
        else:
            done[step.table] = await _step(tables[step.table], changes)
        if needed or done[step.table].failed or done[step.table].pending:
            stopped.add(step.table)
    return done


async def withdraw(tables: Tables, actual: Observed) -> dict[str, StepReport]:
    """Take the CNI file away, whatever becomes of the rest; what that did."""
    there = actual.get("cni", {})
    if not there:
        return {}
    return {"cni": await _step(tables["cni"], there if isinstance(there, WigglenetError) else diff(there, {}))}


def failures(steps: Mapping[str, StepReport]) -> frozenset[Problem]:
    """A problem for each step that was refused; not for those that wait for one."""
    failed = {step.table: step.failed for step in STEPS}
    errors = {name: step.error for name, step in steps.items() if step.error}
    return frozenset(Problem(code=failed[name], subject=f"step {name}", text=error) for name, error in errors.items())


async def _seen(table: KeyedTable[Any, Any]) -> Mapping[Any, Any] | WigglenetError:
    try:
        return await table.observe()
    except WigglenetError as error:
        return error


async def _step(table: KeyedTable[Any, Any], changes: Changes[Any, Any] | WigglenetError) -> StepReport:
    if isinstance(changes, WigglenetError):
        return StepReport(error=str(changes))
    if not changes:
        return StepReport()
    start = time.monotonic()
    try:
        await table.apply(changes)
    except PendingError:
        return StepReport(pending=True, seconds=time.monotonic() - start)
    except WigglenetError as error:
        return StepReport(error=str(error), seconds=time.monotonic() - start)
    seconds = time.monotonic() - start
    return StepReport(added=len(changes.add), changed=len(changes.change), removed=len(changes.remove), seconds=seconds)
