import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner

from fedutils import cli, dissection
from fedutils.codecs import base
from fedutils.errors import UsageError

LAYOUT = [(60, 50), (50,)]
UPDATE = np.random.default_rng(0).standard_normal(3050).astype(np.float32)


def parts(found):
    return {part.name: part for part in found.parts}


@pytest.mark.parametrize("recipe", ["rotated", "adaptive"])
def test_every_bit_of_a_string_is_told(recipe):
    wire = dissection.wire_of(recipe, LAYOUT)
    string = dissection.encode(UPDATE, wire, weight=7)
    found = dissection.of(string, wire)
    assert found.fits and found.counts
    assert sum(part.bits for part in found.parts) == found.bits == 8 * len(string)
    assert parts(found)["weight"].says == "7.0"
    assert ("seed" in parts(found)) == wire.codec.needs_seed
    decoded = wire.decode(tf.constant(string), base.tensors(wire.codec.default_params())).value
    assert found.nonzeros == np.count_nonzero(decoded)


def test_coder_that_can_tell_takes_its_body_apart():
    wire = dissection.wire_of("two-way", LAYOUT)
    found = dissection.of(dissection.encode(UPDATE / 100, wire), wire)
    symbols, live = found.symbols
    assert symbols == 3050 and 0 < live == found.nonzeros
    assert parts(found)["body: signs"].bits == live
    assert parts(found)["body: gaps"].bits > live


def test_string_of_another_round_is_read_with_its_parameters():
    wire = dissection.wire_of("two-way", LAYOUT)
    params = base.tensors({**wire.codec.default_params(), "step": 0.05})
    announced = wire.announce(params, tf.constant(1))
    string = wire.encode(announced, tf.constant(UPDATE), tf.constant(7.0)).numpy()
    assert not dissection.of(string, wire).fits
    assert dissection.of(string, wire, params).fits


@pytest.mark.parametrize("damage", [lambda s: s[:-1], lambda s: s[:6], lambda s: b""])
def test_damaged_string_is_told(damage):
    wire = dissection.wire_of("rotated", LAYOUT)
    string = damage(dissection.encode(UPDATE, wire))
    found = dissection.of(string, wire)
    assert not found.fits and not found.counts and found.symbols is None
    assert sum(part.bits for part in found.parts) == found.bits == 8 * len(string)
    assert "check: does not fit" in dissection.text(found)


def test_recipe_without_strings_is_refused():
    with pytest.raises(UsageError, match="clients of the recipe 'none' send numbers"):
        dissection.wire_of("none", LAYOUT)


def test_inspect_reads_a_payload_with_its_codec_and_model(tmp_path):
    wire = dissection.wire_of("top-k", dissection.layout_of("logistic", 10))
    update = np.random.default_rng(0).standard_normal(7850)
    path = tmp_path / "update.bin"
    path.write_bytes(dissection.encode(update, wire, weight=100))

    def inspect(*arguments):
        return CliRunner().invoke(cli.main, ["inspect", str(path), *arguments])

    result = inspect("--codec", "top-k", "--model", "logistic")
    assert result.exit_code == 0, result.output
    assert f"{path.stat().st_size:,} bytes" in result.output
    assert "check: fits; the client counts" in result.output
    assert "decoded: 79 of the update's 7,850 numbers not zero" in result.output
    assert "does not fit" in inspect("--codec", "natural", "--model", "logistic").output
    assert "name it with --codec" in inspect().output
