"""What a study means for use: decisions on one class, and what its size can tell."""
