"""A sweep as a Slurm job array or a Kubernetes Indexed Job, to review and then submit."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

_SLURM = """\
#!/bin/bash
# {outlook}.
# Every array task is a worker that takes one run after another until none is left. Submitted again,
# the script resumes with what is left. Pass further options to sbatch, such as --time, --partition
# or, on GPUs, --gpus=1.
#SBATCH --job-name=sweep
#SBATCH --array=0-{last}
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=1
#SBATCH --mem={memory}
#SBATCH --chdir="{folder}"
#SBATCH --output=sweep-%A_%a.log
#SBATCH --open-mode=append
#SBATCH --requeue
# Two minutes before its time limit, a task saves and is requeued.
#SBATCH --signal=B:USR1@120

# SIGHUP saves like SIGTERM; a second SIGTERM, from Slurm itself, would end the worker at once.
trap 'kill -HUP $worker' TERM
trap 'again=yes; kill -HUP $worker' USR1

{command} --worker=slurm-"$SLURM_ARRAY_JOB_ID" &
worker=$!
while wait $worker; code=$?; [ $code -gt 128 ] && kill -0 $worker 2>/dev/null; do :; done

# Killed, e.g. out of memory: at most ten restarts.
[ $code -eq 137 ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt 10 ] && again=yes
# Not by its job ID, which for one of the tasks is that of the whole array.
[ "$again" ] && scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"
exit $code
"""

_KUBERNETES = """\
# {outlook}.
# For `kubectl create -f -`, Kubernetes 1.33 or newer. Every pod is a worker that takes one run
# after another until none is left. The pods share the PersistentVolumeClaim `sweep`, whose file
# locks must work across nodes.
apiVersion: batch/v1
kind: Job
metadata:
  generateName: sweep-
spec:
  completionMode: Indexed
  completions: {workers}
  parallelism: {workers}
  backoffLimitPerIndex: 10
  podFailurePolicy:
    rules:
    # Evicted or preempted: a new pod resumes, without a limit.
    - action: Ignore
      onPodConditions:
      - type: DisruptionTarget
        status: "True"
    # A run that failed would fail again.
    - action: FailIndex
      onExitCodes:
        operator: In
        values: [1, 2]
  template:
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 60
      containers:
      - name: worker
        image: {image}
        command:
{command}
        - --worker=$(SWEEP)
        env:
        - name: SWEEP
          valueFrom:
            fieldRef:
              fieldPath: metadata.labels['batch.kubernetes.io/controller-uid']
        # For one GPU each, add `limits: {{nvidia.com/gpu: 1}}`.
        resources:
          requests:
            cpu: 1
            memory: {memory}i
        volumeMounts:
        - name: shared
          mountPath: /shared
      volumes:
      - name: shared
        persistentVolumeClaim:
          claimName: sweep
"""

# The flags for the volume that the manifest mounts and pods share.
SHARED = ("--workdir=/shared/runs", "--results=/shared/results", "--data_dir=/shared/data")

# Per worker: generous, since `double_fc_dropout` took 580 MiB and others were not measured.
_MEMORY = "4G"


def slurm(outlook: str, command: Sequence[str], workers: int) -> str:
    """The script for `sbatch`; `command` holds the arguments to Python."""
    return _SLURM.format(
        outlook=outlook,
        last=workers - 1,
        memory=_MEMORY,
        folder=Path.cwd(),
        command=shlex.join([sys.executable, *command]),
    )


def kubernetes(outlook: str, command: Sequence[str], workers: int, image: str) -> str:
    """The manifest for `kubectl`."""
    quoted = "\n".join(f"        - '{word}'" for word in ("python", *command))
    return _KUBERNETES.format(
        outlook=outlook, workers=workers, memory=_MEMORY, image=image, command=quoted
    )
