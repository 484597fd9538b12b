//! `signalbox bench chat` accounts for every token that its model writes, and
//! for every answer as a whole.

use serde_json::Value;
use signalbox_testkit::{DEADLINE, Process, signalbox};

#[tokio::test]
async fn every_token_of_every_answer_is_accounted_for() {
    let mut command = signalbox();
    command.args(["bench", "chat", "--streams", "3", "--tokens", "20"]);
    command.args(["--rate", "50", "--json"]);
    let process = Process::spawn(command);
    let status = process.wait(DEADLINE * 4).await;
    let stderr = process.stderr().lines().join("\n");
    assert!(status.success(), "{stderr}");
    let report: Value = serde_json::from_str(&process.stdout().lines().join("\n")).unwrap();
    assert_eq!(report["exact"], true);
    for (part, streams) in [("one", 1), ("many", 3)] {
        let run = &report["runs"][0]["parts"][part];
        assert_eq!(run["connections"], streams);
        assert_eq!(run["published"]["events"], 20 * streams);
        assert_eq!(run["deliveries"]["due"], 20 * streams);
        assert_eq!(run["deliveries"]["received"], 20 * streams);
        assert_eq!(run["latency"]["count"], 20 * streams);
        assert_eq!(run["chat"]["first"]["count"], streams);
        assert!(run["generator"]["cpu_s"].as_f64().unwrap() > 0.0);
        assert!(run["chat"]["gateway_per_stream"].is_number());
        assert!(run["chat"]["orchestrator_per_stream"].is_number());
    }
}
