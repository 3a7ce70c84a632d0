"""Stage 1 (section 2.1 of the paper): networks on slices."""
