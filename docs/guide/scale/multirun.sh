#!/bin/bash
# PARTS=100 LAUNCHER=submitit_slurm ./multirun.sh study=covid_ct_md input=/shared/scans output=/shared/answers
set -u
launcher=(
    "hydra/launcher=${LAUNCHER:-submitit_slurm}" hydra.launcher.timeout_min=720
    hydra.launcher.cpus_per_task=8 "hydra.launcher.gpus_per_node=${GPUS:-1}"
)
python -m cnr_iemn predict -m "part=range(0,$PARTS)" "parts=$PARTS" "${launcher[@]}" "$@"
[ $? -le 1 ] || exit  # 1: scans were refused
exec python -m cnr_iemn predict join=true "parts=$PARTS" "$@"
