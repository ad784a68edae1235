"""Federated averaging with compressed communication, every bit counted.

The modules in the order in which data flows: `data`, `models`, `codecs`, `aggregators`,
`recipes`, `training`, `ledger`, `results`, `figures`. `runtime` starts and ends TFF's worker
process; `notebooks` and `cli` drive everything else.

Importing the package is cheap: TensorFlow is imported by the modules that need it.
"""

import os

# The one place where TensorFlow's log noise is tamed: its C++ side reads this when it is loaded.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

__version__ = "0.1.0"
