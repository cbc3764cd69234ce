#!/usr/bin/env bash
# What masked autoencoding wins on CIFAR-10 with a small encoder: FOLDER has train/CLASS/* and test/CLASS/*, RUNS gets the work folders.
set -euo pipefail
folder=$1 runs=$2
encoder="--config.model.width=128 --config.model.depth=6 --config.model.num_heads=4 --config.model.mlp_dim=512"
decoder="--config.model.decoder_width=64 --config.model.decoder_depth=1 --config.model.decoder_num_heads=2 --config.model.decoder_mlp_dim=256"
pretrain="--config=configs/mae_cifar10.py:$folder $encoder $decoder --config.batch_size=128 --config.schedule.per=0 --config.schedule.base_lr=1e-3"
finetune="--config=configs/mae_cifar10_finetune.py:$folder $encoder --config.data.train=folder:$folder/train[:10%] --config.batch_size=128
  --config.data.augment.mixup=0 --config.data.augment.cutmix=0 --config.schedule.per=0 --config.schedule.base_lr=1e-3"

run() {
  python -m vision_jax.main "$@"
}

# An encoder with random weights: one step with a learning rate of 0, then the linear probe.
run $pretrain --workdir="$runs/random" --config.duration="1 steps" --config.schedule.warmup="1 steps"
run $pretrain --workdir="$runs/mae" --config.duration="24 epochs" --config.schedule.warmup="1 epochs" --config.evals.linear_probe.every="6 epochs" --config.evals.reconstruction.every="6 epochs"
run $finetune --workdir="$runs/finetune" --config.init_from="$runs/mae" --config.duration="10 epochs" --config.schedule.warmup="1 epochs" --config.evals.classification.every="2 epochs"
run $finetune --workdir="$runs/scratch" --config.init_from= --config.optimizer.layer_decay=1.0 --config.duration="10 epochs" --config.schedule.warmup="1 epochs" --config.evals.classification.every="2 epochs"
