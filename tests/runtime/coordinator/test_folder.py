"""The socket's place: private, one coordinator at a time, and taken over from a dead one."""

import os
import socket
import stat
from pathlib import Path

import pytest

from aquasim.errors import UserError
from aquasim.runtime.coordinator.folder import Listener, default_socket, trouble


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give a path in a folder that does not exist yet."""
    return tmp_path / "new" / "c.sock"


def mode(path: Path) -> int:
    """Permission bits."""
    return stat.S_IMODE(path.stat().st_mode)


def listener(path: Path, uids: tuple[int, ...] = ()) -> Listener:
    """Open one."""
    return Listener(path, uids)


def test_only_we_can_reach_the_socket(path: Path) -> None:
    """0600 in a 0700 folder, whatever the umask; the file is gone afterwards."""
    before = os.umask(0)
    try:
        opened = listener(path)
    finally:
        os.umask(before)
    assert (mode(path.parent), mode(path), mode(Path(f"{path}.lock"))) == (0o700, 0o600, 0o600)
    opened.close()
    assert not path.exists()


def test_with_further_users_the_kernels_word_decides(path: Path) -> None:
    """The file lets everybody knock then; SO_PEERCRED keeps them out."""
    opened = listener(path, (12345,))
    assert (mode(path.parent) & 0o777, mode(path)) == (0o755 & ~current_umask(), 0o666)
    opened.close()


def current_umask() -> int:
    """The umask, which can only be read by setting it."""
    value = os.umask(0)
    os.umask(value)
    return value


def test_a_dead_coordinators_socket_is_taken_over(path: Path) -> None:
    """kill -9 leaves a file behind and no lock."""
    path.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    listener(path).close()


def test_two_coordinators_are_one_too_many(path: Path) -> None:
    """The second is told, and the first is not disturbed; once it is gone the place is free."""
    first = listener(path)
    with pytest.raises(UserError, match="already listens"):
        listener(path)
    assert path.exists()
    first.close()
    listener(path).close()


@pytest.mark.parametrize("bits", [0o710, 0o770, 0o777, 0o701])
def test_a_folder_that_others_can_enter_is_refused(path: Path, bits: int) -> None:
    """The text says what to do."""
    path.parent.mkdir()
    path.parent.chmod(bits)
    with pytest.raises(UserError, match="chmod 700"):
        listener(path)


def test_a_folder_of_others_a_link_and_a_file_are_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody may have put them there before us."""
    target = path.parent.parent / "target"
    target.mkdir(mode=0o700)
    path.parent.symlink_to(target)
    with pytest.raises(UserError, match="is not a folder"):
        listener(path)
    monkeypatch.setattr("aquasim.runtime.coordinator.folder.os.getuid", lambda: os.stat(target).st_uid + 1)
    assert "belongs to uid" in str(trouble(target))
    monkeypatch.undo()
    (target / "c.sock").write_text("precious")
    with pytest.raises(UserError, match="is no socket"):
        listener(target / "c.sock")
    assert (target / "c.sock").read_text() == "precious"


def test_paths_that_are_too_long_or_nowhere_are_refused(tmp_path: Path) -> None:
    """107 bytes are the most, and the folder above must exist."""
    with pytest.raises(UserError, match="107 bytes"):
        listener(tmp_path / ("x" * 120))
    with pytest.raises(UserError, match="No such file"):
        listener(tmp_path / "a" / "b" / "c.sock")


def test_the_usual_place_is_private(monkeypatch: pytest.MonkeyPatch) -> None:
    """The session's folder where there is one, else one of our own by number."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/5")
    assert default_socket() == Path("/run/user/5/aquasim/coordinator.sock")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert default_socket() == Path(f"/tmp/aquasim-{os.getuid()}/coordinator.sock")
