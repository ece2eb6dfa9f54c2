"""`python -m server`: the command line."""

import sys

from server.commands.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
