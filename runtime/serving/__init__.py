"""Where one process ends: a bundle behind a server, on many machines, in other programs."""
