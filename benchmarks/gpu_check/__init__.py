"""``medprompt gpu-check``: what only a GPU can tell about this machine and this medprompt, in ten minutes."""
