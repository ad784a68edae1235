from fedutils import seeds


def test_streams_are_stable_and_distinct():
    # These values are part of every published number: they must not change.
    assert seeds.stream(1, "cohort") == 409077617
    assert seeds.stream(1, "shuffle", 1, "a") == 1272317998
    names = [("cohort",), ("shuffle", 1, "a"), ("shuffle", 11, "a"), ("shuffle", 1, "1/a")]
    drawn = {seeds.stream(seed, *name) for seed in range(50) for name in names}
    assert len(drawn) == 50 * len(names)
    assert all(0 < value < 2**31 - 1 for value in drawn)
