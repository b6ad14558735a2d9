"""Bytecode for the guest, made by the guest's own interpreter on the building machine.

Arguments: `stdlib` or `agent`, the archive's root directory, then directories below it. `stdlib` leaves only the
bytecode, without docstrings: nobody reads the sources in the guest, and both take time to unpack and to load.
`agent` puts the bytecode beside its sources, so that a traceback shows its lines, and keeps docstrings: without one,
`dataclasses` composes one from the signature of each class, which is slower than to load it.

Bytecode carries the hash of its source, unchecked: no time stamp, so the same sources give the same bytes.
Not a general compiler: `compileall` follows neither the order nor the names that this needs.
"""

import os
import py_compile
import sys


def main(kind: str, root: str, *directories: str) -> None:
    bare = kind == "stdlib"
    for directory in directories:
        for folder, folders, files in os.walk(os.path.join(root, directory)):  # noqa: PTH118 (lean, runs in the tree)
            folders.sort()
            for name in sorted(files):
                source = os.path.join(folder, name)  # noqa: PTH118
                if name.endswith(".py") and not os.path.islink(source):  # noqa: PTH114
                    py_compile.compile(
                        source,
                        cfile=source + "c" if bare else None,
                        dfile="/" + os.path.relpath(source, root),
                        doraise=True,
                        optimize=2 if bare else 0,
                        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
                    )
                    if bare:
                        os.unlink(source)  # noqa: PTH108


main(*sys.argv[1:])
