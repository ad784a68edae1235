import dataclasses
import functools
import importlib
import subprocess
import sys
import threading
from typing import Protocol

import numpy as np
import pytest
from support import REPOSITORY, environment

from fedutils import definitions
from fedutils.errors import UsageError

FACTOR = 2.0


def helper(x):
    return FACTOR * x


class Base:
    def encode(self, x):
        return x + 1


@dataclasses.dataclass(frozen=True)
class Holds:
    part: object


def with_default(k):
    class Stage:
        def encode(self, x, k=k):
            return k * x

    return Stage()


def with_keyword(k):
    class Stage:
        def encode(self, x, *, k=k):
            return k * x

    return Stage()


def with_closure(k):
    return lambda x: k * x


def with_base(k):
    class Base:
        def encode(self, x):
            return x + 1 if k == 1 else x + 2

    class Stage(Base):
        pass

    return Stage()


def with_attribute(k):
    class Stage:
        levels = k

    return Stage()


def with_descriptors(k):
    class Stage:
        @property
        def of_property(self):
            return k

        @classmethod
        def of_class(cls):
            return k

        @staticmethod
        def of_none():
            return k

        @functools.cached_property
        def of_cache(self):
            return k

    return Stage()


@pytest.mark.parametrize(
    "build",
    [
        *(with_default, with_keyword, with_closure, with_base, with_attribute, with_descriptors),
        lambda k: Holds(Holds(with_default(k))),
        lambda k: Holds([{"of": with_closure(k)}]),
        lambda k: functools.partial(helper, k),
        lambda k: np.full(3, k),
        lambda k: frozenset({("a", k)}),
    ],
)
def test_what_does_something_else_is_told_apart(build):
    assert definitions.of(build(1)) == definitions.of(build(1))
    assert definitions.of(build(1)) != definitions.of(build(2))


def test_each_descriptor_counts():
    of = definitions.of
    assert of(property(with_closure(1))) != of(property(with_closure(2)))
    assert of(property(None, with_closure(1))) != of(property(None, with_closure(2)))
    for kind in (classmethod, staticmethod, functools.cached_property, functools.cache):
        assert of(kind(with_closure(1))) != of(kind(with_closure(2)))


def test_globals_and_helpers_count_through_functions_and_bases(monkeypatch):
    class Stage(Base):
        def decode(self, x):
            return [helper(y) for y in x]

    first = definitions.of(Stage())
    assert definitions.of(Stage()) == first
    with monkeypatch.context() as changed:
        changed.setitem(globals(), "FACTOR", 3.0)  # that the helper of a nested code reads
        assert definitions.of(Stage()) != first
    with monkeypatch.context() as changed:
        changed.setattr(Base, "encode", lambda self, x: x - 1)
        assert definitions.of(Stage()) != first
    assert definitions.of(Stage()) == first


def test_a_module_of_ones_own_counts_as_far_as_it_is_used(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    path = tmp_path / "own_helpers.py"

    def told(text):
        path.write_text(text)
        monkeypatch.delitem(sys.modules, "own_helpers", raising=False)
        importlib.invalidate_caches()
        own_helpers = importlib.import_module("own_helpers")
        return definitions.of([lambda x: own_helpers.scaled(x), lambda x: own_helpers.moved(x)])

    text = "def scaled(x):\n    return 2 * x\n\n\ndef moved(x):\n    return x + 1\n"
    first = told(text)
    assert told(f"# Why.\n{text}\n\nunused = 3\n") == first
    assert told(text.replace("2 *", "3 *")) != first
    assert told(text.replace("+ 1", "+ 2")) != first


def test_constants_count_in_nested_code_and_errors_that_are_caught():
    def one(x):
        return [y in {"a", "b"} for y in x]

    def another(x):
        return [y in {"a", "c"} for y in x]

    def inside(x):
        try:
            x = x()
            x = abs(x)
        except TypeError:
            x = 0
        return x

    def outside(x):
        try:
            x = x()
        except TypeError:
            x = 0
        else:
            x = abs(x)
        return x

    assert definitions.of(one) != definitions.of(another)
    assert definitions.of(inside) != definitions.of(outside)


def test_installed_code_goes_by_its_name():
    assert definitions.of(np.linalg.LinAlgError) == repr("numpy.linalg.LinAlgError")
    assert definitions.of(definitions.of) == repr("fedutils.definitions.of")
    assert definitions.of(np.sin) != definitions.of(np.cos)
    assert definitions.of(len) != definitions.of(sum)


class Endless(Protocol):
    def again(self):
        return Endless, super().again, self


def test_what_refers_to_itself_ends():
    endless = []
    endless.append(endless)
    assert definitions.of(endless) == definitions.of(endless)
    assert definitions.of(Endless)


def test_what_another_process_cannot_know_is_refused():
    with pytest.raises(UsageError, match=r"lock object at .* is known in this process alone"):
        definitions.of(Holds(threading.Lock()))


SCRIPT = """
import dataclasses, functools
from typing import Protocol
import numpy as np
from fedutils import definitions

class Coder(Protocol):
    pass

@dataclasses.dataclass(frozen=True)
class Own(Coder):
    k: float = 2.0
    names = frozenset({"a", "b", "c", ("d", 1), ("e", 2)})

    @property
    def twice(self):
        return 2 * self.k

    @classmethod
    def make(cls):
        return cls()

    @functools.cached_property
    def table(self):
        return np.arange(3)

    def encode(self, x, also=object()):
        return [y in {"x", "y", "z"} for y in x if also] + [self.twice, Own, super().encode]

print(definitions.of([Own(), Own, Own.make]))
"""


def test_every_process_tells_the_same():
    """Whatever the order of its sets and the places of its objects."""
    told = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            capture_output=True,
            text=True,
            check=True,
            env=environment(PYTHONHASHSEED=seed, PYTHONPATH=str(REPOSITORY)),
        ).stdout
        for seed in ("1", "2")
    ]
    assert told[0] == told[1]
    assert " at 0x" not in told[0] and len(told[0]) > 1000
