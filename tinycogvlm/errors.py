"""The one exception for problems a person can mend."""


class UserError(ValueError):
    """What was wrong, where, and what would be right, in one sentence; the command line prints it and exits with 1."""
