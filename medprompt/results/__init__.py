"""What a run found: written, converted, resumed, drawn."""
