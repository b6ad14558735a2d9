"""`python -m dcdbackend.supervisor FD`: started by `launching.launch`, never by hand.

It forks before anything else and goes on in the child, so that it is nobody's to wait for. The fork is in the main
thread, before any other exists.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    if len(sys.argv) != 2 or not sys.argv[1].isdigit():
        sys.stderr.write("dcdbackend.supervisor: started by dcd launch, not by hand; type: dcd launch --help\n")
        raise SystemExit(2)
    if os.fork():
        os._exit(0)
    from .process import main

    raise SystemExit(main(sys.argv[1:]))
