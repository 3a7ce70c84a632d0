#!/bin/bash
# sbatch slurm.sh study=covid_ct_md input=/shared/scans output=/shared/answers
#SBATCH --job-name=predict
#SBATCH --array=0-99%10
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=12:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
exec python -m cnr_iemn predict "part=$SLURM_ARRAY_TASK_ID" "parts=$SLURM_ARRAY_TASK_COUNT" "$@"
