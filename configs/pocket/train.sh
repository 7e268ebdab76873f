#!/usr/bin/env bash
# Trains Pocket from nothing, stage by stage; a stage that was cut off goes on from its last checkpoint.
# Usage: configs/pocket/train.sh [rollforge]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
rollforge=${1:-rollforge}
for stage in 1-codec 2-pictures 3-clips 4-teacher 5-codec 6-clips 7-teacher; do
  folder=runs/pocket/$stage
  [ -e "$folder/done" ] && continue
  resume=()
  [ -e "$folder/last.ckpt" ] && resume=(--ckpt_path "$folder/last.ckpt")
  "$rollforge" fit --config "configs/pocket/$stage.yaml" "${resume[@]}"
  touch "$folder/done"
done
echo "Trained: runs/pocket/5-codec/codec.safetensors and runs/pocket/7-teacher/backbone.safetensors."
