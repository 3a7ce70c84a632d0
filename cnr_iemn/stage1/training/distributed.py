"""Several processes that train one run: who starts them, which rank each has, what they gather."""

import json
import logging
import os
import signal
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast
from uuid import uuid4

import numpy as np
import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_utilities.core.rank_zero import rank_zero_only
from numpy.typing import NDArray
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.strategies import DDPStrategy
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from cnr_iemn import errors
from cnr_iemn.config.schema.settings import TrainerSettings, TrainSettings
from cnr_iemn.config.signals import termination
from cnr_iemn.errors import CnrIemnError, ConfigurationError, Termination, TrainingError, own_words
from cnr_iemn.stage1.data.samplers import SMALLEST_PART
from cnr_iemn.stage1.training.hardware import Hardware, usable_cores
from cnr_iemn.utils.console import start_logging
from cnr_iemn.utils.processes import require_start_method

Number = TypeVar("Number", bound=np.generic)

RankTask = Callable[[TrainSettings], float]
"""What every process of a run does, with the settings of the run; returns the run's score."""


def first_process() -> bool:
    """Return whether this process has rank 0: it alone writes files and prints."""
    return int(getattr(rank_zero_only, "rank", None) or 0) == 0


def claim_rank(hardware: Hardware) -> int:
    """Return this process's rank within its run, and pass it to Lightning, which reads the environment alone.

    Variables of a rank (RANK, LOCAL_RANK, SLURM_PROCID, ...) count only where the run's processes are started from
    outside: a task of a SLURM allocation, or a shell inside one, may as well train a run of its own.

    Raises:
        ConfigurationError: As ``launched_externally``.
    """
    rank = _rank_variable(_external_environment().global_rank) if launched_externally(hardware) else 0
    rank_zero_only.rank = rank  # type: ignore[attr-defined]  # its documented use; the stubs do not have it
    return rank


def require_batch_per_rank(trainer: TrainerSettings, hardware: Hardware) -> None:
    """Raise ConfigurationError where a batch is too small for its processes and accumulation steps."""
    pieces = trainer.accumulate * hardware.processes
    if trainer.batch_size < SMALLEST_PART * pieces:
        raise ConfigurationError(
            f"trainer.batch_size={trainer.batch_size} in {pieces} pieces (processes x trainer.accumulate) leaves fewer "
            f"than {SMALLEST_PART} slices each: batch norm cannot train on one. Give {SMALLEST_PART * pieces} or more."
        )


def launched_externally(hardware: Hardware) -> bool:
    """Return whether srun or torchrun has started this run's processes: as many as the run has.

    Raises:
        ConfigurationError: Several nodes are configured and nothing has started their processes, or the environment
            does not say how many processes there are.
    """
    if hardware.processes == 1:
        return False
    if TorchElasticEnvironment.detect():
        tasks = _rank_variable(TorchElasticEnvironment().world_size)
    else:  # of srun's step: a batch script has SLURM_NTASKS and SLURM_PROCID, too, and is one process
        tasks = _rank_variable(lambda: int(os.environ.get("SLURM_STEP_NUM_TASKS") or "1"))
    external = tasks == hardware.processes
    if hardware.nodes > 1 and not external:
        raise ConfigurationError(
            f"trainer.nodes={hardware.nodes} needs {hardware.processes} processes, and only the cluster starts those "
            "on other nodes. Start train.py with srun (one task for each GPU) or torchrun: docs/guide/clusters.md."
        )
    return external


def _rank_variable(read: Callable[[], int]) -> int:
    """Return a number that torchrun or srun sets. Raises ConfigurationError where it is missing or not a number."""
    try:
        return read()
    except (KeyError, ValueError) as error:
        raise ConfigurationError(
            f"The environment is one of torchrun or srun, but does not describe this run's processes ({error}). Start "
            "train.py with one of them as in docs/guide/clusters.md, or unset the variables that it has left: "
            "TORCHELASTIC_RUN_ID, WORLD_SIZE, RANK, SLURM_STEP_NUM_TASKS, SLURM_PROCID."
        ) from error


def _external_environment() -> ClusterEnvironment:
    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    try:
        return SLURMEnvironment(auto_requeue=False)
    except RuntimeError as error:
        raise ConfigurationError(
            f"srun has started {os.environ['SLURM_NTASKS']} tasks without saying how many there are on a node. Add "
            "--ntasks-per-node= to it, as in docs/guide/clusters.md."
        ) from error


def loader_workers(hardware: Hardware) -> int:
    """Return how many processes load data for each GPU; on a CPU they would take the cores from the network.

    Processes of one machine share its cores, unless srun has given each its own.
    """
    if not hardware.on_gpu:
        return 0
    bound = launched_externally(hardware) and not TorchElasticEnvironment.detect()
    cores = usable_cores() if bound else usable_cores() // (hardware.processes // hardware.nodes)
    return max(1, min(8, cores - 1))


def launch_ranks(task: RankTask, settings: TrainSettings, hardware: Hardware) -> float:
    """Run ``task(settings)`` in each of the run's processes on this machine, started by torchrun's launcher.

    Args:
        task: A function of a module, which the processes import.
        settings: Of the run.
        hardware: How many processes there are.

    Returns:
        What the task returned in the process of rank 0.

    Raises:
        CnrIemnError: As the first process that raised one.
        TrainingError: A process was lost.
    """
    require_start_method()
    handled = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    handlers = {number: signal.getsignal(number) for number in handled}
    for name in ("torch.distributed.elastic", "torch.multiprocessing.spawn"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # a failure is reported below
    with tempfile.TemporaryDirectory(prefix="ranks-") as folder:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=hardware.processes,
            run_id=uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="127.0.0.1:0",
            local_addr="127.0.0.1",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        message = Path(folder) / "error.json"
        try:
            scores: dict[int, float] = elastic_launch(config, _rank_main)(task, settings, message)
        except SignalException as error:
            if error.sigval == signal.SIGINT:
                raise KeyboardInterrupt from error
            raise Termination(error.sigval) from error
        except ChildFailedError as error:
            if message.is_file():
                kind, text = json.loads(message.read_text(encoding="utf-8"))
                raise getattr(errors, kind, CnrIemnError)(text) from None
            code = error.get_first_failure()[1].exitcode
            raise TrainingError(
                f"A process of this run ended with code {code}; its own message stands above, if it had one. A "
                "negative code is the signal that ended it (-9: often a full memory). The same command goes on after "
                "the last finished epoch."
            ) from error
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return scores[0]


def _rank_main(task: RankTask, settings: TrainSettings, message: Path) -> float:
    """Be one of the processes that ``launch_ranks`` starts; leave the first refusal in the file ``message``."""
    try:
        start_logging()
        with termination(process_ends=True):
            return task(settings)
    except CnrIemnError as error:
        if not message.exists():
            temporary = message.with_suffix(f".{os.environ['RANK']}")
            temporary.write_text(json.dumps([type(error).__name__, own_words(error)]), encoding="utf-8")
            temporary.rename(message)
        raise SystemExit(2) from error
    except KeyboardInterrupt as error:
        raise SystemExit(error.exit_code if isinstance(error, Termination) else 130) from error


def run_silently(task: Callable[[], None]) -> None:
    """Do the work of a rank above 0, which prints nothing but errors, and leave the group of processes."""
    try:
        with open(os.devnull, "w", encoding="utf-8") as sink, redirect_stdout(sink):
            task()
    finally:
        leave_process_group()


def leave_process_group() -> None:
    """End the group that training has formed, where there is one; a later job of a multirun forms its own."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def trainer_arguments(hardware: Hardware) -> dict[str, Any]:
    """Return the arguments of Lightning's Trainer that say on what and in how many processes it runs."""
    common = {"accelerator": "gpu" if hardware.on_gpu else "cpu", "devices": hardware.processes // hardware.nodes}
    if hardware.processes == 1:
        # named, or within a job of SLURM Lightning would requeue it by itself, beside submitit
        return {**common, "plugins": [LightningEnvironment()]}
    if not hardware.on_gpu:
        torch.set_num_threads(max(1, usable_cores() // (hardware.processes // hardware.nodes)))
    return {
        **common,
        "num_nodes": hardware.nodes,
        # buffers: see BroadcastBuffers; to send them before each batch would have validation hang on uneven shares
        "strategy": DDPStrategy(broadcast_buffers=False, cluster_environment=_external_environment()),
        "use_distributed_sampler": False,  # SharedBatches shares exactly
        "sync_batchnorm": hardware.on_gpu,  # torch has it for GPUs alone
    }


class BroadcastBuffers(Callback):
    """Validates with the running statistics of rank 0 in all processes: its network is the one that is saved."""

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Send them to the other ranks."""
        if trainer.world_size > 1:
            for buffer in pl_module.network.buffers():  # type: ignore[union-attr]  # a SliceNetwork
                torch.distributed.broadcast(buffer, src=0)


@dataclass(frozen=True)
class RankShard:
    """The rows of a task that one rank works on. With a single process, all of them."""

    rank: int
    processes: int

    @classmethod
    def current(cls) -> "RankShard":
        """Return the shard of this process."""
        if not torch.distributed.is_initialized():
            return cls(0, 1)
        return cls(torch.distributed.get_rank(), torch.distributed.get_world_size())

    def indices(self, n: int) -> range:
        """Return which of ``n`` rows are this rank's: consecutive ones."""
        return range(n * self.rank // self.processes, n * (self.rank + 1) // self.processes)

    def all_gather(self, values: NDArray[Number]) -> NDArray[Number]:
        """Return the values of all ranks, in every process.

        Args:
            values: Of this rank's m rows, [m, k].

        Returns:
            Of all n rows, [n, k].
        """
        if self.processes == 1:
            return values
        shards: list[NDArray[Number] | None] = [None] * self.processes
        torch.distributed.all_gather_object(shards, values)
        return np.concatenate(cast(list[NDArray[Number]], shards))


def require_one_run(trainer: pl.Trainer, name: tuple[str, str, str]) -> None:
    """Raise ConfigurationError, in all processes, where they were started for several runs.

    ``name``: study, model and tag of this process's run.
    """
    first = trainer.strategy.broadcast(name)
    if not trainer.strategy.reduce_boolean_decision(name == first):
        raise ConfigurationError(
            f"The {trainer.world_size} processes that were started train one run together, and were given several "
            f"({'/'.join(name)} beside {'/'.join(first)}). For a run in each of them give trainer.gpus=1, or "
            "trainer.gpus=0 trainer.cpu_processes=1."
        )
