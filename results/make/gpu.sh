#!/bin/bash
# All that needs a GPU, on a quiet machine with one: tests, demo, speed and memory, the real table. Never run as a whole.
#     results/make/gpu.sh DATA MODEL     DATA: ml-100k in RecBole's files; MODEL: SmolLM2-135M-Instruct's folder
# Needs pytest, hypothesis; trl and datasets for the row of TRL. The table goes on where it stopped.
set -e
inputs=(--dataset recbole --data_path "$1" --model "$2")
ALRO_TEST_ON_GPU=1 python3 -m pytest -q || true  # results/LOG.md
[ -e runs/demo-gpu ] || python3 train.py --out runs/demo-gpu
python3 results/make/benchmark.py --preset small-gpu "${inputs[@]}" --only loop --compile True --json results/loop-gpu.json
table=(--size gpu --compile True "${inputs[@]}")
python3 results/make/real_table.py each --jobs 4 "${table[@]}"  # 36 GiB; what ran is --seed 1 --rows "SFT;ALRO;SFT+SLL;SFT+PSL"
python3 results/make/real_table.py score "${table[@]}"
