"""Errors that are the user's to mend."""


class UserError(Exception):
    """Input that a program cannot work with: shown as one line, with exit code 2."""
