"""Reporting checklists and a data sheet, filled from what a run holds; all else is left to the author."""
