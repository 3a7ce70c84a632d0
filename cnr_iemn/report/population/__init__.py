"""Patients and scanners in the report: flow of scans, Table 1, subgroups, and their sentences in the model card."""
