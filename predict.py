"""Classify new scans with a trained study, or its bundle: class and probabilities of each scan and of its slices.

python predict.py input=/data/new_scans study=covid_ct_md
python predict.py input=/data/new_scans bundle=/data/bundle
"""

import logging
import shutil
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cnr_iemn.config.entry_point import entry_point
from cnr_iemn.config.schema.prediction import PredictSettings
from cnr_iemn.errors import PartialFailureError

if TYPE_CHECKING:
    from cnr_iemn.inference.predictor import Predictor

log = logging.getLogger("cnr_iemn.predict")


@entry_point("predict", PredictSettings)
def main(settings: PredictSettings) -> float:
    """Predict every scan below the input that has no answer yet. Returns the share of scans with a prediction."""
    return watch(settings) if settings.watch else predict(settings)


def predict(settings: PredictSettings) -> float:
    """Predict the scans of the input, once."""
    from cnr_iemn.inference.prediction_summary import print_part, print_summary, raise_if_incomplete
    from cnr_iemn.inference.run_report import RunReporter
    from cnr_iemn.inference.sources.local_input import local_input
    from cnr_iemn.service.prediction import answer_input, load_predictor

    with RunReporter(Path(settings.report) if settings.report else None) as reporter, ExitStack() as stack:
        with reporter.stage("load"):
            predictor = load_predictor(settings)
        with reporter.stage("find"):
            source = stack.enter_context(local_input(settings.input, anonymous=settings.anonymise_ids))
        summary, answers = answer_input(settings, predictor, source, reporter)
        whole = settings.part is None
        if whole:
            print_summary(summary, answers, predictor.loaded, dicom=settings.dicom)
        else:
            print_part(summary, settings.part_name)
        raise_if_incomplete(summary, answers, whole=whole)
        return summary.share


def watch(settings: PredictSettings) -> float:
    """Answer each series that comes into the input, until a signal ends the command."""
    from cnr_iemn.service.inbox import Inbox
    from cnr_iemn.service.outbox import Outbox
    from cnr_iemn.service.prediction import load_predictor
    from cnr_iemn.service.receiver import Receiver, Sender
    from cnr_iemn.service.watch import Watch

    receiver = Receiver.of(settings.receiver) if settings.receiver else None
    predictor = load_predictor(settings)
    _ = predictor.networks  # a damaged checkpoint shows before a series is taken
    inbox = Inbox(Path(settings.input), settle_seconds=settings.settle_seconds, keep=settings.keep)
    outbox = Outbox(Path(str(settings.output)))
    sender = Sender(outbox, receiver) if receiver else None
    Watch(inbox, outbox, partial(answer_series, settings, predictor), sender).run()
    return 1.0


def answer_series(settings: PredictSettings, predictor: "Predictor", source: Path, folder: Path) -> None:
    """Predict the scans of a series into a folder. Raises CnrIemnError where none of them has a prediction."""
    from cnr_iemn.inference.answers import FOLDER
    from cnr_iemn.inference.prediction_summary import raise_if_incomplete
    from cnr_iemn.inference.run_report import RunReporter
    from cnr_iemn.inference.sources.local_input import local_input
    from cnr_iemn.service.prediction import answer_input

    series = replace(settings, input=str(source), output=str(folder))
    with local_input(series.input) as place:
        summary, answers = answer_input(series, predictor, place, RunReporter(None))
    try:
        raise_if_incomplete(summary, answers)
    except PartialFailureError as error:  # its files say so, too
        log.warning("%s", error)
    shutil.rmtree(folder / FOLDER)  # the outbox holds what is finished


if __name__ == "__main__":
    raise SystemExit(main())
