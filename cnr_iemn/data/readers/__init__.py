"""Readers of cohorts: each layout of files to a ``Cohort``."""
