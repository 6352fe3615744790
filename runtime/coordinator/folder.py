"""Where the coordinator listens: a socket of mode 0600 in a folder of mode 0700, one coordinator at a time."""

import fcntl
import os
import socket
import stat
from collections.abc import Collection
from pathlib import Path

from aquasim.errors import UserError

NAME = "coordinator.sock"
_LONGEST = 107  # bytes of a path that fit sockaddr_un, unix(7)


def default_socket() -> Path:
    """Return the socket's place: in $XDG_RUNTIME_DIR/aquasim, else in a folder of ours under /tmp."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    folder = Path(runtime) / "aquasim" if runtime else Path(f"/tmp/aquasim-{os.getuid()}")
    return folder / NAME


def trouble(folder: Path, *, shared: bool = False) -> str | None:
    """Say why a folder is no safe place for the socket, or None; `shared`: other users may enter, not write."""
    try:
        found = folder.lstat()
    except OSError as error:
        return f"{folder}: {error.strerror}"
    if not stat.S_ISDIR(found.st_mode):
        return f"{folder} is not a folder"
    if found.st_uid != os.getuid():
        return f"{folder} belongs to uid {found.st_uid}, not to us ({os.getuid()})"
    mode, wanted = stat.S_IMODE(found.st_mode), 0o755 if shared else 0o700
    if mode & ~wanted:
        return f"{folder} has mode {mode:04o}; others could reach the socket: chmod {wanted:o} {folder}"
    return None


def check_length(path: Path) -> None:
    """Refuse a path that no socket can have."""
    if len(os.fsencode(path)) > _LONGEST:
        raise UserError(f"--socket: {path} is longer than the {_LONGEST} bytes that a socket's path may have")


class Listener:
    """A bound and listening socket, and the lock that keeps a second coordinator away; close it at the end.

    `uids` are further users who may connect; for them the file's mode is 0666, and SO_PEERCRED alone decides.

    Raises:
        UserError: the folder is not safe, another coordinator listens there, or the path cannot be bound.
    """

    def __init__(self, path: Path, uids: Collection[int] = ()) -> None:
        check_length(path)
        self.path = path
        try:
            path.parent.mkdir(mode=0o755 if uids else 0o700, exist_ok=True)
        except OSError as error:
            raise UserError(f"--socket: {path.parent}: {error.strerror}") from error
        wrong = trouble(path.parent, shared=bool(uids))
        if wrong:
            raise UserError(f"--socket: {wrong}")
        self._lock = _lock(path)
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self._bind(0o666 if uids else 0o600)
        except BaseException:
            self.close()
            raise

    def _bind(self, mode: int) -> None:
        """Take the place of what a killed coordinator left; who holds the lock may."""
        try:
            if self.path.exists() and not self.path.is_socket():
                raise UserError(f"--socket: {self.path} exists and is no socket")
            self.path.unlink(missing_ok=True)
            self.sock.bind(str(self.path))
            self.path.chmod(mode)
            self.sock.listen(128)
        except OSError as error:
            raise UserError(f"--socket: {self.path}: {error.strerror}") from error

    def close(self) -> None:
        """Stop listening and remove the socket's file; the lock's file stays, for whoever waits on it."""
        self.sock.close()
        if self.path.is_socket():
            self.path.unlink()
        os.close(self._lock)


def _lock(path: Path) -> int:
    """Hold a lock that the kernel lets go of when we die, however that happens."""
    fd = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise UserError(f"a coordinator already listens at {path}") from None
    return fd
