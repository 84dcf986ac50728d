"""Imports the libraries of networks in less time."""

import gc
import sys


def import_quickly() -> None:
    """Imports what makes and draws people, without collecting garbage meanwhile.

    Modules make half a million objects that stay. Looking for garbage among them again and again takes a fifth of the
    time: 6.2 of 7.9 s of the processor are left.
    """
    if "torch" in sys.modules:
        return
    gc.disable()
    try:
        import hdb.pipeline  # noqa: F401 - for its imports
    finally:
        gc.freeze()  # nor are they looked at later
        gc.enable()
