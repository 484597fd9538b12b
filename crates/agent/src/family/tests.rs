//! The process table, and who of it is meant.

use std::os::unix::process::CommandExt as _;

use rustix::process::getppid;

use super::*;

#[test]
fn a_line_of_the_process_table_is_read_whatever_the_name() {
    let line = "12 (a ) (b)) Z 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 987 22 23";
    let entry = parse(12, line).unwrap();
    assert_eq!(
        (entry.parent, entry.session, entry.start, entry.zombie),
        (3, 5, 987, true)
    );
}

#[test]
fn we_are_in_the_table() {
    let us = getpid().as_raw_nonzero().get();
    let found = table().into_iter().find(|entry| entry.pid == us).unwrap();
    let parent = getppid().map_or(0, |parent| parent.as_raw_nonzero().get());
    assert_eq!((found.parent, found.zombie), (parent, false));
    assert!(found.start > 0);
    assert_eq!(entry(us), Some(found));
}

#[test]
fn a_child_in_our_session_is_no_orphan_and_one_that_left_it_is() {
    let us = entry(getpid().as_raw_nonzero().get()).unwrap();
    let child = Entry {
        pid: i32::MAX,
        parent: us.pid,
        ..us
    };
    let left = Entry {
        session: i32::MAX,
        ..child
    };
    let mut children = Children {
        awaited: Vec::new(),
        families: 1,
        since: None,
    };
    assert!(!is_orphan(&child, &children));
    assert!(is_orphan(&left, &children));
    children.awaited.push(left.pid);
    assert!(!is_orphan(&left, &children));
}

#[test]
fn a_pid_that_is_used_again_is_nobody_of_the_family() {
    let mut child = std::process::Command::new("sleep")
        .arg("60")
        .spawn()
        .unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    let leader = Identity {
        pid,
        start: entry(pid).unwrap().start,
        boot: boot(),
    };
    // As if another process had had the pid before, or before a reboot.
    for other in [
        Identity {
            start: leader.start - 1,
            ..leader
        },
        Identity {
            boot: leader.boot ^ 1,
            ..leader
        },
    ] {
        let mut family = Family::left_over("no such mark", Some(other));
        assert_eq!(family.signal(&[Signal::KILL], false), 0);
    }
    assert!(child.try_wait().unwrap().is_none());
    let mut family = Family::left_over("no such mark", Some(leader));
    assert_eq!(family.signal(&[Signal::KILL], false), 1);
    assert!(!child.wait().unwrap().success());
}

#[test]
fn a_process_table_of_another_namespace_is_refused() {
    check_table(Path::new("/proc")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    assert!(check_table(dir.path()).is_err());
    let other = getpid().as_raw_nonzero().get() + 1;
    std::os::unix::fs::symlink(other.to_string(), dir.path().join("self")).unwrap();
    assert!(check_table(dir.path()).is_err());
}

#[test]
fn a_first_process_that_the_table_hides_is_ended_too() {
    let mut child = std::process::Command::new("sleep")
        .arg("10")
        .process_group(0)
        .spawn()
        .unwrap();
    let mut family = Family::new("no such mark");
    family.leader = Some(Identity {
        pid: i32::try_from(child.id()).unwrap(),
        start: 0,
        boot: boot(),
    });
    assert_eq!(family.signal_in(&[], &[], false), 0);
    assert_eq!(family.signal_in(&[], &[Signal::KILL], true), 0);
    assert!(child.try_wait().unwrap().is_none());
    assert_eq!(family.signal_in(&[], &[Signal::KILL], false), 0);
    assert!(!child.wait().unwrap().success());
}
