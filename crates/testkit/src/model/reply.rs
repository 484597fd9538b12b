//! What a scripted model replies, in no API's terms.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::timeout;

use crate::DEADLINE;

/// A reply, built part by part. Without [`Reply::end`] or
/// [`Reply::end_with`] its stream ends in good order, yet without the end that
/// the API promises.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Option<String>,
    pub(super) parts: Vec<Part>,
    pub(super) split: Option<usize>,
    pub(super) usage: Option<(u64, u64)>,
}

#[derive(Clone, Debug)]
pub(super) enum Part {
    Text(String),
    Reasoning(String),
    Call {
        id: String,
        name: String,
        arguments: Vec<String>,
    },
    Raw(Vec<u8>),
    Problem {
        kind: String,
        message: String,
    },
    Wait(Gate),
    End(Finish),
    Break,
}

/// Why the model stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// It is done.
    Done,
    /// It wants tools to be run.
    Tools,
    /// Its token limit is reached.
    Limit,
    /// It refuses.
    Refusal,
    /// It takes a break. Only Anthropic has that; elsewhere it is done.
    Pause,
}

impl Reply {
    /// A stream with nothing in it yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            status: 200,
            ..Self::default()
        }
    }

    /// A whole answer with this text, in words, and its usage.
    #[must_use]
    pub fn saying(text: &str) -> Self {
        let words = text.split_inclusive(' ');
        let reply = words.fold(Self::new(), Self::text);
        reply.usage(10, 5).end()
    }

    /// An error of a status, in the shape of both APIs.
    #[must_use]
    pub fn refusing(status: u16, kind: &str, message: &str) -> Self {
        let error = serde_json::json!({
            "type": "error",
            "error": {"type": kind, "code": kind, "message": message},
        });
        Self {
            status,
            body: Some(error.to_string()),
            ..Self::default()
        }
        .header("content-type", "application/json")
    }

    /// Any body at all.
    #[must_use]
    pub fn body(status: u16, content_type: &str, body: &str) -> Self {
        Self {
            status,
            body: Some(body.to_owned()),
            ..Self::default()
        }
        .header("content-type", content_type)
    }

    /// With a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Then a piece of text.
    #[must_use]
    pub fn text(self, text: &str) -> Self {
        self.then(Part::Text(text.to_owned()))
    }

    /// Then a piece of reasoning, which no reader sees.
    #[must_use]
    pub fn reasoning(self, text: &str) -> Self {
        self.then(Part::Reasoning(text.to_owned()))
    }

    /// Then a call of a tool, its arguments in pieces as given, JSON or not.
    #[must_use]
    pub fn call(self, id: &str, name: &str, arguments: &[&str]) -> Self {
        self.then(Part::Call {
            id: id.to_owned(),
            name: name.to_owned(),
            arguments: arguments.iter().map(|&part| part.to_owned()).collect(),
        })
    }

    /// Then bytes as they are.
    #[must_use]
    pub fn raw(self, bytes: impl Into<Vec<u8>>) -> Self {
        self.then(Part::Raw(bytes.into()))
    }

    /// Then an error in the stream.
    #[must_use]
    pub fn problem(self, kind: &str, message: &str) -> Self {
        self.then(Part::Problem {
            kind: kind.to_owned(),
            message: message.to_owned(),
        })
    }

    /// Then nothing until the test opens the gate; at the beginning, not even a
    /// status.
    #[must_use]
    pub fn wait(self, gate: &Gate) -> Self {
        self.then(Part::Wait(gate.clone()))
    }

    /// Then the end.
    #[must_use]
    pub fn end(self) -> Self {
        self.end_with(Finish::Done)
    }

    /// Then the end for this reason.
    #[must_use]
    pub fn end_with(self, finish: Finish) -> Self {
        self.then(Part::End(finish))
    }

    /// Then the connection breaks.
    #[must_use]
    pub fn break_off(self) -> Self {
        self.then(Part::Break)
    }

    /// Tells these tokens, read and written. Without, none are told.
    #[must_use]
    pub fn usage(mut self, input: u64, output: u64) -> Self {
        self.usage = Some((input, output));
        self
    }

    /// Cuts everything into chunks of so many bytes.
    #[must_use]
    pub fn split(mut self, bytes: usize) -> Self {
        self.split = Some(bytes);
        self
    }

    fn then(mut self, part: Part) -> Self {
        self.parts.push(part);
        self
    }
}

/// Holds a reply up until the test opens it.
#[derive(Clone, Debug)]
pub struct Gate {
    open: Arc<watch::Sender<bool>>,
    reached: Arc<watch::Sender<bool>>,
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

impl Gate {
    /// A closed gate.
    #[must_use]
    pub fn new() -> Self {
        Self {
            open: Arc::new(watch::Sender::new(false)),
            reached: Arc::new(watch::Sender::new(false)),
        }
    }

    /// Opens it for all that wait and all that will come.
    pub fn open(&self) {
        self.open.send_replace(true);
    }

    /// Waits until a reply has come so far: everything before is sent.
    ///
    /// # Panics
    /// When none does within [`DEADLINE`].
    pub async fn reached(&self) {
        let mut reached = self.reached.subscribe();
        let waited = timeout(DEADLINE, reached.wait_for(|reached| *reached)).await;
        waited
            .unwrap_or_else(|_| panic!("no reply comes to the gate within {DEADLINE:?}"))
            .expect("the gate lives");
    }

    /// Waits until it is open.
    ///
    /// # Panics
    /// Never: the gate lives.
    pub async fn opened(&self) {
        self.pass().await;
    }

    pub(super) async fn pass(&self) {
        self.reached.send_replace(true);
        let mut open = self.open.subscribe();
        open.wait_for(|open| *open).await.expect("the gate lives");
    }
}
