"""What the figures of stage 2 are, and what they can and cannot tell."""
