"""Pictures of what a trained model does, as files: no display is needed, and no setting of the user's changes one."""

import contextlib
import os
import sys

# Notebooks export MPLBACKEND. Where it names a backend that isn't installed, matplotlib couldn't even be imported.
backend = None if "matplotlib" in sys.modules else os.environ.pop("MPLBACKEND", None)
import matplotlib  # noqa: E402

if backend:
    os.environ["MPLBACKEND"] = backend
    with contextlib.suppress(ValueError):
        matplotlib.rcParams["backend"] = backend
