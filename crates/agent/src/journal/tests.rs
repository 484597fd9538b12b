//! Restarts, tears and grows journals.

use super::*;
use crate::executor::Outcome;

fn ending() -> Arc<Ending> {
    Arc::new(Ending::not_run(Outcome::Failed, "not_allowed: no"))
}

fn open(dir: &tempfile::TempDir) -> Journal {
    Journal::open(dir.path(), Bounds::default()).unwrap()
}

const PROCESS: Identity = Identity {
    pid: 7,
    start: 70,
    boot: 700,
};

#[test]
fn it_knows_everything_again_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(&dir);
    for id in ["planned", "running", "ended", "confirmed"] {
        journal.plan(id, "mark").unwrap();
    }
    for id in ["running", "ended", "confirmed"] {
        journal.run(id, PROCESS).unwrap();
    }
    for id in ["ended", "confirmed"] {
        journal.end(id, ending()).unwrap();
    }
    journal.end("refused", ending()).unwrap();
    journal.confirm("confirmed").unwrap();
    drop(journal);
    for _ in 0..2 {
        let mut journal = open(&dir);
        let marker = "mark".to_owned();
        let process = Some(PROCESS);
        assert!(matches!(
            journal.known("planned"),
            Some(Known::Started { process: None, .. })
        ));
        assert_eq!(
            journal.known("running"),
            Some(&Known::Started { marker, process })
        );
        assert_eq!(journal.known("ended"), Some(&Known::Ended(ending())));
        assert!(matches!(
            journal.known("confirmed"),
            Some(Known::Confirmed(..))
        ));
        assert_eq!(journal.known("another"), None);
        let ids: Vec<_> = journal
            .unconfirmed()
            .into_iter()
            .map(|(id, _)| id)
            .collect();
        assert_eq!(ids, ["planned", "running", "ended", "refused"]);
        // The same from a journal that was written anew.
        journal.rewrite().unwrap();
    }
}

#[test]
fn a_torn_line_is_cut_off_and_the_rest_holds() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(&dir);
    journal.plan("first", "mark").unwrap();
    journal.plan("second", "mark").unwrap();
    drop(journal);
    let path = dir.path().join(FILE);
    let whole = fs::read(&path).unwrap();
    let first = whole.iter().position(|&byte| byte == b'\n').unwrap() + 1;
    for length in first..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        let mut journal = open(&dir);
        assert!(journal.known("first").is_some());
        assert!(journal.known("second").is_none(), "cut at {length}");
        journal.plan("third", "mark").unwrap();
        assert!(open(&dir).known("third").is_some(), "cut at {length}");
    }
    for at in 0..first - 1 {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x01;
        fs::write(&path, &damaged).unwrap();
        let ids: Vec<_> = open(&dir).unconfirmed();
        assert!(ids.len() == 1 && ids[0].0 == "second", "damage at {at}");
    }
}

#[test]
fn it_does_not_grow_without_bound() {
    let dir = tempfile::tempdir().unwrap();
    let bounds = Bounds {
        age: Duration::from_secs(3_600),
        count: 50,
    };
    let mut journal = Journal::open(dir.path(), bounds).unwrap();
    journal.plan("waits", "mark").unwrap();
    for number in 0..3_000 {
        let id = format!("c{number}");
        journal
            .append(Entry::Ended {
                id: id.clone(),
                ending: ending(),
            })
            .unwrap();
        journal.confirm(&id).unwrap();
    }
    assert!(journal.bytes < 2 * REWRITE_BYTES, "{}", journal.bytes);
    assert!(fs::metadata(dir.path().join(FILE)).unwrap().len() == journal.bytes);
    journal.rewrite().unwrap();
    assert_eq!(journal.commands.len(), 51);
    assert!(journal.known("waits").is_some());
    assert!(journal.known("c2999").is_some() && journal.known("c2950").is_some());
    assert!(journal.known("c2949").is_none());
}
