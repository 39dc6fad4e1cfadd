#!/usr/bin/env bash
# Tunes one task with a worker per GPU. Task 0 of the array brings the job to its end.
#
#   sbatch --array=0-7 examples/slurm_tuning.sh model.dllm copy /shared/tuning
#
#SBATCH --job-name=dllmc-tune
#SBATCH --gpus=1
#SBATCH --time=02:00:00
set -euo pipefail

artifact=$1
task=$2
shared=$3 # a folder on a disk that all nodes see

# A journal needs no server. For more than some ten workers take PostgreSQL:
#   storage=postgresql://tuner@database-host/tuning
storage=journal://$shared/journal.log

options=(--task "$task" --db "$shared/db" --storage "$storage" --budget "${BUDGET:-1h}")

if [[ ${SLURM_ARRAY_TASK_ID:-0} -eq 0 ]]; then
    exec dllmc tune "$artifact" "${options[@]}"
fi
exec dllmc tune "$artifact" "${options[@]}" --worker
