import dataclasses

import pytest

from fedutils import claims
from fedutils.errors import UsageError

EVERY = {claim.id: claim for claim in claims.read()}


def test_claims_have_names_bounds_and_sources():
    assert len(EVERY) == len(claims.read()) > 20
    for claim in EVERY.values():
        assert claim.stated and claim.source and claim.says
        assert claim.tolerance <= 0.02


@pytest.mark.parametrize("name", [n for n in EVERY if not n.startswith("race.")])
def test_holds(name):
    assert list(claims.check(EVERY[name])) == []


def test_a_claim_that_does_not_hold_is_found():
    claim = EVERY["lloyd-max.2"]
    for change in ({"published": 0.12}, {"ours": 0.118}, {"at_most": 0.1}, {"at_least": 0.2}):
        (problem,) = claims.check(dataclasses.replace(claim, **change))
        assert problem.startswith("claim lloyd-max.2 is 0.11748")


def test_what_cannot_be_computed_is_a_problem(tmp_path):
    (problem,) = claims.check(EVERY["race.uplink"], tmp_path)
    assert "race.uplink cannot be computed" in problem


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[claim]]\nid = "a"\n', "a: .*missing"),
        (
            '[[claim]]\nid = "a"\nsource = "b"\nsays = "c"\ncheck = "none"\nours = 1\n'
            "tolerance = 0.1\n",
            "a: unknown check 'none'",
        ),
    ],
)
def test_mistakes_in_the_file_are_told(tmp_path, text, message):
    (tmp_path / "docs").mkdir()
    (tmp_path / claims.CLAIMS).write_text(text)
    with pytest.raises(UsageError, match=message):
        claims.read(tmp_path)
