"""Stage-2 methods: from the slices' probabilities of a scan to its class (docs/method/aggregation-methods.md)."""
