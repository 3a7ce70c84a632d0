"""What a user may allow by name, where reading a scan would otherwise be refused."""

from dataclasses import dataclass, fields


@dataclass
class ReadOptions:
    """Every field is a key under ``ingest.`` and is named by the refusal it answers. Each use becomes a finding.

    ``kernel`` and ``series_number`` choose among several stacks in one folder (0018,1210 and 0020,0011). A kernel may
    be named by its code, too (``ct.io.acquisition.code_of``), which refusals give for unusual ones.
    ``allow_gaps``: slices missing, or another distance between some; what is there is kept, nothing is interpolated.
    ``allow_unreadable``: damaged files among the slices are left out.
    ``allow_missing_position``: without ImagePositionPatient the slices are ordered by SliceLocation, as axial.
    ``allow_missing_rescale``: without a usable slope and intercept the stored values are taken as HU.
    ``allow_range_mismatch``: decoded values outside the range that the file states (0028,0106/0107), a JPEG stream
    whose pixels show that it is damaged, or a single slice with a rescaling of its own.
    ``assume_hu``: values without air near -1000 HU or without soft tissue.
    """

    kernel: str | None = None
    series_number: int | None = None
    allow_gaps: bool = False
    allow_unreadable: bool = False
    allow_missing_position: bool = False
    allow_missing_rescale: bool = False
    allow_range_mismatch: bool = False
    assume_hu: bool = False

    @classmethod
    def of(cls, settings: "ReadOptions") -> "ReadOptions":
        """Return the read options alone of settings that have them among others."""
        return cls(**{field.name: getattr(settings, field.name) for field in fields(cls)})


STRICT = ReadOptions()
"""Nothing is allowed."""
