#!/usr/bin/env bash
# A SLURM cluster of this one machine, for as long as it takes to submit launch/slurm.sbatch to it:
# two processes with four virtual CPU devices each must train as one run, and stop at SIGTERM.
#   tests/slurm.sh PYTHON     as root; Debian: apt-get install slurmctld slurmd slurm-client munge
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHON=$1
PATH=$PATH:/usr/sbin
for program in munged slurmctld slurmd sbatch; do
  command -v "$program" >/dev/null || {
    echo "slurm-test: there is no $program: apt-get install slurmctld slurmd slurm-client munge" >&2
    exit 2
  }
done
work=$(mktemp -d)
chmod 755 "$work"
daemons=()
trap 'kill "${daemons[@]}" 2>/dev/null || true; wait; rm -rf "$work"' EXIT
daemon() { # NAME COMMAND...
  "${@:2}" >"$work/$1.out" 2>&1 &
  daemons+=($!)
}

cat >"$work/slurm.conf" <<CONF
ClusterName=loop
SlurmctldHost=$(hostname)(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
AuthType=auth/munge
AuthInfo=socket=$work/munge.socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.pid
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd.log
NodeName=$(hostname) NodeAddr=127.0.0.1 CPUs=2 RealMemory=1000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=30 State=UP
CONF
export SLURM_CONF=$work/slurm.conf
mkdir "$work/state" "$work/spool"
head -c 1024 /dev/urandom >"$work/munge.key"
chmod 600 "$work/munge.key"

daemon munged munged --foreground --force --key-file="$work/munge.key" --socket="$work/munge.socket" \
  --pid-file="$work/munged.pid" --seed-file="$work/munge.seed" --log-file="$work/munged.log"
for _ in $(seq 50); do [ -S "$work/munge.socket" ] && break; sleep 0.1; done
daemon slurmctld slurmctld -D
daemon slurmd slurmd -D
for _ in $(seq 100); do [ "$(sinfo -h -o %t 2>/dev/null)" = idle ] && break; sleep 0.3; done

export JAX_PLATFORMS=cpu XLA_FLAGS=--xla_force_host_platform_device_count=4
run=(nano --model.layers 1 --batch-size 8 --context 16 --data.source synthetic
  --data.cache-dir "$work/data" --eval-batches 2 --checkpoint-every 100000)
submit() {
  sbatch --nodes=1 --ntasks-per-node=2 --gpus-per-node=0 --output="$work/log" --time=10 \
    --no-requeue "$@"
}
fail() { echo "slurm-test: $1" >&2; cat "$work"/*.out "$work/log" >&2 || true; exit 1; }
printed() { grep -v '^\[Gloo\]' "$work/log"; } # Gloo greets every peer.

submit --wait launch/slurm.sbatch "${run[@]}" --steps 40 --out "$work/run" || fail "the job failed"
grep -q '"device_count": 8' "$work/run/records.jsonl" || fail "the processes did not find each other"
[ "$(grep -c '"kind": "final"' "$work/run/records.jsonl")" = 1 ] || fail "not one final record"
printed

# SIGTERM to the step, as SLURM sends it before a job's time is over.
job=$(submit --parsable launch/slurm.sbatch "${run[@]}" --steps 1000000 --out "$work/stopped")
for _ in $(seq 600); do
  [ -e "$work/stopped/records.jsonl" ] && grep -q '"step": 20,' "$work/stopped/records.jsonl" && break
  sleep 0.1
done
scancel --signal=TERM "$job"
for _ in $(seq 600); do [ -z "$(squeue -h -j "$job" 2>/dev/null)" ] && break; sleep 0.1; done
ls -d "$work"/stopped/checkpoints/[0-9]* >/dev/null || fail "SIGTERM saved nothing"
printed
echo "slurm-test: two processes trained as one run and stopped at SIGTERM with their state saved"
