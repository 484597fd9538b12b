//! Tools that come and go while a turn goes on.

use tokio::sync::watch;

use super::*;
use crate::tools::{Approval, Settling, Shelf};

/// As many as run at once, and one behind them.
const CALLS: [&str; 9] = [
    "gated", "gated", "gated", "gated", "gated", "gated", "gated", "gated", "late",
];

/// A shelf whose one tool is there as it is put there and taken away.
#[derive(Debug)]
struct Fleeting {
    tool: Mutex<Option<Arc<Tool>>>,
    /// Looks for it that take it away behind them.
    last_look: Mutex<Option<u32>>,
    looks: watch::Sender<u32>,
    settled: watch::Sender<bool>,
}

impl Fleeting {
    fn put(&self, tool: Option<Tool>) {
        *self.tool.lock() = tool.map(Arc::new);
    }

    async fn was_looked_for(&self, times: u32) {
        let mut looks = self.looks.subscribe();
        let looked = looks.wait_for(|looks| *looks >= times);
        tokio::time::timeout(DEADLINE, looked)
            .await
            .unwrap()
            .unwrap();
    }

    async fn is_waited_for(&self) {
        eventually("somebody who waits", DEADLINE, async || {
            (self.settled.receiver_count() > 0).then_some(())
        })
        .await;
    }
}

impl Shelf for Fleeting {
    fn find(&self, name: &str) -> Option<Arc<Tool>> {
        if name != "late" {
            return None;
        }
        let mut tool = self.tool.lock();
        let found = tool.clone();
        self.looks.send_modify(|looks| *looks += 1);
        if *self.last_look.lock() == Some(*self.looks.borrow()) {
            *tool = None;
        }
        found
    }

    fn tools(&self) -> Vec<Arc<Tool>> {
        self.tool.lock().iter().cloned().collect()
    }

    fn settled(&self, names: &[String]) -> Settling {
        assert!(names.iter().any(|name| name == "late"));
        let mut settled = self.settled.subscribe();
        Box::pin(async move {
            settled.wait_for(|settled| *settled).await.ok();
        })
    }
}

/// A tool that gives nothing until it is let.
#[derive(Debug)]
struct Gated(watch::Receiver<bool>);

impl Runner for Gated {
    fn run(&self, call: Call) -> Running {
        let mut open = self.0.clone();
        Box::pin(async move {
            open.wait_for(|open| *open).await.ok();
            tools::Outcome::Value(call.arguments)
        })
    }
}

/// A stage with the tool `late` on a shelf, asked for behind all that can run.
async fn stage() -> (Stage, Arc<Fleeting>, watch::Sender<bool>) {
    let lines = vec![asks("", &CALLS), says("Done.")];
    let mut stage = Stage::start(false, lines).await;
    let (open, gate) = watch::channel(false);
    let gated = Tool {
        runner: Arc::new(Gated(gate)),
        ..tool("gated", Way::Never, &stage.counts)
    };
    let shelf = Arc::new(Fleeting {
        tool: Mutex::new(Some(Arc::new(late(&stage, None)))),
        last_look: Mutex::new(None),
        looks: watch::Sender::new(0),
        settled: watch::Sender::new(true),
    });
    let toolbox = Toolbox::new([gated]).with(Arc::clone(&shelf) as _);
    stage.means.toolbox = Arc::new(toolbox);
    let names = ["gated", "late"].map(str::to_owned);
    stage.agent = Arc::new(agent(Arc::clone(&stage.script), names.to_vec()));
    (stage, shelf, open)
}

fn late(stage: &Stage, approval: Option<Approval>) -> Tool {
    Tool {
        approval,
        ..tool("late", Way::Echo, &stage.counts)
    }
}

fn by_people() -> Option<Approval> {
    Some(Approval {
        action_type: "late".to_owned(),
        expires_in: Duration::from_secs(3_600),
    })
}

#[tokio::test]
async fn a_call_whose_tool_is_away_for_a_moment_does_not_run_unapproved() {
    let (mut stage, shelf, open) = stage().await;
    shelf.put(Some(late(&stage, by_people())));
    // There when it is planned, and not when it is to be put to people.
    *shelf.last_look.lock() = Some(1);
    let (work, _) = stage.begin().await;
    shelf.was_looked_for(2).await;
    shelf.put(Some(late(&stage, by_people())));
    open.send_replace(true);
    work.await.unwrap();
    let records = stage.records().await;
    assert_eq!(outcomes(&records)[&9], ToolOutcome::Refused);
    assert!(stage.counts.lock().is_empty());
    assert_eq!(answered(&records).full_response, "Done.");
}

#[tokio::test]
async fn a_tool_that_comes_to_need_approval_is_not_run_without() {
    let (mut stage, shelf, open) = stage().await;
    let (work, cancel) = stage.begin().await;
    shelf.was_looked_for(2).await;
    shelf.put(Some(late(&stage, by_people())));
    open.send_replace(true);
    let is_held = |record: &Record| matches!(record, Record::ToolHeld(_));
    stage.until(1, is_held).await;
    cancel.trigger();
    work.await.unwrap();
    let records = stage.records().await;
    assert_eq!(outcomes(&records)[&9], ToolOutcome::Cancelled);
    assert!(stage.counts.lock().is_empty());
}

#[tokio::test]
async fn a_successor_waits_for_tools_that_are_not_there_yet() {
    let (mut stage, shelf, _open) = stage().await;
    let (work, _) = stage.begin().await;
    stage.until(8, is_started).await;
    work.abort();
    work.await.unwrap_err();
    shelf.put(None);
    shelf.settled.send_replace(false);
    let (turn, _) = stage.turn().await;
    let going_on = tokio::spawn(turn.go_on());
    shelf.is_waited_for().await;
    shelf.put(Some(late(&stage, None)));
    shelf.settled.send_replace(true);
    going_on.await.unwrap().unwrap();
    let records = stage.records().await;
    assert_eq!(outcomes(&records)[&9], ToolOutcome::Value);
    assert_eq!(stage.counts.lock()[&9], (1, 0));
    // The model is told of it as well.
    let requests = stage.script.requests.lock();
    let names: Vec<_> = requests[1].tools.iter().map(|tool| &*tool.name).collect();
    assert_eq!(names, ["gated", "late"]);
}
