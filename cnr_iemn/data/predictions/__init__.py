"""Tables of slice predictions, and the deep features beside them: their files and checks."""
