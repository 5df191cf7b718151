"""The ways a request can end badly, each one sentence a person can act on."""


class Failure(Exception):
    """What was asked could not be done: damaged data, no disk space, a diverged run.

    The message is one sentence that says what happened, where, and what to do.
    """

    exit_code = 1


class UsageError(Failure):
    """What was asked makes no sense as given: an unknown name, a value out of range."""

    exit_code = 2


class Interrupted(Failure):
    """A signal asked to stop, and everything so far is saved."""

    def __init__(self, sentence: str, signal_number: int):
        super().__init__(sentence)
        self.exit_code = 128 + signal_number
