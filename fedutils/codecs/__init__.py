"""Codecs: a client's update becomes one byte string, whose length is the bill.

Read `base` first: it is the contract. `transforms`, `sparsifiers`, `quantizers` and `nonuniform`
hold the stages, `floats`, `ternary` and `entropy` the coders, `recipes` what papers make of
them, and `conformance` the test of a codec of your own:

    from fedutils.codecs import conformance
    from fedutils.codecs.base import chain
    from fedutils.codecs.entropy.ans import Ans
    from fedutils.codecs.quantizers import Stochastic
    from fedutils.codecs.transforms import Rms, Step

    my_codec = chain(Rms(), Step(2.0), Stochastic(), Ans())
    print(conformance.check(my_codec))
"""
