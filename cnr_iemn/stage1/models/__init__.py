"""The networks of stage 1, in plain torch."""
