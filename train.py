"""Stage 1: train one backbone on slices and predict every slice of every scan in the cohort.

python train.py model=densenet161 trainer.gpus=1
python train.py -m model=resnext50,densenet161,inception_v3,wide_resnet50 data=covid_ct_md data.root=/data/COVID-CT-MD
"""

from cnr_iemn.config.entry_point import entry_point
from cnr_iemn.config.schema.settings import TrainSettings


@entry_point("train", TrainSettings)
def main(settings: TrainSettings) -> float:
    """Train, predict and save one run. Returns the validation slice accuracy, NaN without validation slices."""
    from cnr_iemn.stage1.command import train

    return train(settings)


if __name__ == "__main__":
    raise SystemExit(main())
