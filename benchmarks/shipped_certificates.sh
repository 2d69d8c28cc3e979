#!/bin/sh
# The certificates shipped with the default pair. Interrupted, the same command goes on.
#
#   benchmarks/shipped_certificates.sh texts.jsonl build/certificates
#
# For each family (a kind of prompts, a sampling, an output of the verifier or a limit) a pilot on bucket 6, which trained the
# verifier, shows where the losses lie; it fixes the grid of both methods and which certificate speaks where several fit.
# Bucket 7 then calibrates. PROMPTS, MIN_PROMPTS, TOKENS, SHORTEST and PILOT change the size, FAMILIES and METHODS name
# some of them; two commands with different families may run side by side.
# Copy the results, not the pilots, to src/sprinter/zoo/default/certificates; the journals are only for going on.
set -eu
data=$1
out=$2
mkdir -p "$out/pilots"
wide=0.99,0.97,0.95,0.92,0.89,0.85,0.8,0.75,0.7,0.64,0.58,0.52,0.46,0.4,0.3,0.2

# Questions as people type them, from the titles.
python - "$data" "$out/questions.jsonl" <<'PYTHON'
import json
import sys
from pathlib import Path

rows = [json.loads(line) for line in Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()]
asked = [{"title": row["title"], "text": f"What is {row['title']}?"} for row in rows if row.get("title")]
Path(sys.argv[2]).write_text("".join(json.dumps(row) + "\n" for row in asked), encoding="utf-8")
PYTHON

one() { # certificate without .json, bucket, then options
    file=$1
    bucket=$2
    shift 2
    echo "== $file" >&2
    sprinter calibrate --bucket "$bucket" --out "$out/$file.json" --max-new-tokens "${TOKENS:-64}" \
        --shortest "${SHORTEST:-16}" "$@"
}

# The lists of options are meant to be split into words. A family that ends in -held holds every text to a limit, which
# makes the 1% level provable; its pilot is that of the family without.
all="greedy-typical greedy-accept greedy-held chat-typical chat-accept chat-held warm-typical warm-accept warm-held"
# shellcheck disable=SC2086
for family in ${FAMILIES:-$all free-accept free-held}; do
    texts="--data $data"
    case $family in
    chat-*) texts="--data $out/questions.jsonl --chat" ;;
    esac
    case $family in
    greedy-* | chat-*) with="--temperature 0" ;;
    warm-*) with="--temperature 0.7 --top-p 0.9" ;;
    free-*) with="--temperature 1" ;;
    esac
    scorer=typical
    held=
    loose="--max-tv 0.3 --max-atypical 0.1"
    case $family in
    *-accept)
        scorer=accept
        levels="--max-tv 0.05 --max-tv 0.1"
        loose="--max-tv 0.2"
        ;;
    greedy-typical | chat-typical)
        levels="--max-atypical 0.02 --max-atypical 0.05 --max deficit=0.25 --max repeated=0.1 --max repeated=0.2"
        ;;
    greedy-held | chat-held)
        held="--max-atypical-tokens 8 --shortest 32"
        levels="--max-atypical 0.01 --max deficit=0.25"
        ;;
    warm-typical) levels="--max-atypical 0.02 --max-atypical 0.05 --max excess=0.05" ;;
    warm-held | free-held)
        held="--max-total-tv 16 --max-atypical-tokens 8"
        levels="--max excess=0.01 --max excess=0.02 --max excess=0.05"
        ;;
    esac
    with="$with $texts --scorer $scorer"
    # A pilot goes on until its mean losses are well above every level, on few prompts and with little confidence.
    pilot="pilots/${family%%-*}-$scorer"
    one "$pilot" 6 $with --method sprinter --grid "$wide" --confidence 0.5 --bound hoeffding-bentkus \
        --prompts "${PILOT:-30}" $loose --max deficit=0.5 --max repeated=0.3
    for method in ${METHODS:-sprinter lookahead}; do
        one "$family-$method" 7 $with --method $method --pilot "$out/$pilot.json" $held $levels \
            --prompts "${PROMPTS:-300}" --min-prompts "${MIN_PROMPTS:-150}"
    done
done
