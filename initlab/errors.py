"""The base of errors that a user can cause: one line each (where, what is wrong, what is allowed, the fix)."""


class UserError(ValueError):
    """Something the user can fix; the command line prints it and exits with 2."""
