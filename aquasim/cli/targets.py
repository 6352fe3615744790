"""Files that commands write: what may not be written is refused before anything is read."""

from pathlib import Path

from aquasim.errors import UserError


def check_file(out: Path, overwrite: bool) -> None:
    """Raise UserError where `--out` names no file, or one that may not be replaced."""
    if str(out) == "-":
        raise UserError("--out -: name a file; nothing but its name is written to stdout")
    if out.is_dir():
        raise UserError(f"--out {out}: is a folder; name a file")
    if out.exists() and not out.is_file():
        raise UserError(f"--out {out}: exists and is not a file")
    if out.exists() and not overwrite:
        raise UserError(f"--out {out}: exists; name a new one, or give --overwrite")
