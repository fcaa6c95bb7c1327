"""The PyTorch side: checkpoint and prompts in, bundle out. The only room that knows model families."""
