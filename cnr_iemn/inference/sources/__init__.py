"""Scans and bundles of other places as files on this disk: lists, zips, a DICOMDIR, DICOMweb, the Hugging Face Hub."""
