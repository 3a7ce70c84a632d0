"""W&B without a connection or with an invalid key fails before the work; a lost connection costs no run."""

import os
import shlex
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import wandb

from cnr_iemn.config.schema.settings import LoggerSettings
from cnr_iemn.errors import ConfigurationError
from cnr_iemn.stage1.training.loggers import wandb_logger
from cnr_iemn.stage1.training.loggers.run_loggers import require_server
from tests.pipeline import TINY, entry_point
from tests.stage1.wandb_server import server

pytestmark = pytest.mark.slow

NOBODY = "http://127.0.0.1:9"  # where nothing listens
KEY = "a" * 40


@pytest.fixture(autouse=True)
def _own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("WANDB_HTTP_TIMEOUT", "2")
    wandb.teardown()  # it reads the environment once
    yield
    wandb.teardown()


@pytest.mark.parametrize(
    ("offline", "environment", "message"),
    [
        (None, {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": NOBODY}, "Without a network add logger.offline=true"),
        (False, {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": NOBODY}, "Without a network add logger.offline=true"),
        (None, {"WANDB_API_KEY": KEY, "HTTPS_PROXY": NOBODY}, r"at the proxy \(HTTPS_PROXY\)"),
        (None, {"WANDB_API_KEY": "short"}, r"must have 40\+ characters.*look at the key"),
        (False, {}, "logger.offline=false needs a key of W&B, and there is none"),
        (False, {"WANDB_MODE": "offline", "WANDB_API_KEY": KEY}, "or WANDB_MODE says otherwise"),
        (None, {"WANDB_MODE": "of"}, "W&B rejects a setting.*WANDB_MODE for mode"),
        (None, {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": "a-server"}, "W&B rejects a setting.*base_url"),
    ],
)
def test_an_invalid_wandb_target_is_refused(
    offline: bool | None, environment: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=message):
        require_server(LoggerSettings(name="wandb", offline=offline))


def test_a_key_that_the_server_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    with server(status=401) as running:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{running.server_port}")
        with pytest.raises(ConfigurationError, match="or rejects the key"):
            require_server(LoggerSettings(name="wandb"))


@pytest.mark.parametrize(
    ("offline", "environment"),
    [(True, {"WANDB_API_KEY": KEY}), (None, {}), (None, {"WANDB_API_KEY": KEY, "WANDB_MODE": "offline"})],
)
def test_offline_mode_needs_no_server(
    offline: bool | None, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**environment, "WANDB_BASE_URL": NOBODY}.items():
        monkeypatch.setenv(name, value)
    assert wandb_logger.logs_offline(LoggerSettings(name="wandb", offline=offline))


def test_the_commands_refuse_before_their_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", NOBODY)
    folders = [f"runs={tmp_path / 'runs'}", "study=tiny", "logger=wandb"]
    few = ["data.phantom.scans={Normal: 3, COVID-19: 3, CAP: 3}", "data.phantom.labelled={COVID-19: 3, CAP: 3}"]
    few += ["data.labelled_normals=3", "data.phantom.n_slices=[6, 8]"]
    assert entry_point("aggregate")(folders) == 2
    assert entry_point("train")([*TINY, *few, f"ingest.cache={tmp_path / 'cache'}", *folders]) == 2
    printed = capfd.readouterr()
    assert printed.err.count("Without a network add logger.offline=true") == 2
    assert "Traceback" not in printed.err
    assert "Preparing" not in printed.out
    assert not list(tmp_path.glob("runs/**/run.json"))


def test_a_lost_connection_costs_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(wandb_logger, "_UPLOAD_SECONDS", 3.0)
    with ExitStack() as network:
        running = network.enter_context(server())
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{running.server_port}")
        with wandb_logger.start_run(LoggerSettings(name="wandb"), tmp_path, {"id": "abc"}) as experiment:
            experiment.log({"loss": 1.0})
            network.close()
            experiment.log({"loss": 0.5})
    line = next(line for line in capfd.readouterr().err.splitlines() if line.startswith("W&B has not received"))
    command = shlex.split(line.split("Upload it later: ")[1])
    assert command[:2] == ["wandb", "sync"]
    assert list(Path(command[2]).glob("run-*.wandb"))
