"""Training slices: warps, balancing, batches."""
