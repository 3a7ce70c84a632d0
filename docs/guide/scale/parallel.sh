#!/bin/bash
# PARTS=8 JOBS=4 ./parallel.sh study=covid_ct_md input=/data/scans output=/data/answers
set -u
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}"
seq 0 "$((PARTS - 1))" |
    parallel --quote --jobs "$JOBS" --line-buffer python -m cnr_iemn predict "part={}" "parts=$PARTS" "$@"
exec python -m cnr_iemn predict join=true "parts=$PARTS" "$@"
