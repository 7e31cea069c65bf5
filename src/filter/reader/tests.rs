//! Who reads an input changes nothing about what is read of it.

#![allow(clippy::unwrap_used)]

use std::io::{PipeWriter, Write as _};
use std::os::fd::OwnedFd;
use std::task::Waker;

use proptest::prelude::*;

use super::*;

const SPLIT: Split = Split { terminator: b'\n', line_bytes_max: 1 << 20, hash: true, shard: None };

/// Records with their numbers.
type Records = Vec<(u64, Vec<u8>)>;

fn start_on(file: File) -> Reading<(u64, Vec<u8>)> {
    let take = |line, found: Found<'_>| match found {
        Found::Record(bytes) => (line, bytes.to_vec()),
        Found::TooLong(length) => panic!("{length} bytes are too long"),
    };
    start(vec![Source::whole("here".to_owned(), file)], SPLIT, None, take).unwrap()
}

fn pipe() -> (Reading<(u64, Vec<u8>)>, PipeWriter) {
    let (reader, writer) = io::pipe().unwrap();
    (start_on(File::from(OwnedFd::from(reader))), writer)
}

/// Everything that is still to come.
async fn rest(reading: &mut Reading<(u64, Vec<u8>)>) -> (Records, End) {
    let mut records = Vec::new();
    loop {
        match reading.next().await.expect("the end is told") {
            Input::Block(block) => records.extend(block),
            Input::End(end) => {
                assert!(reading.next_now().is_none() && reading.next().await.is_none(), "there is but one end");
                return (records, end);
            }
        }
    }
}

async fn block(reading: &mut Reading<(u64, Vec<u8>)>) -> Records {
    match reading.next().await {
        Some(Input::Block(block)) => block,
        other => panic!("{other:?} is no block"),
    }
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap().block_on(future)
}

/// Whether the kernel can read a pipe without waiting. Where it cannot, there is always a thread.
fn is_pipe_read_here() -> bool {
    let (reader, _writer) = io::pipe().unwrap();
    let flags = rustix::io::ReadWriteFlags::NOWAIT;
    let read = rustix::io::preadv2(&reader, &mut [io::IoSliceMut::new(&mut [0])], u64::MAX, flags);
    read == Err(rustix::io::Errno::AGAIN)
}

#[test]
fn little_is_read_by_the_task_and_much_by_a_thread() {
    run(async {
        let (mut reading, mut pipe) = pipe();
        let line = b"a line\n".repeat(1000);
        for round in 0..20 {
            assert!(reading.poll_next(&mut Context::from_waker(Waker::noop())).is_pending());
            pipe.write_all(&line).unwrap();
            assert_eq!(block(&mut reading).await.first().unwrap().0, round * 1000 + 1);
        }
        assert!(reading.next_now().is_none());
        assert_eq!(reading.live.is_some(), is_pipe_read_here());
        let writing = std::thread::spawn(move || pipe.write_all(&b"a line\n".repeat(40_000)));
        let (records, end) = rest(&mut reading).await;
        writing.join().unwrap().unwrap();
        assert!(reading.live.is_none(), "more than a pipe holds is for a thread");
        assert_eq!((records.len(), end.lines, end.error), (40_000, 60_000, None));
    });
}

#[test]
fn a_long_record_that_comes_bit_by_bit_is_read_by_a_thread() {
    run(async {
        let (mut reading, mut pipe) = pipe();
        for _ in 0..40 {
            pipe.write_all(&[b'x'; 2000]).unwrap();
            // So much is taken before the next bit comes, whoever takes it.
            while rustix::io::ioctl_fionread(&pipe).unwrap() > 0 {
                assert!(reading.poll_next(&mut Context::from_waker(Waker::noop())).is_pending());
                tokio::task::yield_now().await;
            }
        }
        assert!(reading.live.is_none());
        pipe.write_all(b"\nnext").unwrap();
        drop(pipe);
        let (records, end) = rest(&mut reading).await;
        assert_eq!(records.iter().map(|(line, bytes)| (*line, bytes.len())).collect::<Vec<_>>(), [(1, 80_000), (2, 4)]);
        assert_eq!((end.lines, end.source_bytes), (2, vec![80_005]));
    });
}

#[test]
fn what_is_there_is_given_without_waiting() {
    run(async {
        let (mut reading, mut pipe) = pipe();
        if is_pipe_read_here() {
            pipe.write_all(b"one\ntwo\nhal").unwrap();
            let Some(Input::Block(found)) = reading.next_now() else { panic!("no block") };
            assert_eq!(found, [(1, b"one".to_vec()), (2, b"two".to_vec())]);
            assert!(reading.next_now().is_none());
        }
    });
}

#[test]
fn a_pipe_that_others_have_made_impatient_is_waited_for_all_the_same() {
    let (reader, mut writer) = io::pipe().unwrap();
    let flags = rustix::fs::fcntl_getfl(&reader).unwrap() | rustix::fs::OFlags::NONBLOCK;
    rustix::fs::fcntl_setfl(&reader, flags).unwrap();
    // Without a runtime there is a thread from the start.
    let mut reading = start_on(File::from(OwnedFd::from(reader)));
    assert!(reading.live.is_none());
    writer.write_all(b"one\n").unwrap();
    assert!(matches!(reading.next_blocking(), Some(Input::Block(block)) if block == [(1, b"one".to_vec())]));
    writer.write_all(b"two\n").unwrap();
    assert!(matches!(reading.next_blocking(), Some(Input::Block(block)) if block == [(2, b"two".to_vec())]));
    drop(writer);
    assert!(matches!(reading.next_blocking(), Some(Input::End(End { lines: 2, error: None, .. }))));
}

/// Writes the bytes in pieces that end at the cuts, with a pause behind each.
fn write_in_pieces(mut pipe: PipeWriter, bytes: &[u8], mut cuts: Vec<usize>) {
    cuts.sort_unstable();
    let mut begin = 0;
    for end in cuts.into_iter().map(|cut| cut.min(bytes.len())).chain([bytes.len()]) {
        pipe.write_all(&bytes[begin..end]).unwrap();
        begin = end;
        std::thread::yield_now();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_pipe_gives_what_a_file_gives(
        lengths in prop::collection::vec(prop_oneof![0usize..40, 0usize..3000, 60_000usize..70_000], 0..30),
        cuts in prop::collection::vec(0usize..200_000, 0..12),
        is_ended in any::<bool>(),
    ) {
        let mut bytes: Vec<u8> = lengths.iter().flat_map(|length| [vec![b'x'; *length], vec![b'\n']].concat()).collect();
        if !is_ended {
            bytes.pop();
        }
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        file.rewind().unwrap();
        let (expected, found) = run(async {
            let expected = rest(&mut start_on(file)).await;
            let (mut reading, pipe) = pipe();
            let writing = std::thread::spawn(move || write_in_pieces(pipe, &bytes, cuts));
            let found = rest(&mut reading).await;
            writing.join().unwrap();
            (expected, found)
        });
        prop_assert!(expected.0 == found.0, "the records differ");
        prop_assert_eq!(format!("{:?}", expected.1), format!("{:?}", found.1));
    }
}
