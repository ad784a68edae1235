"""The error of asking for what cannot be had."""


class UsageError(ValueError):
    """What was asked for cannot be done; the message says why, what was expected, what to do.

    The command line shows it as one line. Any other error is a defect and keeps its traceback.
    """
