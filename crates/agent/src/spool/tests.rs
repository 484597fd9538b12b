//! Stores output, reads it from everywhere, tears it, and fills it up.

use std::sync::atomic::Ordering;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::output::Chunk;

const SMALL: Bounds = Bounds {
    command_bytes: 512 * 1024,
    total_bytes: 1 << 30,
    patience: Duration::ZERO,
};

fn spool(dir: &TempDir, bounds: Bounds) -> Spool {
    let budget = Arc::new(Budget::new(bounds.total_bytes));
    Spool::new(dir.path().join("c"), bounds, budget)
}

fn recover(dir: &TempDir) -> Spool {
    let budget = Arc::new(Budget::new(SMALL.total_bytes));
    Spool::recover(dir.path().join("c"), SMALL, budget).unwrap()
}

fn put(spool: &Spool, stream: Stream, bytes: &[u8]) -> bool {
    spool.append(stream, bytes, SystemTime::now())
}

fn read_all(spool: &Spool, mut from: Offsets, max: usize, ended: bool) -> Vec<Piece> {
    let mut all = Vec::new();
    loop {
        let pieces = spool.read(from, max, ended).unwrap();
        if pieces.is_empty() {
            return all;
        }
        for piece in pieces {
            from.pass(&piece);
            all.push(piece);
        }
    }
}

fn bytes_of(pieces: &[Piece], stream: Stream) -> Vec<u8> {
    let chunks = pieces.iter().filter_map(|piece| match piece {
        Piece::Output(chunk) if chunk.stream == stream => Some(chunk),
        _ => None,
    });
    chunks
        .flat_map(|chunk| chunk.bytes.iter().copied())
        .collect()
}

fn segments(dir: &TempDir) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(dir.path().join("c"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths
}

/// Whether there is a valid character of several bytes around a place.
fn splits(bytes: &[u8], at: usize) -> bool {
    (at.saturating_sub(3)..at).any(|start| {
        (at + 1..=bytes.len().min(start + 4)).any(|end| {
            str::from_utf8(&bytes[start..end]).is_ok_and(|text| text.chars().count() == 1)
        })
    })
}

#[test]
fn streams_keep_their_order_and_neighbours_are_joined() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(&dir, SMALL);
    for (stream, bytes) in [
        (Stream::Stdout, "a"),
        (Stream::Stdout, "b"),
        (Stream::Stderr, "!"),
        (Stream::Stdout, "c"),
    ] {
        assert!(put(&spool, stream, bytes.as_bytes()));
    }
    let seen: Vec<_> = read_all(&spool, Offsets::default(), 1_000, false)
        .into_iter()
        .map(|piece| match piece {
            Piece::Output(chunk) => (chunk.stream, chunk.offset, chunk.bytes),
            Piece::Gap { .. } => panic!("there is no gap"),
        })
        .collect();
    let expected = [
        (Stream::Stdout, 0, b"ab".to_vec()),
        (Stream::Stderr, 0, b"!".to_vec()),
        (Stream::Stdout, 2, b"c".to_vec()),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn a_character_waits_for_its_end_but_not_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(&dir, SMALL);
    put(&spool, Stream::Stdout, b"x\xe2");
    put(&spool, Stream::Stderr, b"err");
    let mut from = Offsets::default();
    for piece in spool.read(from, 100, false).unwrap() {
        from.pass(&piece);
    }
    assert_eq!(
        from,
        Offsets {
            stdout: 1,
            stderr: 3
        }
    );
    assert_eq!(spool.read(from, 100, false).unwrap(), []);
    put(&spool, Stream::Stdout, b"\x82");
    assert_eq!(spool.read(from, 100, false).unwrap(), []);
    put(&spool, Stream::Stdout, b"\xac.");
    let pieces = spool.read(from, 100, false).unwrap();
    assert_eq!(bytes_of(&pieces, Stream::Stdout), "€.".as_bytes());
    from.pass(&pieces[0]);
    put(&spool, Stream::Stdout, b"\xc3");
    assert_eq!(spool.read(from, 100, false).unwrap(), []);
    assert_eq!(
        bytes_of(&spool.read(from, 100, true).unwrap(), Stream::Stdout),
        b"\xc3"
    );
}

#[test]
fn what_is_acknowledged_leaves_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(&dir, SMALL);
    let block = vec![b'x'; 32_768];
    let mut stored = 0u64;
    while put(&spool, Stream::Stdout, &block) {
        stored += block.len() as u64;
    }
    assert!(stored > SMALL.command_bytes * 3 / 4, "{stored}");
    let files = segments(&dir).len();
    assert!(spool.acknowledge(Stream::Stdout, stored / 2));
    assert!(!spool.acknowledge(Stream::Stdout, stored / 2));
    assert!(segments(&dir).len() < files);
    assert!(put(&spool, Stream::Stdout, &block));
    stored += block.len() as u64;
    assert!(spool.acknowledge(Stream::Stdout, u64::MAX));
    assert_eq!(spool.acknowledged().stdout, stored);
    assert_eq!(segments(&dir).len(), 1);
    spool.remove();
    assert!(!dir.path().join("c").exists());
    assert_eq!(spool.budget.used.load(Ordering::Relaxed), 0);
}

#[test]
fn all_commands_share_a_bound() {
    let dir = tempfile::tempdir().unwrap();
    let budget = Arc::new(Budget::new(300_000));
    let [one, two] =
        ["1", "2"].map(|name| Spool::new(dir.path().join(name), SMALL, Arc::clone(&budget)));
    let block = vec![b'x'; 32_768];
    while put(&one, Stream::Stdout, &block) {}
    assert!(!put(&two, Stream::Stdout, &block));
    one.acknowledge(Stream::Stdout, u64::MAX);
    assert!(put(&two, Stream::Stdout, &block));
}

#[test]
fn a_gap_is_told_in_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(&dir, SMALL);
    put(&spool, Stream::Stdout, b"ab\xe2");
    assert!(spool.gap(Stream::Stdout, 1_000, SystemTime::now(), true));
    put(&spool, Stream::Stdout, b"z");
    let pieces = read_all(&spool, Offsets::default(), 100, false);
    let gap = Piece::Gap {
        stream: Stream::Stdout,
        from: 3,
        to: 1_000,
    };
    assert!(matches!(&pieces[0], Piece::Output(Chunk { bytes, .. }) if bytes == b"ab\xe2"));
    assert_eq!(pieces[1], gap);
    assert!(matches!(&pieces[2], Piece::Output(chunk) if chunk.offset == 1_000));
    let recovered = recover(&dir);
    assert_eq!(recovered.written().stdout, 1_001);
    assert_eq!(read_all(&recovered, Offsets::default(), 100, false), pieces);
}

#[test]
fn a_tail_is_cut_off_wherever_it_is_torn() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(&dir, SMALL);
    for number in 0..4 {
        put(
            &spool,
            Stream::ALL[number % 2],
            format!("record {number};").as_bytes(),
        );
    }
    let file = segments(&dir).pop().unwrap();
    let whole = fs::read(&file).unwrap();
    let record = HEADER_BYTES + "record 0;".len();
    let start = HEADER_BYTES + 8;
    for length in start..=whole.len() {
        fs::write(&file, &whole[..length]).unwrap();
        let recovered = recover(&dir);
        let records = (length - start) / record;
        let total = recovered.written().stdout + recovered.written().stderr;
        assert_eq!(total, 9 * records as u64, "cut at {length}");
        assert_eq!(
            fs::metadata(&file).unwrap().len(),
            (start + records * record) as u64
        );
        // It goes on from there, in a segment of its own.
        assert!(put(&recovered, Stream::Stdout, b"more"));
        let pieces = read_all(&recovered, Offsets::default(), 100, true);
        assert!(bytes_of(&pieces, Stream::Stdout).ends_with(b"more"));
        assert_eq!(recover(&dir).written(), recovered.written());
        fs::remove_file(segments(&dir).pop().unwrap()).unwrap();
    }
    for at in start..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        fs::write(&file, &damaged).unwrap();
        let recovered = recover(&dir);
        let total = recovered.written().stdout + recovered.written().stderr;
        assert_eq!(total, 9 * ((at - start) / record) as u64, "damage at {at}");
    }
}

#[test]
fn a_segment_without_a_beginning_is_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(&dir, SMALL);
    put(&spool, Stream::Stdout, b"x");
    let file = segments(&dir).pop().unwrap();
    fs::write(&file, b"").unwrap();
    let empty = recover(&dir);
    assert_eq!(empty.written(), Offsets::default());
    fs::write(&file, b"half of a header").unwrap();
    let recovered = recover(&dir);
    assert_eq!(recovered.written(), Offsets::default());
    assert!(put(&recovered, Stream::Stdout, b"y"));
}

#[test]
fn a_reader_beside_the_writer_misses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Arc::new(spool(&dir, SMALL));
    let writer = Arc::clone(&spool);
    let total = 30_000_000;
    let writing = std::thread::spawn(move || {
        let mut written = 0;
        while written < total {
            // A segment has two records.
            if put(&writer, Stream::Stdout, &[7; 30_000]) {
                written += 30_000;
            } else {
                std::thread::yield_now();
            }
        }
    });
    let mut from = Offsets::default();
    while from.stdout < total {
        for piece in spool.read(from, 1 << 20, false).unwrap() {
            assert_eq!(piece.start(), from.stdout);
            from.pass(&piece);
            spool.acknowledge(Stream::Stdout, from.stdout);
        }
    }
    writing.join().unwrap();
    assert_eq!(spool.read(from, 1 << 20, true).unwrap(), []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However it is written and read, the bytes are the same, no character is
    /// cut in two, and a restart changes nothing.
    #[test]
    fn what_is_read_is_what_was_written(
        parts in prop::collection::vec((any::<bool>(), prop::collection::vec(prop_oneof![Just(b'a'), Just(0xe2), Just(0x82), Just(0xac), Just(0xff)], 1..9)), 1..60),
        max in 1usize..40,
        skip in 0u64..50,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let spool = spool(&dir, SMALL);
        let mut expected = [Vec::new(), Vec::new()];
        for (second, bytes) in &parts {
            put(&spool, Stream::ALL[usize::from(*second)], bytes);
            expected[usize::from(*second)].extend_from_slice(bytes);
        }
        let pieces = read_all(&spool, Offsets::default(), max, true);
        for stream in Stream::ALL {
            prop_assert_eq!(&bytes_of(&pieces, stream), &expected[stream as usize]);
            let mut at = 0;
            for piece in pieces.iter().filter(|piece| piece.stream() == stream) {
                prop_assert_eq!(piece.start(), at);
                at = piece.end();
                prop_assert!(!splits(&expected[stream as usize], at as usize), "{}", at);
            }
        }
        let from = Offsets {
            stdout: skip.min(expected[0].len() as u64),
            stderr: (skip / 2).min(expected[1].len() as u64),
        };
        for spool in [spool, recover(&dir)] {
            let pieces = read_all(&spool, from, max, true);
            for stream in Stream::ALL {
                let rest = &expected[stream as usize][from.of(stream) as usize..];
                prop_assert_eq!(&bytes_of(&pieces, stream), rest);
            }
        }
    }
}
