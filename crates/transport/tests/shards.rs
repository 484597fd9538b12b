//! Shards run local tasks on threads of their own, end with their main futures, and report a panic.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{num::NonZeroUsize, rc::Rc, sync::mpsc, thread, time::Duration};

use signalbox_transport::Shards;
use tokio::{sync::watch, task::spawn_local, time::timeout};

const THREE: NonZeroUsize = NonZeroUsize::new(3).unwrap();
const DEADLINE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn every_shard_runs_local_tasks_on_its_own_thread() {
    let (report, reports) = mpsc::channel();
    let shards = Shards::start(THREE, "shard", move |index| {
        let report = report.clone();
        async move {
            let not_send = Rc::new(index);
            let name =
                spawn_local(
                    async move { (*not_send, thread::current().name().map(str::to_owned)) },
                );
            report.send(name.await.unwrap()).unwrap();
        }
    })
    .unwrap();
    assert_eq!(shards.count(), 3);
    timeout(DEADLINE, shards.join()).await.unwrap().unwrap();
    let mut names: Vec<_> = reports
        .iter()
        .map(|(index, name)| (index.as_usize(), name.unwrap()))
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            (0, "shard-0".to_owned()),
            (1, "shard-1".to_owned()),
            (2, "shard-2".to_owned())
        ]
    );
}

#[tokio::test]
async fn join_leaves_the_callers_runtime_free() {
    let (stop, stopped) = watch::channel(false);
    let shards = Shards::start(THREE, "shard", move |_| {
        let mut stopped = stopped.clone();
        async move {
            stopped.wait_for(|stop| *stop).await.ok();
        }
    })
    .unwrap();
    // On this single-threaded runtime the stop can only be sent while `join` waits.
    let stopper = tokio::spawn(async move { stop.send(true) });
    timeout(DEADLINE, shards.join()).await.unwrap().unwrap();
    stopper.await.unwrap().unwrap();
}

#[tokio::test]
async fn panicked_shard_is_reported_after_the_others_ended() {
    let shards = Shards::start(THREE, "shard", |index| async move {
        assert_ne!(index.as_usize(), 1, "broken on purpose");
    })
    .unwrap();
    let panicked = timeout(DEADLINE, shards.join()).await.unwrap().unwrap_err();
    assert_eq!(panicked.index.as_usize(), 1);
    assert!(
        panicked.message.contains("broken on purpose"),
        "{}",
        panicked.message
    );
}
