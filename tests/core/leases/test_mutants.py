"""The list of faults that mutants.py tries is in step with the source."""

import pytest
from mutants import LEASES, MUTANTS, PACKAGE


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant['module']}: {mutant['wrong']}")
def test_a_fault_has_its_place(mutant: dict[str, str]) -> None:
    """Its text stands exactly once in its module, and what would stand there instead compiles."""
    path = PACKAGE.parent / LEASES / f"{mutant['module']}.py"
    text = path.read_text(encoding="utf-8")
    assert text.count(mutant["old"]) == 1
    compile(text.replace(mutant["old"], mutant["new"]), path.name, "exec")
