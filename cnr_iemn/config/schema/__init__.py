"""The fields of every command's configuration: types, ranges, choices, defaults."""
