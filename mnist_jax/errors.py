"""The two ways a request can end badly, each one sentence a person can act on."""


class Failure(Exception):
    """What was asked could not be done: damaged data, no disk space, a diverged run.

    The message is one sentence that says what happened, where, and what to do.
    """

    exit_code = 1


class UsageError(Failure):
    """What was asked makes no sense as given: an unknown name, a value out of range."""

    exit_code = 2
