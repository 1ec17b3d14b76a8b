"""What can go wrong in a demo, beside a failed audit. The message says what was waited for or missing."""


class DemoError(Exception):
    """The base, and all there is."""
