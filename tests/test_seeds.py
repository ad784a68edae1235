from fedutils import seeds


def test_streams_are_stable_and_distinct():
    # The value is part of every published number: it must not change.
    assert seeds.stream(1, "cohort") == seeds.stream(1, "cohort")
    names = [("cohort",), ("shuffle", 1, "a"), ("shuffle", 11, "a"), ("shuffle", 1, "1/a")]
    drawn = {seeds.stream(seed, *name) for seed in range(50) for name in names}
    assert len(drawn) == 50 * len(names)
    assert all(0 < value < 2**31 - 1 for value in drawn)
