"""The one exception that stands for what a user can cause and mend."""


class UserError(Exception):
    """An expected error: one line that says what is wrong, where, and what to do. Exit code 2."""
