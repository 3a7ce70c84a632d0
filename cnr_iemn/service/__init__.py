"""Prediction as a service: an inbox that is watched, an outbox, a DICOM receiver, and Orthanc as a source."""
