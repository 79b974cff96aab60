"""The exceptions that reach the user as a line of text instead of a traceback, and the operating system's in words."""

import errno

_REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EFBIG: "free some space",
    errno.EACCES: "change its permissions or choose another place",
    errno.EPERM: "change its permissions or choose another place",
    errno.EROFS: "choose another place",
    errno.ENOTDIR: "a file stands where a folder is needed; choose another place",
    errno.EEXIST: "a file stands where a folder is needed; choose another place",
    errno.EISDIR: "a folder stands where a file is needed; choose another name",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "its links lead in a circle",
    errno.ENOENT: "its folder must exist",
}


class UserError(Exception):
    """Something the user can mend; the message says what arrived and what to do about it."""


class WriteError(UserError):
    """A file that cannot be written; whatever had its name before is still there."""


def explain(error: OSError) -> str:
    """Say what went wrong with which file, and what to do about it.

    Examples
    --------
    >>> explain(FileNotFoundError(errno.ENOENT, "No such file or directory", "runs/a.csv"))
    'runs/a.csv: No such file or directory: its folder must exist'
    """
    remedy = _REMEDIES.get(error.errno or 0)
    parts = (error.filename, error.strerror or str(error), remedy)
    return ": ".join(str(part) for part in parts if part is not None)
