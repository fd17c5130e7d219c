"""The exceptions for problems that the user can solve."""


class UserError(ValueError):
    """What was wrong, where, and what would be right, in one sentence; the command line prints it and exits with 1."""
    exit_code = 1


class UsageError(UserError):
    """Options that are wrong or do not go together; the command line exits with 2."""
    exit_code = 2
