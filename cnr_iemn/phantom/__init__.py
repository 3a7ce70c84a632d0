"""The synthetic cohort, written to disk as a real COVID-CT-MD tree."""
