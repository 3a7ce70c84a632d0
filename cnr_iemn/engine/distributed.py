"""Several processes that train one run: who starts them, who they are, what they hand to the first."""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment, find_free_network_port
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_utilities.core.rank_zero import rank_zero_only
from numpy.typing import NDArray
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.strategies import DDPStrategy

from cnr_iemn.engine.hardware import Hardware, usable_cores
from cnr_iemn.errors import CnrIemnError, ConfigurationError, TrainingError
from cnr_iemn.settings.schema import TrainerSettings, TrainSettings
from cnr_iemn.slices.batches import SMALLEST_PART

_GRACE_SECONDS = 60


def first_process() -> bool:
    """Tell whether this process writes and talks: the first of all that train one run."""
    return int(getattr(rank_zero_only, "rank", None) or 0) == 0


def require_slices_for_each(trainer: TrainerSettings, hardware: Hardware) -> None:
    """Raise ConfigurationError where a batch is too small for its processes and parts."""
    pieces = trainer.accumulate * hardware.processes
    if trainer.batch_size < SMALLEST_PART * pieces:
        raise ConfigurationError(
            f"trainer.batch_size={trainer.batch_size} in {pieces} pieces (processes x trainer.accumulate) leaves less "
            f"than {SMALLEST_PART} slices each: batch norm cannot train on one. Give {SMALLEST_PART * pieces} or more."
        )


def started_elsewhere(hardware: Hardware) -> bool:
    """Tell whether srun or torchrun has started this run's processes.

    Raises ConfigurationError where several nodes are asked for and nobody has.
    """
    if hardware.processes == 1:
        return False
    found = TorchElasticEnvironment.detect() or (
        SLURMEnvironment.detect() and SLURMEnvironment().world_size() == hardware.processes
    )
    if hardware.nodes > 1 and not found:
        raise ConfigurationError(
            f"trainer.nodes={hardware.nodes} needs {hardware.processes} processes, and only the cluster starts those "
            "on other nodes. Start train.py with srun (one task for each GPU) or torchrun: docs/clusters.md."
        )
    return found


def loader_workers(hardware: Hardware) -> int:
    """Return how many processes load data for each GPU; on a CPU they would take the cores from the network.

    Processes of one machine share its cores, unless srun has given each its own.
    """
    if not hardware.on_gpu:
        return 0
    bound = started_elsewhere(hardware) and not TorchElasticEnvironment.detect()
    cores = usable_cores() if bound else usable_cores() // (hardware.processes // hardware.nodes)
    return max(1, min(8, cores - 1))


@contextmanager
def other_processes(
    take_part: Callable[[TrainSettings], None], settings: TrainSettings, hardware: Hardware
) -> Iterator[None]:
    """Have the run's other processes call ``take_part(settings)`` meanwhile; here, where nobody else starts them.

    Raises TrainingError where one of them ends before its time.
    """
    if hardware.processes == 1:
        yield
        return
    before, threads = dict(os.environ), torch.get_num_threads()
    children: list[BaseProcess] = []
    over, ending = threading.Event(), threading.Lock()
    try:
        if not started_elsewhere(hardware):
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(find_free_network_port()), NODE_RANK="0")
            context = get_context("spawn")
            for rank in range(1, hardware.processes):
                os.environ["LOCAL_RANK"] = str(rank)  # what the child's Lightning is told by
                children.append(context.Process(target=_as_another, args=(take_part, settings)))
                children[-1].start()
            os.environ["LOCAL_RANK"] = "0"
            threading.Thread(target=_end_with, args=(children, over, ending), daemon=True).start()
        yield
    except RuntimeError as error:  # how torch tells that the connection to another process is lost
        with ending:
            for child in children:
                child.join(timeout=2)  # its connection closes a moment before it has ended
            lost = [child.exitcode for child in children if child.exitcode]
        if not lost:
            raise
        raise TrainingError(
            f"A process of this run ended with code {lost[0]}; what it said stands above, if it could. A negative code "
            "is the signal that ended it (-9: often a full memory)."
        ) from error
    finally:
        over.set()
        with ending:
            for child in children:
                child.join(timeout=5)
                child.kill()  # no effect where it has ended
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()  # a later job of a multirun makes its own
        os.environ.clear()
        os.environ.update(before)
        torch.set_num_threads(threads)  # shared with the others meanwhile


def _as_another(take_part: Callable[[TrainSettings], None], settings: TrainSettings) -> None:
    """Be one of the other processes: gone when the first one is."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        take_part(settings)
    except CnrIemnError as error:
        print(f"Process {os.environ['LOCAL_RANK']}: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    except KeyboardInterrupt as error:
        raise SystemExit(130) from error


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _end_with(children: list[BaseProcess], over: threading.Event, ending: threading.Lock) -> None:
    """End this process where another one is lost: a GPU's collective would wait for it without end.

    ``ending``: only one thread may ask at a time how a process has ended.
    """
    waiting = list(children)
    while waiting:
        wait([child.sentinel for child in waiting])
        with ending:
            for child in waiting:
                child.join(timeout=2)  # its end is seen a moment before it can be asked for
            codes = [child.exitcode for child in waiting]
        if any(codes):
            if over.wait(_GRACE_SECONDS):  # the loss was noticed, and the run has ended by itself
                return
            print("A process of this run is lost: the same command goes on from the last epoch.", file=sys.stderr)
            os._exit(2)
        waiting = [child for child, code in zip(waiting, codes, strict=True) if code is None]


def trainer_arguments(hardware: Hardware) -> dict[str, Any]:
    """Return the arguments of Lightning's Trainer that say on what and in how many processes it runs."""
    common = {"accelerator": "gpu" if hardware.on_gpu else "cpu", "devices": hardware.processes // hardware.nodes}
    environment: ClusterEnvironment = LightningEnvironment()
    if hardware.processes == 1:
        # named, or within a job of SLURM Lightning would requeue it by itself, beside submitit
        return {**common, "plugins": [environment]}
    if started_elsewhere(hardware):
        elastic = TorchElasticEnvironment.detect()
        environment = TorchElasticEnvironment() if elastic else SLURMEnvironment(auto_requeue=False)
    if not hardware.on_gpu:
        torch.set_num_threads(max(1, usable_cores() // (hardware.processes // hardware.nodes)))
    return {
        **common,
        "num_nodes": hardware.nodes,
        # buffers: see SameBuffers; to send them before each batch would have validation hang on uneven shares
        "strategy": DDPStrategy(broadcast_buffers=False, cluster_environment=environment),
        "use_distributed_sampler": False,  # SharedBatches shares exactly
        "sync_batchnorm": hardware.on_gpu,  # torch has it for GPUs alone
    }


class SameBuffers(Callback):
    """Validates with the first process's running statistics everywhere: its network is the one that is kept."""

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Send them to the others."""
        if trainer.world_size > 1:
            for buffer in pl_module.network.buffers():  # type: ignore[union-attr]  # a SliceNetwork
                torch.distributed.broadcast(buffer, src=0)


@dataclass(frozen=True)
class Share:
    """This process's part of work that all processes of a run do. Without others it is the whole."""

    rank: int
    processes: int

    @classmethod
    def mine(cls) -> "Share":
        """Return the share of this process."""
        if not torch.distributed.is_initialized():
            return cls(0, 1)
        return cls(torch.distributed.get_rank(), torch.distributed.get_world_size())

    def rows(self, n: int) -> range:
        """Return which of ``n`` rows are this process's: a run of neighbours."""
        return range(n * self.rank // self.processes, n * (self.rank + 1) // self.processes)

    def joined(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the values of all n rows, float32 [n, k], in every process. ``values``: of its own m rows, [m, k]."""
        if self.processes == 1:
            return values
        parts: list[NDArray[np.float32] | None] = [None] * self.processes
        torch.distributed.all_gather_object(parts, values)
        return np.concatenate(cast(list[NDArray[np.float32]], parts))
