//! Sessions that are opened in every way and abandoned: memory and descriptors return. Alone in its
//! binary, since it counts those of the process.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{env, fs, time::Duration};

use common::{TestServer, quick, until};

/// Sessions of a wave; `SIGNALBOX_TEST_SCALE=10` makes the 5,000 of a full run.
const WAVE: usize = 500;
const WAVES: usize = 4;

fn scale() -> usize {
    env::var("SIGNALBOX_TEST_SCALE").map_or(1, |scale| scale.parse().unwrap())
}

fn open_files() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

fn resident_bytes() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[tokio::test(flavor = "local")]
async fn waves_of_abandoned_sessions_leave_nothing() {
    let (mut engine, mut layer) = quick();
    layer.connect_timeout = Duration::from_millis(500);
    engine.ping_interval = Duration::from_millis(500);
    engine.ping_timeout = Duration::from_millis(500);
    let server = TestServer::with(engine, layer).await;
    let files = open_files();
    let mut after_first = 0;
    for wave in 0..WAVES {
        let mut http = server.http().await;
        let mut held = Vec::new();
        for at in 0..WAVE * scale() {
            let (status, body) = http.get("EIO=4&transport=polling").await;
            assert_eq!(status, 200, "{body}");
            let sid = common::sid_of(&body);
            match at % 4 {
                // Opened and forgotten.
                0 => {}
                // In a namespace.
                1 => drop(http.post(&sid, b"40").await),
                // With half a message.
                2 => drop(http.post(&sid, b"40\x1e451-[\"a\"]").await),
                // With half an upgrade. Descriptors bound how many are at once.
                _ if held.len() < 200 => {
                    let upgrade = format!("EIO=4&transport=websocket&sid={sid}");
                    // On a busy machine its time may be over.
                    if let Ok(mut ws) = server.upgrade(&upgrade).await {
                        ws.send("2probe").await;
                        held.push(ws);
                    }
                }
                _ => {}
            }
        }
        until("all sessions ended", || server.engine.session_count() == 0).await;
        drop((held, http));
        until("all descriptors are back", || open_files() <= files).await;
        if wave == 0 {
            after_first = resident_bytes();
        }
    }
    // What one wave needed at once may be kept by the allocator, but nothing adds up: a session
    // takes more than 1,000 bytes.
    let grown = resident_bytes().saturating_sub(after_first);
    let leaked = grown / ((WAVES - 1) * WAVE * scale());
    assert!(leaked < 500, "{leaked} bytes a session");
}
