"""The change record of a release: what changed, how it was tested, what came of it, and who answers for it."""
