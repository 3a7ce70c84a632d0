"""Studies and measurements that take minutes to hours; each prints a table: ``python -m benchmarks.NAME``."""
