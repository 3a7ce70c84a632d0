"""The schema of every configuration; the only place that knows Hydra."""
