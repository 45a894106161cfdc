"""Errors that end a command: one line that says what is wrong and what to do."""


class CommandError(Exception):
    """A command cannot go on. `code` is the exit code: 1 for a failure, 2 for wrong usage."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


class UsageError(CommandError):
    """An argument or option makes no sense; the message says what would."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code=2)
