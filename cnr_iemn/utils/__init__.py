"""Files, text, processes: what no medical or learning question depends on."""
