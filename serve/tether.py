"""Run a command that ends when its parent does: ``python tether.py PARENT_PID COMMAND [ARGUMENT ...]``.

Standard library only and run with ``python -I -S``, because it stands between a person and every
server: it asks the kernel for SIGTERM at the parent's death (prctl(2), PR_SET_PDEATHSIG, kept across
exec) and becomes the command, under the same pid. Where the kernel has no such call, the command runs
untied and the next start clears away what was left.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def tie_to_parent(parent_pid: int) -> bool:
    """Ask for SIGTERM at the parent's death; return False if ``parent_pid`` is no longer the parent."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    # The parent may have died before the kernel was asked.
    return os.getppid() == parent_pid


if __name__ == "__main__":
    if not tie_to_parent(int(sys.argv[1])):
        sys.exit("the parent process is gone")
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606
