"""How a process finds the others, and that the files of launch/ say it right."""

import os
import shlex
import subprocess
import types

import jax
import pytest
import yaml

from tests.support import ROOT
from train.cli.terminal import parse
from train.cli.train import run_command
from train.config.run import MeshConfig
from train.host.distributed import HostsConfig, Place, find_place, init_distributed
from train.step.sharding import make_mesh, process_share

SKYPILOT = {
    "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
    "SKYPILOT_NUM_NODES": "2",
    "SKYPILOT_NODE_RANK": "1",
}


@pytest.mark.parametrize(
    ("flags", "environment"),
    [
        ({}, {}),
        ({}, {"SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "1"}),
        ({}, {"SLURM_NTASKS": "2"}),  # the batch script itself, which srun has not started
        ({}, {"OMPI_COMM_WORLD_SIZE": "1"}),
        ({}, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}),
        ({}, SKYPILOT | {"SKYPILOT_NODE_IPS": "10.0.0.1", "SKYPILOT_NUM_NODES": "1"}),
        ({"process_count": 1}, SKYPILOT),
        ({"process_count": 1}, {"SLURM_STEP_NUM_TASKS": "2"}),
    ],
)
def test_a_single_process_is_left_alone(flags, environment):
    assert find_place(HostsConfig(**flags), environment) is None


@pytest.mark.parametrize(
    "environment",
    [
        {"SLURM_STEP_NUM_TASKS": "2"},
        {"OMPI_COMM_WORLD_SIZE": "2"},
        {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"},
    ],
)
def test_what_jax_knows_is_left_to_jax(environment):
    assert find_place(HostsConfig(), environment) == Place(None, None, None)


def test_flags_come_before_the_environment():
    flags = HostsConfig(coordinator="a:1", process_count=3, process_id=2)
    assert find_place(flags, SKYPILOT) == Place("a:1", 3, 2)


@pytest.mark.parametrize(
    ("flags", "environment", "sentence"),
    [
        ({"coordinator": "a:1", "process_count": 2}, {}, "--hosts.process-id missing"),
        ({"process_id": 1}, {}, "--hosts.coordinator and --hosts.process-count missing"),
        ({"coordinator": "a", "process_count": 2, "process_id": 0}, {}, "write a:8476"),
        ({"coordinator": "a:65536", "process_count": 2, "process_id": 0}, {}, "write a:8476"),
        ({"coordinator": "a:1", "process_count": 2, "process_id": 2}, {}, "2 is not one of 2"),
        ({"process_count": 0}, {}, "--hosts.process-count 0 is not at least 1"),
        ({"timeout": 0}, {}, "--hosts.timeout 0 is not at least 1"),
        ({}, SKYPILOT | {"SKYPILOT_NUM_NODES": "3"}, "NUM_NODES=3 and SKYPILOT_NODE_IPS names 2"),
        ({}, {"SKYPILOT_NODE_IPS": "a b"}, "SKYPILOT_NODE_RANK is missing"),
        ({}, SKYPILOT | {"SKYPILOT_NODE_RANK": "2"}, "process id 2 is not one of 2"),
    ],
)
def test_what_does_not_fit_together_is_refused(flags, environment, sentence):
    with pytest.raises(ValueError, match=sentence):
        find_place(HostsConfig(**flags), environment)


@pytest.mark.parametrize("mesh", [MeshConfig(), MeshConfig(fsdp=2, tensor=4), MeshConfig(tensor=8)])
def test_one_process_reads_every_row(mesh):
    assert process_share(make_mesh(mesh), 8) == {"process_index": 0, "process_count": 1}


def test_the_processes_of_a_job_are_found_through_jax(monkeypatch):
    called = {}
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **options: called.update(options))
    before = jax.config.values["jax_enable_preemption_service"]
    try:
        init_distributed(HostsConfig())
    finally:
        jax.config.update("jax_enable_preemption_service", before)
    # None would leave a process one GPU of its node.
    assert called["local_device_ids"] == []


def parsed(command):
    """The options of a `... -m train run ...` command."""
    words = [word.replace("$(JOB_COMPLETION_INDEX)", "1") for word in command]
    command = parse(run_command, "run", words[words.index("train") + 2 :])
    return types.SimpleNamespace(**command.keywords)


def launch_file(name):
    return yaml.safe_load((ROOT / "launch" / name).read_text())


def test_the_jobset_starts_a_process_a_pod_and_names_the_first_one():
    jobset = launch_file("jobset.yaml")
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    name, [group] = jobset["metadata"]["name"], jobset["spec"]["replicatedJobs"]
    job = group["template"]["spec"]
    [container] = job["template"]["spec"]["containers"]
    options = parsed(container["command"])
    assert job["completionMode"] == "Indexed"
    assert job["parallelism"] == job["completions"] == options.hosts.process_count
    # <jobset>-<replicated job>-<job>-<pod>.<subdomain>, the subdomain being the jobset's name
    host, port = options.hosts.coordinator.split(":")
    assert host == f"{name}-{group['name']}-0-0.{name}"
    assert jobset["spec"]["network"]["enableDNSHostnames"]
    assert int(port) in [entry["containerPort"] for entry in container["ports"]]
    assert options.config.mesh.fsdp == int(container["resources"]["limits"]["nvidia.com/gpu"])
    claimed = {volume["name"] for volume in job["template"]["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == claimed


def test_the_skypilot_task_runs_one_command_a_node():
    task = launch_file("skypilot.yaml")
    known = {"name", "num_nodes", "resources", "workdir", "volumes", "setup", "run"}
    assert task.keys() <= known
    options = parsed(shlex.split(task["run"].replace("\\\n", " ")))
    kind, gpus = task["resources"]["accelerators"].split(":")
    assert kind == "H100"
    assert options.config.mesh.fsdp == int(gpus)
    assert options.config.batch_size % (int(gpus) * task["num_nodes"]) == 0
    assert str(options.out).startswith(tuple(task["volumes"]))


def test_the_batch_script_runs_what_it_is_told_or_the_papers_run(tmp_path):
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/sh\necho "$@"\n')
    srun.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHON": "python"}

    def told(*arguments):
        script = ["bash", str(ROOT / "launch" / "slurm.sbatch"), *arguments]
        done = subprocess.run(script, env=environment, capture_output=True, text=True, check=True)
        return shlex.split(done.stdout)

    assert parsed(told()).config.mesh.fsdp == 8
    assert parsed(told("tuned", "--seed", "3")).config.seed == 3
