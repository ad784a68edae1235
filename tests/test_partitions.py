import numpy as np
import pytest

from fedutils import partitions

LABELS = np.repeat(np.arange(10), 60)


def deal(name, concentration=1.0, seed=0, clients=12):
    return partitions.PARTITIONS[name](
        LABELS, num_clients=clients, concentration=concentration, rng=np.random.default_rng(seed)
    )


@pytest.mark.parametrize("name", list(partitions.PARTITIONS))
def test_every_example_goes_to_exactly_one_client(name):
    clients = deal(name)
    assert sorted(np.concatenate(clients)) == list(range(len(LABELS)))
    assert {len(rows) for rows in clients} == {50}


@pytest.mark.parametrize("name", list(partitions.PARTITIONS))
def test_seeded(name):
    first, again, other = deal(name), deal(name), deal(name, seed=1)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_shards_give_few_labels():
    # 24 shards of 25 examples: a shard straddles at most 2 labels, so a client sees at most 4.
    assert max(len(np.unique(LABELS[rows])) for rows in deal("shards")) <= 4


def _entropy(rows):
    shares = np.bincount(LABELS[rows], minlength=10) / len(rows)
    return -np.sum(shares[shares > 0] * np.log(shares[shares > 0]))


def test_concentration_orders_the_clients_diversity():
    # The first clients draw before any label runs out.
    few, some, many = (
        np.mean([_entropy(rows) for s in range(20) for rows in deal("dirichlet", c, s)[:3]])
        for c in (0.05, 1.0, 1000.0)
    )
    assert few < some - 0.3 < many - 0.3
    assert many > 0.95 * np.log(10) - 0.1


def test_dirichlet_shares_have_the_distributions_moments():
    # First client's label shares: mean 1/10, variance of Dirichlet-multinomial sampling.
    draws = np.array(
        [np.bincount(LABELS[deal("dirichlet", 1.0, s)[0]], minlength=10) for s in range(400)]
    )
    size, total = 50, 10 * 1.0
    variance = size * 0.1 * 0.9 * (size + total) / (1 + total)
    assert draws.mean() == pytest.approx(5.0)
    assert draws.var() == pytest.approx(variance, rel=0.1)
