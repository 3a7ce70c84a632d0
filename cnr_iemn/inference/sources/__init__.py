"""The input of predict.py as files on this disk: a list, a zip of many scans, a DICOMDIR, a DICOMweb server."""
