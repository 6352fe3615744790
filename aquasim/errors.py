"""The one error that users meet: a line of text, no traceback."""


class UserError(ValueError):
    """Something the user gave is wrong; the text names it and says what is valid."""
