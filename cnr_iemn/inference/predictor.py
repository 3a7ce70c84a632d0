"""A trained ensemble on new scans, one after the other: prepare, predict, explain."""

import hashlib
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

from cnr_iemn.ct.preprocess import PreparedScan
from cnr_iemn.errors import RunError, ScanError
from cnr_iemn.inference.backends import choose_engine
from cnr_iemn.inference.bundle import open_bundle
from cnr_iemn.inference.explanation import explain
from cnr_iemn.inference.input_checks import Source, prepare_new_scan
from cnr_iemn.inference.networks import EnsembleNetworks
from cnr_iemn.inference.scan_result import Refusal, ScanResult, scan_prediction
from cnr_iemn.read_options import STRICT, ReadOptions
from cnr_iemn.stage1.training.hardware import Hardware, choose_hardware, usable_cores
from cnr_iemn.stage2.ensemble import LoadedEnsemble, load_study_ensemble
from cnr_iemn.stage2.new_scans import NewScan
from cnr_iemn.stage2.out_of_fold import by_fold
from cnr_iemn.stage2.scan_predictions import predict_sets
from cnr_iemn.stage2.shap_values import contributions
from cnr_iemn.utils.sandbox import refusal, run_limited


def load_ensemble(
    study: str = "", *, name: str = "all", runs: Path = Path("runs"), bundle: Path | None = None
) -> LoadedEnsemble:
    """Return an ensemble of a study, or that of a bundle.

    Args:
        study: Name, unless ``bundle`` is given.
        name: Of the ensemble within the study.
        runs: Folder of all studies.
        bundle: A folder that export.py has written, in place of the three others.

    Raises:
        RunError: It is not named, is missing or damaged, or its slices were prepared by another version.
    """
    if bundle is not None:
        return open_bundle(bundle)
    if not study:
        raise RunError("Neither a study nor a bundle is named. Give one of them.")
    return load_study_ensemble(runs, study, name)


class Predictor:
    """A trained ensemble on new scans.

    Args:
        loaded: The ensemble.
        hardware: Where the networks run; a GPU where there is one, unless given.
        read_options: What a scan may lack.
        batch_size: Slices.
        engine: What runs the networks, one of ``constants.ENGINES``.
        anonymous: Number a scan's files in refusals instead of naming them.
        explanations: Add key slices and Grad-CAM maps to each result.
        display: Keep slices at the scan's own resolution in each result.

    Raises:
        RunError: The file of the stage-2 method is missing or damaged, or is not the ensemble's.
        ConfigurationError: The engine cannot run here.
    """

    def __init__(
        self,
        loaded: LoadedEnsemble,
        hardware: Hardware | None = None,
        *,
        read_options: ReadOptions = STRICT,
        batch_size: int = 16,
        engine: str = "auto",
        anonymous: bool = False,
        explanations: bool = True,
        display: bool = False,
    ) -> None:
        self.loaded = loaded
        self.ensemble = loaded.ensemble
        self.hardware = choose_hardware(None) if hardware is None else hardware
        self.engine = choose_engine(engine, self.hardware)
        self._method = loaded.load_method()
        self._space = loaded.load_space()
        self._pixels = replace(self.ensemble.pixels, read_options=read_options)
        self._batch_size = batch_size
        self._anonymous, self.explanations, self._display = anonymous, explanations, display

    @cached_property
    def networks(self) -> EnsembleNetworks:
        """The networks, loaded at first use. Raises RunError as ``EnsembleNetworks`` does."""
        return EnsembleNetworks(
            self.loaded.folder,
            self.ensemble,
            self.hardware,
            batch_size=self._batch_size,
            engine=self.engine,
            space=self._space,
        )

    @property
    def reader_processes(self) -> int:
        """Processes that keep the networks busy: a CPU takes longer for the networks than one process for a scan."""
        return 1 if self.hardware.device.type == "cpu" else usable_cores()

    def prepare(
        self, scans: Iterable[tuple[str, Source]], *, workers: int = 1
    ) -> Generator[tuple[int, PreparedScan | ScanError], None, None]:
        """Start processes that read ahead until the generator is closed; return index and pixels or refusal.

        Args:
            scans: Id and source of each; each process has one scan that it reads, or that waits for the networks.
            workers: Processes.
        """
        job = partial(
            prepare_new_scan,
            self._pixels,
            self._anonymous,
            training=self.ensemble.training_scans,
            display=self._display,
        )
        return run_limited(job, scans, workers=workers)

    def predict(self, scans: Sequence[tuple[str, Source]]) -> Generator[ScanResult | Refusal, None, None]:
        """Yield the result or the refusal of each scan, in order; the next scan is read in another process meanwhile.

        Args:
            scans: Id and source of each, from ``find_new_scans``.

        Raises:
            RunError: The networks cannot be loaded, or give no finite probabilities.
        """
        with closing(self.prepare(scans)) as reader:
            _ = self.networks  # loaded while the first scan is read
            for index, prepared in reader:
                yield self.result(*scans[index], prepared)

    def result(self, scan_id: str, source: Source, prepared: PreparedScan | ScanError) -> ScanResult | Refusal:
        """Return the result for a scan that was read, or its refusal."""
        if isinstance(prepared, ScanError):
            return Refusal(scan_id, refusal(scan_id, prepared), prepared.code)
        return self.predict_scan(scan_id, source, prepared)

    def predict_scan(self, scan_id: str, source: Source, prepared: PreparedScan) -> ScanResult:
        """Return the result for one prepared scan."""
        ensemble = self.ensemble
        outputs = self.networks.outputs(prepared)
        networks = self.networks.channels(outputs)
        channels = by_fold(networks, ensemble.folds)
        shap = contributions(self._method, {scan_id: channels})
        (probabilities,) = predict_sets(self._method, {scan_id: channels})
        sets = tuple(ensemble.axes.plain.read(channels))
        explanation = None
        if self.explanations:
            explanation = explain(
                self.networks, prepared, contributions=shap, sets=sets, predicted=int(probabilities.argmax())
            )
        return ScanResult(
            source=source,
            prepared=prepared,
            probabilities=NewScan(
                z_mm=prepared.z_mm,
                phantom=prepared.phantom,
                grey_sha256=hashlib.sha256(prepared.grey.tobytes()).hexdigest(),
                networks=networks,
            ),
            sets=sets,
            features={
                member.name: values for member, output in outputs.items() if (values := output.features) is not None
            },
            contributions=shap,
            prediction=scan_prediction(
                scan_id, prepared, sets=sets, probabilities=probabilities, contributions=shap, ensemble=ensemble
            ),
            explanation=explanation,
        )
