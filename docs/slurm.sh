#!/usr/bin/env bash
#SBATCH --job-name=acgan
#SBATCH --array=1-10
#SBATCH --cpus-per-task=1
#SBATCH --mem=4G
#SBATCH --time=4:00:00
#SBATCH --requeue
# A part of a profile as an array of Slurm: each task trains SIZE members and stops in time. Exit code 3 says that the time was
# over behind a checkpoint, and the task is put back into the queue. ACGAN_WORK is a folder that all nodes see.
#   PROFILE=paper PART=splits SIZE=10 MINUTES=230 sbatch docs/slurm.sh --data-root DIR
set -u
first=$(( (SLURM_ARRAY_TASK_ID - 1) * SIZE + 1 ))
last=$(( SLURM_ARRAY_TASK_ID * SIZE ))
acgan train --profile "$PROFILE" --part "$PART" --members "$first:$last" --minutes "$MINUTES" "$@"
code=$?
if [ "$code" -eq 3 ]; then
    scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
    code=0
fi
exit "$code"
