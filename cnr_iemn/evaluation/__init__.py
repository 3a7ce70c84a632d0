"""What the figures of a study are, and how far they can be trusted."""
