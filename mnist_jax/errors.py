"""Exceptions for users: each message is a sentence that says what to do."""


class Failure(Exception):
    """A request that could not be fulfilled: damaged data, no disk space, a diverged run.

    The message is one sentence that says what happened, where, and what to do.
    """

    exit_code = 1


class UsageError(Failure):
    """An invalid request: an unknown name, a value out of range."""

    exit_code = 2


class Interrupted(Failure):
    """A signal requested a stop, and everything so far is saved."""

    def __init__(self, sentence: str, signal_number: int):
        super().__init__(sentence)
        self.exit_code = 128 + signal_number
