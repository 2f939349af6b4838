"""Becomes the executable, so that signals, exit status and terminal are its own."""

import os
import sys

from neftune import find_neftune

if __name__ == "__main__":
    try:
        executable = find_neftune()
    except FileNotFoundError as error:
        sys.exit(str(error))
    os.execv(executable, [executable, *sys.argv[1:]])
