#!/bin/sh
# The certificates shipped with the default pair, the most wanted first. Interrupted, the same command goes on.
#
#   benchmarks/shipped_certificates.sh texts.jsonl build/certificates
#
# PROMPTS, MIN_PROMPTS and TOKENS change the size; bucket 7 is the calibration split of `sprinter.training.splits`.
# Copy the results to src/sprinter/zoo/default/certificates; the journals beside them are only for going on.
set -eu
data=$1
out=$2
mkdir -p "$out"

one() { # name, then options
    name=$1
    shift
    echo "== $name" >&2
    sprinter calibrate --data "$data" --bucket 7 --out "$out/$name.json" --prompts "${PROMPTS:-300}" \
        --min-prompts "${MIN_PROMPTS:-200}" --max-new-tokens "${TOKENS:-64}" "$@"
}

typical="--scorer typical --max-atypical 0.01 --max-atypical 0.02 --max-atypical 0.05
    --grid 0.99,0.98,0.97,0.96,0.95,0.93,0.9,0.85,0.8,0.7"
accept="--scorer accept --max-tv 0.05 --max-tv 0.1 --grid 0.95,0.92,0.88,0.84,0.8,0.75,0.7,0.6,0.5,0.4"
warm="--temperature 0.7 --top-p 0.9"

# The lists of options are meant to be split into words.
# shellcheck disable=SC2086
{
    one greedy-sprinter-typical --method sprinter $typical
    one greedy-lookahead-typical --method lookahead $typical
    one greedy-lookahead-accept --method lookahead $accept
    one greedy-sprinter-accept --method sprinter $accept
    one warm-sprinter-typical --method sprinter $warm $typical
    one warm-lookahead-typical --method lookahead $warm $typical
    one warm-lookahead-accept --method lookahead $warm $accept
    one warm-sprinter-accept --method sprinter $warm $accept
}
