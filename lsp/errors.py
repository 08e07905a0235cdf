"""The one exception a user is meant to see."""


class UserError(Exception):
    """Something the user can mend: one line that says what is wrong, where, and what to do.

    The command line prints the message and exits with code 2; from Python it is raised as it is.
    """
