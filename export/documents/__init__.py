"""What a reviewer reads beside the model: card and bill of materials."""
