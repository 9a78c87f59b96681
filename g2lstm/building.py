"""Compiles C++ sources once for each machine, and keeps the library in torch's folder of extensions.

Where no home folder can be written to, that is a folder of the user's own among the temporary ones.
"""

import contextlib
import hashlib
import logging
import os
import platform
import shlex
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

log = logging.getLogger("g2lstm")
Loaded = TypeVar("Loaded")


def library(
    name: str, sources: Sequence[Path], flags: Sequence[str], libraries: Sequence[str], identity: Sequence[str], notice: str
) -> Path:
    """The library in the first folder that can be used, compiled where there is none yet.

    Args:
        name: of its file, as "native.so".
        sources: those that are compiled, and headers, which are not.
        flags, libraries: for the compiler, before and after the sources.
        identity: what else the library depends on, beside the sources and these.
        notice: logged before it is compiled.

    Raises:
        RuntimeError: in one line, why there is none.
    """
    parts = [*(source.read_text() for source in sources), " ".join(flags), *identity]
    place = Path(f"g2lstm_{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:16]}", name)
    named, tried = os.environ.get("TORCH_EXTENSIONS_DIR"), []
    for root in [Path(named)] if named else _own_folders():
        found = root / place
        if found.exists():
            return found
        tried.append(str(root))
        with contextlib.suppress(OSError):
            found.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=found.parent) as folder:
                log.warning(notice)
                compiled = [str(source) for source in sources if source.suffix == ".cpp"]
                _compile([*flags, "-shared", *compiled, "-o", str(Path(folder) / name), *libraries])
                (Path(folder) / name).replace(found)  # so that processes never see each other's halves
            return found
    raise RuntimeError(f"no folder can be written to, of {', '.join(tried)}: TORCH_EXTENSIONS_DIR names another")


def loaded(load: Callable[[str], Loaded], make: Callable[[], Path]) -> Loaded:
    """`load` of the library that `make` gives, made anew once where it can't be loaded, as a file that was cut off."""
    path = make()
    try:
        if _cut_off(path):  # which would be a bus error
            raise OSError(f"{path} is cut off")
        return load(str(path))
    except OSError:
        path.unlink(missing_ok=True)
        return load(str(make()))


def processor() -> str:
    """What this machine's processor can do, as far as the system tells."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next((line for line in lines if line.startswith("flags")), "")
    return platform.processor()


def first_line(error: Exception) -> str:
    """Why, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _own_folders() -> Iterator[Path]:
    """In the home folder, where there is one, and in the temporary one, where nobody else could lay a library."""
    with contextlib.suppress(RuntimeError):
        yield Path.home() / ".cache" / "torch_extensions"
    temporary = Path(tempfile.gettempdir()) / f"g2lstm_{os.getuid()}"
    with contextlib.suppress(OSError):
        temporary.mkdir(mode=0o700, exist_ok=True)
        status = temporary.lstat()
        if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022:
            yield temporary


def _cut_off(path: Path) -> bool:
    """Whether a library in ELF's form of 64 bits ends before the table of sections does, the last thing in it."""
    with path.open("rb") as file:
        header = file.read(64)
    if not header.startswith(b"\x7fELF\x02\x01"):
        return False
    table, size, count = (int.from_bytes(header[start:end], "little") for start, end in ((40, 48), (58, 60), (60, 62)))
    return path.stat().st_size < table + size * count


def _compile(arguments: Sequence[str]) -> None:
    compiler = shlex.split(os.environ.get("CXX", "")) or ["c++"]
    try:
        done = subprocess.run([*compiler, *arguments], capture_output=True, text=True)
    except OSError as error:
        raise RuntimeError(f"there is no C++ compiler: {compiler[0]} ({error.strerror}); CXX names another") from error
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "error" in line] or [f"exit code {done.returncode}"]
        raise RuntimeError(f"{compiler[0]}: {errors[0]}")
