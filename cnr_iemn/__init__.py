"""CNR-IEMN: from the DICOM files of a chest CT to Normal, COVID-19 or CAP for the patient.

Implements Bougourzi, Contino, Distante and Taleb-Ahmed, "CNR-IEMN: a deep learning based approach to recognise
Covid-19 from CT-scan", ICASSP 2021, doi 10.1109/ICASSP39728.2021.9414185. The story is told by ``train.py`` (stage 1,
section 2.1 of the paper) and ``aggregate.py`` (stage 2, section 2.2).
"""

__version__ = "0.1.0"
