"""Tables of slice predictions and of deep features: their files and checks."""
