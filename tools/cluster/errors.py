"""What can go wrong, as one tree. Every message says what the caller should do.

ClusterError
├── CannotRunHere   this machine lacks something (exit code 3, so that a test tier can be skipped loudly)
├── Refused         something that is not ours is in the way; nothing was changed
├── BuildFailed     the Go build ended with an error
├── CommandFailed   a program ended with an error, or did not end in time
├── TimedOut        a deadline passed
└── WrongCluster    the API server that answered is not the one we made
"""


class ClusterError(Exception):
    """The base of everything that these tools raise on purpose."""

    exit_code = 1


class CannotRunHere(ClusterError):
    """The machine lacks something; the message names it and the command that helps, in one line."""

    exit_code = 3


class Refused(ClusterError):
    """Something that we did not make is in the way."""


class BuildFailed(ClusterError):
    """The Go build failed; the message ends with the tail of its log."""


class CommandFailed(ClusterError):
    """A program failed; the message has its command line and what it wrote to standard error."""


class TimedOut(ClusterError):
    """A deadline passed; the message says what was waited for and what was seen last."""


class WrongCluster(ClusterError):
    """The API server behind the kubeconfig carries another identity than the cluster on record."""
