"""Does a bundle read its prompts? Other words in their place, and what that changes."""
