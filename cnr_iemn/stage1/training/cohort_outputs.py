"""A trained network's outputs of all slices of a cohort, computed by all processes of a run together."""

from collections.abc import Iterable

from torch import Tensor
from torch.utils.data import Subset

from cnr_iemn.stage1.data.datamodule import SliceDataset, plain_loader
from cnr_iemn.stage1.models.network import SliceNetwork
from cnr_iemn.stage1.models.predict import SliceOutputs, predict_slices
from cnr_iemn.stage1.training.distributed import RankShard
from cnr_iemn.stage1.training.hardware import Hardware
from cnr_iemn.stage1.training.loggers.progress import show_progress


def cohort_outputs(
    network: SliceNetwork,
    dataset: SliceDataset,
    *,
    hardware: Hardware,
    batch_size: int,
    workers: int,
    features: bool,
) -> SliceOutputs:
    """Return the outputs of every slice of a data set, in its order and in every process.

    Args:
        network: Left in evaluation mode on the device.
        dataset: Slices without augmentation.
        hardware: Where it computes.
        batch_size: Slices.
        workers: Loading processes.
        features: Keep the trunk's features.

    Raises:
        RunError: A probability is not finite.
    """
    shard = RankShard.current()
    subset = Subset(dataset, shard.indices(len(dataset)))
    loader = plain_loader(subset, batch_size, workers, for_gpu=hardware.on_gpu)
    batches: Iterable[dict[str, Tensor]] = loader
    if shard.rank == 0:
        batches = show_progress(
            loader, len(subset), verb="Predicting", unit="slices", size=lambda batch: len(batch["label"])
        )
    outputs = predict_slices(network, batches, device=hardware.device, precision=hardware.precision, features=features)
    return SliceOutputs(
        shard.all_gather(outputs.classes),
        shard.all_gather(outputs.regions),
        None if outputs.features is None else shard.all_gather(outputs.features),
        None if outputs.scores is None else shard.all_gather(outputs.scores),
    )
