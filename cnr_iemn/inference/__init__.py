"""Trained ensembles on new scans."""
