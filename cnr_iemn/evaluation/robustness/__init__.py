"""Evidence from perturbed scans: how many answers change."""
