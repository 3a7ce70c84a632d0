"""Errors of torch that end a training, in words."""

import torch

from cnr_iemn.stage1.data.datamodule import SliceDataModule

_OUT_OF_MEMORY = ("DefaultCPUAllocator", "ALLOC_FAILED", "unable to find an engine")
"""Messages of torch for too little memory without an error class: on the CPU, in cuBLAS, in cuDNN."""
_LOST_LOADER = "DataLoader worker"


def training_failure(error: Exception, data: SliceDataModule) -> str | None:
    """Return why the training cannot go on and what to do, None where the error is a fault of the program."""
    message = (str(error).splitlines() or [""])[0][:200]
    if _LOST_LOADER in str(error):
        return (
            f"A process that loads data was lost ({message}). Most often the shared memory for its batches is too "
            "small, as in a container by default: give it more (docker's --shm-size), or lower trainer.workers, now "
            f"{data.workers}; 0 loads without."
        )
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or any(words in str(error) for words in _OUT_OF_MEMORY):
        return (
            f"The memory does not hold a batch ({message}). Raise trainer.accumulate, now {data.accumulate}: "
            f"the same batch in more parts. Or lower trainer.batch_size, now {data.batch_size}, or model.image_size, "
            f"now {data.training.image_size}."
        )
    return None
