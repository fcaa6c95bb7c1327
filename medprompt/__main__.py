"""``python -m medprompt``: the command line."""

from medprompt.cli import main

main()
