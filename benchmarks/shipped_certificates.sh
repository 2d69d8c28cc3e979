#!/bin/sh
# The certificates shipped with the default pair, greedy ones first. Interrupted, the same command goes on.
#
#   benchmarks/shipped_certificates.sh texts.jsonl build/certificates
#
# For each scorer and sampling a pilot on bucket 6 (which trained the verifier) shows where the losses lie; it fixes the
# grid of both methods. Bucket 7 then calibrates, and every run serves five levels, whichever scorer suits them better:
# `generate` takes the certificate that calls the target least. PROMPTS, MIN_PROMPTS, TOKENS and PILOT change the size,
# SAMPLINGS names some of the samplings.
# Copy the results, not the pilots, to src/sprinter/zoo/default/certificates; the journals are only for going on.
set -eu
data=$1
out=$2
mkdir -p "$out/pilots"
wide=0.99,0.97,0.95,0.92,0.89,0.85,0.8,0.75,0.7,0.64,0.58,0.52,0.46,0.4,0.3,0.2

one() { # certificate without .json, bucket, then options
    file=$1
    bucket=$2
    shift 2
    echo "== $file" >&2
    sprinter calibrate --data "$data" --bucket "$bucket" --out "$out/$file.json" --max-new-tokens "${TOKENS:-48}" "$@"
}

# A pilot goes on until its mean losses are well above every level below, on few prompts and with little confidence.
# The lists of options are meant to be split into words.
# shellcheck disable=SC2086
for sampling in ${SAMPLINGS:-greedy warm}; do
    case $sampling in
    greedy) with="--temperature 0" ;;
    warm) with="--temperature 0.7 --top-p 0.9" ;;
    esac
    for scorer in typical accept; do
        with_scorer="$with --scorer $scorer"
        one "pilots/$sampling-$scorer" 6 $with_scorer --method sprinter --grid "$wide" --confidence 0.5 \
            --bound hoeffding-bentkus --prompts "${PILOT:-30}" --max-tv 0.2 --max-atypical 0.1
        for method in sprinter lookahead; do
            one "$sampling-$method-$scorer" 7 $with_scorer --method $method --pilot "$out/pilots/$sampling-$scorer.json" \
                --prompts "${PROMPTS:-360}" --min-prompts "${MIN_PROMPTS:-200}" --max-tv 0.05 --max-tv 0.1 \
                --max-atypical 0.01 --max-atypical 0.02 --max-atypical 0.05
        done
    done
done
