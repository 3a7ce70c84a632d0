"""Who the scans are of, and for whom the predictions are right."""
