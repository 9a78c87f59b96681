"""What a run ran on: versions, hardware, commit."""

import contextlib
import os
import platform
import subprocess
import sys
from pathlib import Path

import torch

from g2lstm.engines.products import fast_dtype
from g2lstm.errors import UserError
from g2lstm.training import workers
from g2lstm.version import __version__


def environment(device: torch.device, engine: str) -> dict[str, str | int]:
    """Everything besides the config that a run's numbers depend on."""
    found: dict[str, str | int] = {
        "g2lstm": __version__,
        "commit": commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "hardware": hardware(device),
        "device": device.type,
        "threads": torch.get_num_threads(),
        "engine": engine,
    }
    return found | ({"workers": workers.count()} if workers.count() > 1 else {})


def hardware(device: torch.device) -> str:
    """For example "NVIDIA H200" or "2-core AMD EPYC, AVX-512/BF16"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name, flags = _processor()
    known = {"avx512f": "AVX-512", "avx512_bf16": "BF16", "amx_bf16": "AMX"}
    features = "/".join(text for flag, text in known.items() if flag in flags)
    return f"{os.cpu_count()}-core {name}" + (f", {features}" if features else "")


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether a GPU or CPU multiplies bfloat16 itself; of a CPU that does not say, whether torch has such products.

    AMD's GPUs are taken to do so.
    """
    if device.type == "cuda":
        return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)
    flags = _processor()[1]
    said = not flags or bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})
    return device.type == "cpu" and said and fast_dtype(torch.bfloat16)


def peak_memory(device: torch.device) -> float | None:
    """The most memory that this process has had, of a GPU or else of the machine, in MiB; None where no system tells."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    with contextlib.suppress(OSError):  # on Linux getrusage has the most of the process that started this one
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):  # which not every Linux says
                return int(line.split()[1]) / 2**10
    try:
        import resource
    except ImportError:  # not on this system
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _processor() -> tuple[str, set[str]]:
    try:
        pairs = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    except OSError:
        return platform.processor() or platform.machine(), set()
    lines = {name.strip(): value.strip() for name, _, value in pairs}
    flags = lines.get("flags", lines.get("Features", ""))  # of x86, of ARM
    return lines.get("model name", platform.machine()), set(flags.split())


def check_committed(path: Path) -> None:
    """Raises a UserError where `path` would be a record of code that no commit has."""
    root = checkout()
    if root is not None and path.resolve().is_relative_to(root / "results") and commit().endswith("-dirty"):
        raise UserError(f"{path} is a record, with uncommitted changes in {root}: commit them, or don't record")


def commit() -> str:
    """The commit of the checkout this package is in, with "-dirty" where tracked files were changed; "" outside one."""
    return _git("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*") if checkout() else ""


def checkout() -> Path | None:
    """The folder of the checkout this package is in, None outside one."""
    if _git("rev-parse", "--show-prefix") != "g2lstm/training/":  # none, or an environment within somebody's repository
        return None
    found = _git("rev-parse", "--show-toplevel")
    return Path(found) if found else None


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        found = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=10, check=True)
        return found.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
