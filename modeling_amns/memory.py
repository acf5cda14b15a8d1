"""The largest memory of a piece of work: of the accelerator where there is one, else of the process."""

import contextlib
import sys
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")


class PeakMemory:
    """Largest memory since it was made, in MiB.

    On Linux and on accelerators the mark is reset when the object is made; elsewhere it is that of the process since
    its start. Worker processes are not counted.

    Args:
        device: where the work runs; its own memory counts if it keeps a mark, else the resident memory of the process.
    """

    def __init__(self, device: torch.device | str = "cpu"):
        self.device = torch.device(device)
        module = torch.get_device_module(self.device)
        self._module = module if hasattr(module, "max_memory_allocated") else None
        if self._module is not None:
            self._module.reset_peak_memory_stats(self.device)
        else:
            _reset_resident()
        self._seen = 0

    @property
    def mib(self) -> int:
        """The mark in MiB."""
        module = self._module
        found = _peak_resident() if module is None else module.max_memory_allocated(self.device)
        # Linux counts pages per processor and adds them up late: its mark can fall by some after memory was freed.
        self._seen = max(self._seen, found)
        return self._seen // 2**20


def peak_memory_mb() -> int:
    """Largest resident memory of this process since its start or since a `PeakMemory` was made, in MiB."""
    return _peak_resident() // 2**20


def _reset_resident() -> None:
    # 5 resets the peak resident set, see proc_pid_clear_refs(5).
    with contextlib.suppress(OSError):
        _RESET.write_text("5")


def _peak_resident() -> int:
    """In bytes."""
    if _STATUS.is_file():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS counts bytes, others KiB.
    return peak if sys.platform == "darwin" else peak * 1024


__all__ = ["PeakMemory", "peak_memory_mb"]
