#!/bin/sh
# Builds the filter and the simulator, and sends examples/prompts.jsonl through both.
# Needs Rust, a C compiler and make; no token, no account, no root. The status is the filter's own.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)

# Cargo reads a relative target folder from where it runs, and it shall run in the package.
target=${CARGO_TARGET_DIR:-$root/target}
case $target in /*) ;; *) target=$PWD/$target ;; esac
export CARGO_TARGET_DIR="$target"

work=$(mktemp -d)
simulator=
# shellcheck disable=SC2317  # it is reached, by the traps below
stop() {
    if [ -n "$simulator" ]; then
        kill "$simulator" 2>/dev/null || true
        wait "$simulator" 2>/dev/null || true
    fi
    rm -rf "$work"
}
# A signal must end in `exit`, or only the command that it interrupts would end.
trap stop EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

echo 'quickstart: building; the first time takes a few minutes' >&2
# The simulator needs no optimiser: its development build is quick, and `cargo test` uses it again.
(cd "$root" && cargo build --locked --release --bin anvil-filter && cargo build --locked --example anvilgpt-sim) >&2

# It picks a free port and says which one in its first line; the file must be there before it is.
: >"$work/simulator"
"$target/debug/examples/anvilgpt-sim" --open >"$work/simulator" &
simulator=$!
url=
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    url=$(sed -n 's/^listening //p' "$work/simulator")
    if [ -n "$url" ]; then break; fi
    sleep 0.5
done
if [ -z "$url" ]; then
    echo 'quickstart: the simulator did not start within ten seconds' >&2
    exit 75
fi

# A key, a proxy or settings of yours have no business here; the model is only for lines that name none.
echo "quickstart: examples/prompts.jsonl | anvil-filter -m llama3.1:latest, to the simulator at $url" >&2
status=0
env -u ANVILGPT_API_KEY -u ANVILGPT_MODEL -u CREDENTIALS_DIRECTORY XDG_CONFIG_HOME="$work" NO_PROXY=127.0.0.1 \
    no_proxy=127.0.0.1 ANVILGPT_BASE_URL="$url" \
    "$target/release/anvil-filter" -m llama3.1:latest <"$root/examples/prompts.jsonl" || status=$?

echo "quickstart: the simulator only echoes. The same with the real service:
put your key into ~/.config/anvil-filter/api-key (mode 0600), then
  $target/release/anvil-filter check
  $target/release/anvil-filter -m llama3.1:latest $root/examples/prompts.jsonl > completions.jsonl" >&2
exit "$status"
