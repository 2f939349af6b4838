"""The neftune executable, as an installed script. See ``python -m neftune --help``."""

import os
import sysconfig


def find_neftune():
    """Return the path of the installed executable; raise FileNotFoundError where there is none."""
    user_scheme = sysconfig.get_preferred_scheme("user") if hasattr(sysconfig, "get_preferred_scheme") else "posix_user"
    # With `pip install --target FOLDER` the script lies in FOLDER/bin.
    target = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "bin")
    folders = [sysconfig.get_path("scripts"), sysconfig.get_path("scripts", scheme=user_scheme), target]
    for folder in folders:
        path = os.path.join(folder, "neftune")
        if os.path.isfile(path):
            return path
    raise FileNotFoundError("neftune's executable is in none of: " + ", ".join(folders))
