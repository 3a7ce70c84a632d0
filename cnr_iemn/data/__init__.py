"""Cohorts, labels, splits, the slice store and the tables of slice predictions."""
