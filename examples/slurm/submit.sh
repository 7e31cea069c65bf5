#!/bin/sh
# Submits the array, and the merge that waits until every task of it has ended well.
#   ./submit.sh prompts.jsonl completions.jsonl
# After a failure or a scancel, say the same again: what is answered is not asked again.
set -eu
here=$(dirname "$0")

array=$(sbatch --parsable "$here/array.sbatch" "$1" "$2")
array=${array%%;*} # NUMBER;CLUSTER where there are several clusters

# afterok holds while a task is requeued. Should one fail for good, the merge could never run, and is removed.
merge=$(sbatch --parsable --dependency="afterok:$array" --kill-on-invalid-dep=yes "$here/merge.sbatch" "$2")
echo "array $array, merge ${merge%%;*}"
