"""The debug modes of ``train.py``, as ``settings`` has the other settings."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from cnr_iemn.config.schema.fields import OneOf


@dataclass
class DebugSettings:
    """A debug mode of train.py, at most one: conf/debug has them. ``profiler``: of Lightning."""

    fast_dev_run: bool = False
    overfit_batches: Annotated[int, Ge(0)] = 0
    profiler: Annotated[str, OneOf(("simple", "advanced"))] | None = None

    @property
    def modes(self) -> tuple[str, ...]:
        """The modes that are on; none in a run whose results count."""
        modes = {"fast": self.fast_dev_run, "overfit": self.overfit_batches > 0, "profile": self.profiler is not None}
        return tuple(name for name, on in modes.items() if on)

    @property
    def mode(self) -> str | None:
        """The mode, None without one."""
        return self.modes[0] if self.modes else None
