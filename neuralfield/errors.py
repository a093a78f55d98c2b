"""How a user is told that something is wrong: one clear line, with an exit code behind it."""


class NeuralfieldError(Exception):
    """What failed, where, and what to do about it, in one line. The command line prints it and exits with 1."""

    exit_code = 1


class UsageError(NeuralfieldError):
    """A name, key or option that does not exist or does not fit. The command line exits with 2."""

    exit_code = 2


class SaidError(NeuralfieldError):
    """Several processes failed together, and another one says why. The command line prints nothing."""

    def __init__(self, exit_code: int = 1) -> None:
        super().__init__("another rank says what is wrong")
        self.exit_code = exit_code


class NeuralfieldWarning(UserWarning):
    """Something odd that was dealt with: a file left out, a value out of range."""
