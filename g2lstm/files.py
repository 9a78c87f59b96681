"""Files: where the config groups lie, and writing so that a reader never sees half of a file."""

import os
import tempfile
from pathlib import Path


def conf_folder() -> Path:
    """The folder of config groups: inside an installed package, at the top of the repository in a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes `content` to a temporary file beside `path`, flushes it to disk and renames it: all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())  # mkstemp keeps files private
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
