"""The files of experiments/launch, as far as they can be checked without their clusters."""

import pathlib
import shlex
import signal
import subprocess

import pytest

from vision_jax import main

LAUNCH = pathlib.Path(__file__).parents[1] / "experiments" / "launch"


@pytest.mark.parametrize("name", ["tpu_vm.sh", "slurm_gpu.sbatch"])
def test_shell_files_parse(name):
    done = subprocess.run(["bash", "-n", LAUNCH / name], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_tpu_script_hands_its_arguments_on_as_they_are(tmp_path):
    (tmp_path / "gcloud").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "gcloud").chmod(0o755)
    arguments = ["--config=configs/vit_s16.py", "--workdir=/mnt/a run", "--config.duration=3 steps"]
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "TPU": "slice", "ZONE": "here"}
    done = subprocess.run(
        [LAUNCH / "tpu_vm.sh", *arguments], capture_output=True, text=True, env=environment, check=True
    )
    *flags, command = done.stdout.splitlines()
    assert flags == ["compute", "tpus", "tpu-vm", "ssh", "slice", "--zone=here", "--worker=all"]
    words = shlex.split(command.removeprefix("--command="))
    assert words == ["cd", "vision_jax", "&&", "exec", "python3", "-m", "vision_jax.main", *arguments]
    missing = subprocess.run([LAUNCH / "tpu_vm.sh"], capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"})
    assert missing.returncode != 0 and "the name of the TPU VM" in missing.stderr


def test_the_job_of_gke_fills_its_slice(monkeypatch):
    yaml = pytest.importorskip("yaml")
    job_set = yaml.safe_load((LAUNCH / "gke.yaml").read_text())
    (job,) = job_set["spec"]["replicatedJobs"]
    job = job["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    rows, columns = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    chips = container["resources"]["limits"]["google.com/tpu"]
    assert job["parallelism"] == job["completions"] == rows * columns // chips
    (saved, disrupted) = job["podFailurePolicy"]["rules"]  # Kubernetes takes status 0 for complete, others for failures
    assert saved["onExitCodes"]["values"] == [128 + signal.SIGTERM] and pod["restartPolicy"] == "Never"
    assert saved["onExitCodes"]["containerName"] == container["name"] and "onPodConditions" in disrupted
    assert [rule["onJobFailureReasons"] for rule in job_set["spec"]["failurePolicy"]["rules"]] == [["PodFailurePolicy"]]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    monkeypatch.chdir(LAUNCH.parents[1])
    assert container["command"][:3] == ["python", "-m", "vision_jax.main"]
    args, config, _ = main.parse(container["command"][3:])
    assert args.mode == "train" and config.data.train == "tfds:imagenet2012:train"


@pytest.mark.parametrize(("status", "requeued"), [(0, ""), (1, ""), (143, "requeue 7\n")])
def test_slurm_goes_on_with_what_a_signal_stopped_and_nothing_else(tmp_path, status, requeued):
    """Slurm takes status 0 for complete; 143 is SIGTERM before the end of the slot."""
    for name, text in {"srun": f"exit {status}", "scontrol": f'echo "$@" > {tmp_path}/told'}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "7"}
    done = subprocess.run(["bash", LAUNCH / "slurm_gpu.sbatch", "--workdir=w"], env=environment)
    told = tmp_path / "told"
    assert (done.returncode, told.read_text() if told.exists() else "") == (status, requeued)
