#!/usr/bin/env bash
# Every check and measurement on a GPU in one call: see "On a GPU" in docs/performance.md.
#
#   bench/gpu.sh [FOLDER] [--device cuda] [--data DIR] [--teacher FILE] [--app DIR] [--limit SECONDS] [--parts "A B"] [--quick]
#
#   FOLDER      of all output [$OUT, or gpu-results]; a second call goes on with its full run
#   --device    cuda, cuda:N, or cpu to try the script out [cuda]
#   --data      folder of CIFAR-100's train.bin and test.bin [none: the handwritten digits]
#   --teacher   weights of a resnet56 for CIFAR-100; needed with --data
#   --app       folder of a published ctkd, where no .NET SDK is [artifacts/ctkd]
#   --limit     seconds for the whole call; the full run is interrupted then, to be resumed by the next call [590]
#   --parts     some of: facts check bench epoch full [all]
#   --quick     tiny sizes: to try the script out
#
# Needs bash, Python with PyTorch (whose libtorch is used on a GPU), and .NET: an SDK, or its runtime in DOTNET_ROOT with
# --app, a program from `dotnet fsi build.fsx publish --device none`. A part that fails does not stop the others; the exit
# code is 1 then.
set -u -o pipefail
cd "$(dirname "$0")/.." || exit 2
begun=$SECONDS

device=cuda data="" teacher="" app=artifacts/ctkd limit=590 quick="" folder=""
parts="facts check bench epoch full"
while [ $# -gt 0 ]; do
  case $1 in
    --device | --data | --teacher | --app | --limit | --parts)
      [ $# -ge 2 ] || { echo "$1 needs a value" >&2; exit 2; }
      declare "${1#--}=$2"
      shift 2
      ;;
    --quick) quick=1; shift ;;
    --help | -h) sed -n '2,18s/^# \{0,1\}//p' "$0"; exit 0 ;;
    -*) echo "unknown option $1" >&2; exit 2 ;;
    *) folder=$1; shift ;;
  esac
done

for part in $parts; do
  case " facts check bench epoch full " in
    *" $part "*) ;;
    *) echo "unknown part $part" >&2; exit 2 ;;
  esac
done

if [ -n "$data" ] && [ -z "$teacher" ]; then
  echo "--data needs --teacher" >&2
  exit 2
fi

folder=${folder:-${OUT:-gpu-results}}
mkdir -p "$folder" || exit 2
folder=$(cd "$folder" && pwd)

# ---- what is here ----

# The first Python that has PyTorch.
for python in python3 /usr/bin/python3; do
  "$python" -c 'import torch' 2>/dev/null && break
done
CTKD_PYTHON=$(command -v "$python")
export CTKD_PYTHON
if [ "$device" != cpu ] && [ -z "${LIBTORCH:-}" ]; then
  LIBTORCH=$("$python" -c 'import torch; print(torch.__path__[0])')
  export LIBTORCH
fi

# A machine may have .NET's runtime alone: then the program must have been published elsewhere.
dotnet=${DOTNET_ROOT:+$DOTNET_ROOT/dotnet}
[ -x "$dotnet" ] || dotnet=$(command -v dotnet)
if [ -z "$dotnet" ]; then
  echo "no dotnet on the PATH, and none in DOTNET_ROOT" >&2
  exit 2
fi
has_sdk=$("$dotnet" --list-sdks | grep -c .)

ctkd() { "$dotnet" "$app/ctkd.dll" "$@"; }

facts() {
  uname -a
  grep -m 1 "model name" /proc/cpuinfo
  nproc
  free -g
  [ "$device" = cpu ] || nvidia-smi
  "$python" -c 'import torch; print("PyTorch", torch.__version__, "CUDA", torch.version.cuda, torch.__path__[0])'
  "$dotnet" --info
}

publish() {
  app=$folder/app
  "$dotnet" publish src/Ctkd.Fs.App -c Release -o "$app" -p:Device="$([ "$device" = cpu ] && echo cpu || echo none)" --nologo -v quiet
}

# ---- checks ----

# Recorded steps against those of the host, bit for bit; dials; memory.
# `doctor` complains where it may not use all processors.
check() { (unset OMP_NUM_THREADS && ctkd doctor --device "$device"); }

# ---- measurements ----

bench() {
  local pairs=9 steps=64 part=(--starts 1)
  [ -n "$quick" ] && pairs=1 steps=1 part=(--part step --starts 1)
  ctkd bench --device "$device" --pairs "$pairs" --steps "$steps" ${part[@]+"${part[@]}"} --json >"$folder/bench.json"
}

# What the runs below have in common: CTKD's recipe on CIFAR-100, or a small run on digits.
common=()
prepare() {
  common=(--device "$device")
  if [ -n "$data" ]; then
    common+=(--recipe ctkd/resnet56-resnet20/kd/ctkd-global --data-dir "$data" --weights "$teacher")
  else
    teacher=$folder/teacher/best.safetensors
    [ -e "$teacher" ] ||
      ctkd teach --model resnet20 --device "$device" --epochs 1 --out "$folder/teacher" || return 1
    common+=(--student resnet8 --weights "$teacher")
  fi
  [ -z "$quick" ] || common+=(--per-class 20)
}

# Two epochs in each way of computing: the second one's seconds are those of an epoch.
epoch() {
  prepare || return 1
  local failed=0 name flags
  while read -r name flags; do
    rm -rf "$folder/epoch-$name"
    # shellcheck disable=SC2086
    if ctkd distill "${common[@]}" --epochs 2 --milestones 2 --out "$folder/epoch-$name" $flags </dev/null; then
      echo "epoch-$name: $(tail -n 1 "$folder/epoch-$name/metrics.jsonl")" | tee -a "$folder/epochs.txt"
    else
      failed=1
    fi
  done <<END
f32-host --no-tf32 --no-graph
f32 --no-tf32
tf32
bf16 --precision bf16
bf16-ahead --precision bf16 --teacher-ahead 16
END
  return $failed
}

# The whole recipe: a call that is ended at the limit leaves a checkpoint, from which the next one goes on. (By TERM: what a
# shell starts in the background ignores INT.)
full() {
  local left=$((limit - (SECONDS - begun) - 20)) run=$folder/full
  [ "$left" -gt 10 ] || { echo "no time is left: call again with --parts full"; return 1; }
  if [ -e "$run/last.safetensors" ]; then
    timeout -k 15 "$left" "$dotnet" "$app/ctkd.dll" distill --resume "$run"
  else
    prepare || return 1
    rm -rf "$run"
    local epochs=()
    [ -z "$quick" ] || epochs=(--epochs 3 --milestones 2)
    timeout -k 15 "$left" "$dotnet" "$app/ctkd.dll" distill "${common[@]}" --precision bf16 --teacher-ahead 16 --out "$run" \
      ${epochs[@]+"${epochs[@]}"}
  fi
  local code=$?
  [ -e "$run/metrics.jsonl" ] && tail -n 1 "$run/metrics.jsonl"
  # 124: timeout ended it.
  [ "$code" != 124 ] || { echo "interrupted at the limit: call again to go on"; return 1; }
  return "$code"
}

# ---- all of them ----

table="" worst=0
run() {
  local name=$1 at=$SECONDS code
  echo "== $name"
  "$name" > >(tee "$folder/$name.log") 2>&1
  code=$?
  wait $!
  [ "$code" = 0 ] || worst=1
  table+=$(printf '%-8s %-10s %5d s' "$name" "$([ "$code" = 0 ] && echo ok || echo "FAILED $code")" $((SECONDS - at)))$'\n'
}

has() { [[ " $parts " == *" $1 "* ]]; }

has facts && run facts
if [ ! -e "$app/ctkd.dll" ] && [ "$has_sdk" -gt 0 ]; then run publish; fi
has check && run check
has bench && run bench
has epoch && run epoch
has full && run full

echo "== result, in $folder"
printf '%s' "$table" | tee "$folder/summary.txt"
exit $worst
