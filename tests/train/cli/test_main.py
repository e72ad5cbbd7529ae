"""The command line: help that reads well, and one sentence for what is wrong."""

import subprocess
import sys

import pytest

from train.cli.main import COMMANDS, main


def call(*arguments, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "train", *arguments], capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"python -m train {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["fly"], "there is no command 'fly'"),
        (["run", "nano", "--stpes", "3"], "--stpes"),
        (["run", "nano", "--optimizer.learning-rate", "-1"], "optimizer.learning_rate=-1.0"),
        (["run", "nano", "--context", "4096"], "context=4096 is longer than the model's context"),
        (["run", "paper_literal"], "419.4 billion tokens"),
        (["run", "nano", "--mesh.fsdp", "3"], "fsdp=3 x tensor=1 needs"),
        (["run", "nano", "--data.source", "ftp:x"], "ftp:x"),
        (["compare", "--only", "adamw", "sgd"], "--only sgd: no such optimizer"),
        (["tune", "--only", "sgd"], "--only sgd: no such optimizer"),
        (["tune", "--trials", "0"], "trials=0"),
        (["tune", "--workers", "0"], "workers=0"),
        (["report", "nowhere"], "nowhere"),
        (["check", "nowhere"], "nowhere does not exist"),
    ],
)
def test_wrong_input_is_one_sentence_and_status_2(
    arguments, sentence, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    printed = capsys.readouterr()
    message = " ".join((printed.out + printed.err).split())
    assert sentence in message
    assert "Traceback" not in message
    assert not (tmp_path / "runs").exists()


def test_the_module_runs_as_a_program():
    done = call("--help")
    assert done.returncode == 0
    assert "Compare optimizers" in done.stdout
    assert call().returncode == 2
