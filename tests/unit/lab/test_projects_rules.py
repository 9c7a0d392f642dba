"""Who may do what: every cell of the table of roles and operations, and what holds for all of them."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kachery_cloud.lab.projects_rules import Operation, Standing, allowed
from kachery_cloud.lab_places import ROLES, VISIBILITIES

#: Who asks.
NOBODY = Standing()
READER, WRITER, ADMINISTRATOR = (Standing(role) for role in ROLES)
LAB = Standing(lab_administrator=True)
OWNER = Standing(own=True)

#: For each operation, who may: in a public project, and in one for its members alone.
TABLE = {
    Operation.SEE: (
        {NOBODY, READER, WRITER, ADMINISTRATOR, LAB, OWNER},
        {READER, WRITER, ADMINISTRATOR, LAB, OWNER},
    ),
    Operation.READ: ({NOBODY, READER, WRITER, ADMINISTRATOR, LAB, OWNER}, {READER, WRITER, ADMINISTRATOR}),
    Operation.WRITE: ({WRITER, ADMINISTRATOR}, {WRITER, ADMINISTRATOR}),
    Operation.ADMINISTER: ({ADMINISTRATOR, LAB}, {ADMINISTRATOR, LAB}),
    Operation.INVITE: (set[Standing](), {READER, WRITER, ADMINISTRATOR}),
    Operation.DELETE_FILE: ({ADMINISTRATOR, LAB, OWNER}, {ADMINISTRATOR, LAB, OWNER}),
}
#: Of a file that is in no project.
LOOSE = {Operation.SEE: {LAB, OWNER}, Operation.READ: {OWNER}, Operation.DELETE_FILE: {LAB, OWNER}}
PEOPLE = (NOBODY, READER, WRITER, ADMINISTRATOR, LAB, OWNER)

standings = st.builds(Standing, st.sampled_from([None, *ROLES]), st.booleans(), st.booleans())


@pytest.mark.parametrize(
    ("operation", "visibility", "who"), list(itertools.product(Operation, (*VISIBILITIES, None), PEOPLE))
)
def test_each_cell(operation: Operation, visibility: str | None, who: Standing) -> None:
    """Allowed where the table has it, and nowhere else."""
    if visibility is None:
        expected = who in LOOSE.get(operation, set[Standing]())
    else:
        expected = who in TABLE[operation][VISIBILITIES.index(visibility)]  # type: ignore[arg-type]
    assert allowed(operation, visibility, who) is expected  # type: ignore[arg-type]


@given(standings, st.sampled_from(list(Operation)), st.sampled_from([*VISIBILITIES, None]))
def test_sides_add_up(who: Standing, operation: Operation, visibility: str | None) -> None:
    """Somebody with several sides may do what one of these may, and no more."""
    sides = [Standing(who.role)]
    sides += [Standing(lab_administrator=True)] if who.lab_administrator else []
    sides += [Standing(own=True)] if who.own else []
    expected = any(allowed(operation, visibility, side) for side in sides)  # type: ignore[arg-type]
    assert allowed(operation, visibility, who) is expected  # type: ignore[arg-type]


@given(standings, st.sampled_from(VISIBILITIES))
def test_a_higher_role_may_all_that_a_lower_one_may(who: Standing, visibility: str) -> None:
    """And whoever may do anything with a project may see it."""
    for lower, higher in itertools.pairwise((None, *ROLES)):
        for operation in Operation:
            may = allowed(operation, visibility, Standing(lower, who.lab_administrator, who.own))  # type: ignore[arg-type]
            more = allowed(operation, visibility, Standing(higher, who.lab_administrator, who.own))  # type: ignore[arg-type]
            assert more or not may
    if any(allowed(operation, visibility, who) for operation in Operation):  # type: ignore[arg-type]
        assert allowed(Operation.SEE, visibility, who)  # type: ignore[arg-type]
