#!/usr/bin/env bash
# Starts the same command on every worker of a TPU VM slice and shows what they say.
#
#   TPU=my-slice ZONE=us-west4-a experiments/launch/tpu_vm.sh --config=configs/vit_s16.py --workdir=/mnt/runs/vit_s16
#
# CODE is the checkout on the workers, in which vision_jax is installed with its extras [train,tpu]. The work folder must
# be one that all workers share. Nothing is said of processes: JAX learns them from the TPU's metadata.
set -euo pipefail
: "${TPU:?the name of the TPU VM}" "${ZONE:?its zone}"

command="cd $(printf '%q' "${CODE:-vision_jax}") && exec python3 -m vision_jax.main $(printf '%q ' "$@")"
exec gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$command"
