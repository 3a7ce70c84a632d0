"""Predictions as DICOM objects in the patient's study: structured report, secondary capture, lung segmentation."""
