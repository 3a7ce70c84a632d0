"""One scan from files: DICOM, NIfTI or images to a volume in HU."""
