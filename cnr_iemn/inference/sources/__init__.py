"""Scans and bundles from elsewhere as files on this disk: lists, zips, DICOMDIR, DICOMweb, the Hugging Face Hub."""
