"""The commands, one file a group; ``medprompt.cli`` puts them together."""
