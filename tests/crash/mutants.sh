#!/usr/bin/env bash
# Whether the crash tests see what they are for: breaks one promise at a time in a copy of the tree, and tells which
# tests fail. The status is 0 when every mutant was caught. Needs strace, and root for all of the tests.
#
#   tests/crash/mutants.sh [NAME...]      all of them, or those whose names contain one of these words
#
# MUTANTS_TARGET keeps the build between two runs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tree=$work/tree
export CARGO_TARGET_DIR=${MUTANTS_TARGET:-$work/target} CARGO_TERM_COLOR=never RUST_BACKTRACE=0
export ANVIL_REQUIRE_STRACE=1 ANVIL_FILTER_TEST_SEED=${ANVIL_FILTER_TEST_SEED:-1}
wanted=("$@")
table=()
missed=0

is_wanted() {
    local word
    [[ ${#wanted[@]} -eq 0 ]] && return 0
    for word in "${wanted[@]}"; do [[ $1 == *"$word"* ]] && return 0; done
    return 1
}

# The names of the tests that fail, of those that are told.
failing() {
    (cd "$tree" && cargo test --quiet --test crash -- "$@" 2>&1) | tee "$work/log" | sed -n 's/^    \([a-z_]*::[a-z_:]*\)$/\1/p' | sort -u
}

# mutant NAME FILE PERL [FILE PERL]...: each expression must change its file.
mutant() {
    local name=$1 failed count tests all
    shift
    [[ $name == 'the sound one' ]] || is_wanted "$name" || return 0
    rm -rf "$tree" && mkdir "$tree"
    git ls-files -z | tar c --null --ignore-failed-read -T - 2>/dev/null | tar x -C "$tree"
    while [[ $# -gt 0 ]]; do
        cp "$tree/$1" "$work/before"
        perl -0pi -e "$2" "$tree/$1"
        if cmp -s "$tree/$1" "$work/before"; then
            echo "$name: the patch of $1 does not apply; the source has changed" >&2
            exit 2
        fi
        # What was restored looks older than the last build.
        touch "$tree/$1"
        shift 2
    done
    find "$tree/src" -name '*.rs' -exec touch {} +
    if ! (cd "$tree" && cargo build --quiet --bins --examples 2>"$work/log"); then
        echo "$name: the mutant does not compile" >&2
        cat "$work/log" >&2
        exit 2
    fi
    case $name in
    'the sound one') tests=() all=() ;;
    # Every error of every call of the daemon takes an hour.
    'daemon: '*) tests=(daemon::) all=(daemon::order daemon::power daemon::each_call daemon::random) ;;
    *) tests=(--skip daemon::) all=(--skip daemon::) ;;
    esac
    failed=$(failing "${tests[@]}") || true
    if [[ -z $failed && $name != 'the sound one' ]]; then
        failed=$(ANVIL_CRASH=all failing "${all[@]}" | sed 's/$/ (all)/') || true
    fi
    count=$(grep -c . <<<"$failed") || true
    [[ $count -gt 0 ]] || missed=$((missed + 1))
    table+=("$(printf '%-46s %2d  %s' "$name" "$count" "$(head -3 <<<"$failed" | paste -sd ' ')")")
    echo "${table[-1]}"
}

J=src/journal F=src/filter

mutant 'the sound one' $J/mod.rs 's/\z/\n/'
[[ $missed -eq 1 ]] || { echo 'the tests fail without a mutant' >&2; exit 2; }
missed=0 table=()

mutant 'no fdatasync of a group' $J/keeper.rs 's/self\.file\.sync_data\(\)\.map_err\([^;]*;//'
mutant 'a slot is free before the commit' $F/journaled.rs \
    's/Slot::Held\n/Slot::Free\n/; s/self\.freed \+= usize::from\(pending\.holds_slot\);//'
mutant 'a commit is told before it is written' \
    $J/keeper.rs 's/\n    bytes: u64/\n    pub(super) bytes: u64/' \
    $J/handle.rs 's/Ok\(Work::Group\(group\)\) => [^\n]*/Ok(Work::Group(mut group)) => {
                let (frames, start) = (std::mem::take(&mut group.frames), keeper.bytes);
                group.records.iter_mut().for_each(|record| record.offset += start);
                drop(report.send(Ok(group)));
                keeper.commit(&frames).map(|_| ())
            }/; s/\z/#[allow(dead_code)] const _: fn(&mut Keeper, Group) -> Result<Group, Error> = commit;\n/'
mutant 'no fsync of the draft' $J/publish.rs 's/scratch\.file\.sync_all\(\)\?;\n        let/let/'
mutant 'no fsync of the folder behind the name' $J/publish.rs 's/sync_folder\(folder_of\(&self\.target\)\)[^\n]*/Ok(())/'
mutant 'no close that is looked at' $J/publish.rs 's/exclusive::close\(scratch\.file\.try_clone\(\)\?\)\?;//'
mutant 'no gate' $F/result.rs 's/if same \{/if same || true {/'
mutant 'the gate does not look at the hash' $F/result.rs 's/&& end\.sha256 == self\.first\.sha256//'
mutant 'half a key is enough' $J/records.rs 's/Some\(outcome\) if settled\.head\.key == \*key/Some(outcome) if settled.head.key == *key || true/'
mutant 'a torn tail is not cut' $J/keeper.rs 's/if tail\.torn_bytes\(\) > 0/if tail.torn_bytes() > u64::MAX - 1/'
mutant 'a cut is not synced' $J/keeper.rs 's/self\.file\.set_len\(self\.bytes\)\.and_then\(\|\(\)\| self\.file\.sync_all\(\)\)/self.file.set_len(self.bytes)/'
mutant 'damage is taken for a torn tail' $J/keeper.rs 's/Some\(next\) => Err\(Error::Damaged[^\n]*/Some(_) => Ok(Tail { next_valid: None, ..tail }),/'
mutant 'a free name is taken by a rename over it' $F/result.rs 's/Place::Free => sealed\.publish\(self\.how\)/Place::Free => sealed.replace_anything()/'
mutant 'what was ours is replaced unseen' $F/result.rs 's/Place::Ours\(ours\) => sealed\.replace\(ours\)/Place::Ours(_) => sealed.replace_anything()/'
mutant 'published before it is written down' $F/result.rs \
    's/keeper\.note\(&\[Note::Published\(result\.clone\(\)\)\]\)\?;//; s/self\.closed\.result = Some\(result\);/keeper.note(&[Note::Published(result.clone())])?;\n        self.closed.result = Some(result);/'
mutant 'every lock is stale' $J/lock/claim.rs 's/if abandoned \|\| age >= STALE_AFTER/if abandoned || age >= STALE_AFTER || true/'
mutant 'an error of the journal is passed over' $J/keeper.rs \
    's/self\.file\.write_all\(frames\)\.map_err\([^;]*;/let _ = self.file.write_all(frames);/'
mutant 'a failed fdatasync is tried again' $J/keeper.rs 's/self\.file\.sync_data\(\)\.map_err/self.file.sync_data().or_else(|_| self.file.sync_data()).map_err/'
mutant 'leftovers stay' $J/publish/exclusive.rs 's/(pub fn remove_leftovers[^{]*\{)/$1\n    if true { return Ok(()); }/'

D=src/daemon

mutant 'daemon: no fdatasync of a group' $J/keeper.rs 's/self\.file\.sync_data\(\)\.map_err\([^;]*;//'
mutant 'daemon: no fsync of the draft' $J/publish.rs 's/scratch\.file\.sync_all\(\)\?;\n        let/let/'
mutant 'daemon: no fsync of the folder before the end' $D/render.rs \
    's/if let Err\(error\) = publish::sync_folder\(&folder\.join\("\."\)\)/if let Err(error) = { let _ = &folder; std::io::Result::Ok(()) }/'
mutant 'daemon: the end before the name' $D/render.rs \
    's/(let mut folders = HashMap::new\(\);)/$1
    let mut early = Vec::new();
    batch.iter().for_each(|ready: &Ready| frame::push(&mut early, |record| Note::Done(ready.done.clone()).push(record)));
    keeper.commit(&early)?;/'
mutant 'daemon: no gate' $D/render.rs 's/if job\.lines\.len\(\) as u64 != job\.done\.lines \{/if job.lines.len() as u64 > job.done.lines {/' \
    $D/job.rs 's/self\.unsettled == 0/self.unsettled <= 1/'
mutant 'daemon: a slot is free before the commit' $D/spool/asking.rs \
    's/token\(slot, line, Some\(job\.account\)\)/token(slot, line, None)/; s/Slot::Held\n            \}\n            Body::Large/Slot::Free\n            }\n            Body::Large/'
mutant 'daemon: a slot of a large file is free before the commit' $F/journaled.rs \
    's/Slot::Held\n/Slot::Free\n/; s/self\.freed \+= usize::from\(pending\.holds_slot\);//'
mutant 'daemon: names without a look at the lease' $D/render.rs 's/(may have lost the spool to another meanwhile\.\n)    keeper\.confirm\(\)\?;/$1/'
mutant 'daemon: an old log goes before the new one is durable' $J/keeper.rs 's/sealed\.publish\(how\)\?;\n    let file/sealed.publish_unsynced(how)?;\n    let file/'
mutant 'daemon: an old log goes without a look at the lease' $D/store.rs 's/by\(Step::Confirm\)\?;//'
mutant 'daemon: a new log forgets what was begun' $D/store.rs 's/let needed = open\.flat_map/let needed = open.filter(|_| false).flat_map/'
mutant 'daemon: a large file is claimed before its copy is durable' $D/snapshot/copy.rs 's/target\.sync_all\(\)\.map_err\(Refused::Io\)\?;//'
mutant 'daemon: the name of a copy is not synced' $D/snapshot/copy.rs 's/sync_folder\(into\)\.map_err\(Refused::Io\)\?;//'
mutant 'daemon: the folder of a large file is not synced' $D/store.rs 's/sync_folder\(&self\.jobs\(\)\)\?;//'
mutant 'daemon: a control goes before what it asks for' $D/spool/controlling.rs 's/(self\.enqueue\(Queued \{[^}]*\}\);\n        )Use::Later/$1Use::Done/'
mutant 'daemon: a result is not known to be ours after a crash' $D/render.rs 's/match publish::is_still\(target, ours\) \{/match publish::is_still(target, ours).map(|_| false) {/'
mutant 'daemon: a draft that is left over is an obstacle' $J/publish.rs 's/remove_if_there\(&path\)\?;\n        let scratch/let scratch/; s/remove_if_there\(&path\)\?;\n    let usual/let usual/'
mutant 'daemon: what a crash left of large files stays' $D/store.rs 's/self\.remove_orphans\(&history, retain\)\?;//'

printf '\nmutant                                          tests that fail, the first three of them\n'
printf '%s\n' "${table[@]}"
printf '%d mutants, %d missed\n' "${#table[@]}" "$missed"
[[ $missed -eq 0 ]]
