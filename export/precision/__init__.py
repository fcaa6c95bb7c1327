"""Mixed precision chosen by parity: blocks, their matrix work, typed models, and the search among them."""
