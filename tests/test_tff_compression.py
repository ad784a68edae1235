"""Our seeded counterpart of TFF's compression aggregator, held against TFF's own."""

import numpy as np
import pytest
import tensorflow_federated as tff

from fedutils import ledger, tff_compression

VALUE_TYPE = tff.to_type([(np.float32, (150, 200)), (np.float32, (30,))])
WEIGHT_TYPE = tff.TensorType(np.float32)


@pytest.fixture(scope="module")
def clients():
    rng = np.random.default_rng(0)
    return [
        [0.01 * rng.standard_normal((150, 200), np.float32), np.ones(30, np.float32)]
        for _ in range(3)
    ]


def mean(factory, clients):
    process = factory.create(VALUE_TYPE, WEIGHT_TYPE)
    return process.next(process.initialize(), clients, [1.0, 2.0, 3.0]).result


def test_sends_what_tffs_own_sends():
    ours, theirs = (
        ledger.of(factory.create(VALUE_TYPE, WEIGHT_TYPE).next)
        for factory in (
            tff_compression.compression_aggregator(1),
            tff.learning.compression_aggregator(),
        )
    )
    assert ours.crossings == theirs.crossings


def test_seed_decides_and_errors_are_those_of_tffs_own(tff_worker, clients):
    first, again, other = (
        mean(tff_compression.compression_aggregator(seed), clients) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first[0], again[0])
    assert not np.array_equal(first[0], other[0])
    exact = np.average([c[0] for c in clients], axis=0, weights=[1.0, 2.0, 3.0])
    theirs = mean(tff.learning.compression_aggregator(), clients)
    np.testing.assert_array_equal(first[1], theirs[1])  # small variables travel as they are
    # Clipping scales all alike; fit the scale away, then compare what rounding did.
    errors = []
    for result in (first[0], other[0], theirs[0]):
        scale = np.sum(result * exact) / np.sum(exact**2)
        errors.append(np.sqrt(np.mean((result / scale - exact) ** 2)))
        assert abs(np.mean(result / scale - exact)) < 3 * errors[-1] / np.sqrt(exact.size)
    assert errors[0] == pytest.approx(errors[2], rel=0.03)
    assert errors[1] == pytest.approx(errors[2], rel=0.03)
