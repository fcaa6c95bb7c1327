"""What the experiments' command lines share: errors in our words and exit codes."""

from __future__ import annotations

import sys
from collections.abc import Callable

from medprompt.core.errors import MedpromptError


def run_command(command: Callable[[], None]) -> None:
    """Run a command; an error of ours ends the process with its own exit code and no traceback."""
    try:
        command()
    except MedpromptError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
