//! What an agent says, as JSON.

use std::borrow::Cow;
use std::io::Write as _;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;
use serde_json::{Value, json};
use signalbox_protocol::timestamp::Timestamp;

use crate::executor::{Ending, Outcome};
use crate::output::Stream;

/// Names output in refusals.
pub(super) const OUTPUT: &str = "output";
/// Names `agent:connect` in refusals.
pub(super) const CONNECT: &str = "connect";
/// Begins what names the end of a command.
const END: &str = "end-";
/// Text beyond this, as JSON, is sent as bytes alone: in escapes it could be
/// longer than a message may be.
const MAX_TEXT_BYTES: usize = 640 * 1024;
/// Messages beyond this are worth compressing, in bytes.
const WORTH_BYTES: usize = 1_024;
/// The longest reason that is told, in bytes.
const MAX_REASON_BYTES: usize = 1_000;

/// What the agent is, in its first message.
pub(super) struct Introduction<'a> {
    pub(super) agent_id: &'a str,
    pub(super) agent_type: &'a str,
    pub(super) concurrency: u32,
    pub(super) running: Vec<String>,
    pub(super) ended: Vec<String>,
}

pub(super) fn connect(who: &Introduction<'_>) -> String {
    json!({
        "type": "agent:connect",
        "agentId": who.agent_id,
        "agentType": who.agent_type,
        "version": env!("CARGO_PKG_VERSION"),
        "capabilities": ["ack", "journal"],
        "concurrency": who.concurrency,
        "running": who.running,
        "ended": who.ended,
        "requestId": CONNECT,
        "timestamp": now(),
    })
    .to_string()
}

pub(super) fn disconnect(agent_id: &str) -> String {
    json!({"type": "agent:disconnect", "agentId": agent_id, "timestamp": now()}).to_string()
}

pub(super) fn status(agent_id: &str, is_busy: bool, metrics: &Value) -> String {
    let status = if is_busy { "busy" } else { "online" };
    json!({
        "type": "agent:status",
        "agentId": agent_id,
        "status": status,
        "metrics": metrics,
        "timestamp": now(),
    })
    .to_string()
}

pub(super) fn running(command_id: &str, agent_id: &str) -> String {
    json!({
        "type": "command:status",
        "commandId": command_id,
        "agentId": agent_id,
        "status": "running",
        "timestamp": now(),
    })
    .to_string()
}

pub(super) fn ping() -> String {
    json!({"type": "heartbeat:ping", "timestamp": now()}).to_string()
}

pub(super) fn pong() -> String {
    json!({"type": "heartbeat:pong", "timestamp": now()}).to_string()
}

pub(super) fn stopped(stop_id: &str) -> String {
    json!({"type": "system:emergency-confirmed", "stopId": stop_id, "timestamp": now()}).to_string()
}

pub(super) fn refresh(token: &str) -> String {
    json!({"type": "auth:refresh-token", "token": token, "timestamp": now()}).to_string()
}

/// How a command ended; `is_partial` where output is missing. The gateway names the message when it has stored that.
pub(super) fn complete(
    command_id: &str,
    agent_id: &str,
    ending: &Ending,
    is_partial: bool,
) -> String {
    let streams: Vec<Value> = ending
        .streams
        .iter()
        .map(|sum| {
            let mut stream = json!({"stream": name_of(sum.stream), "bytes": sum.bytes});
            if let Some(sha256) = &sum.sha256 {
                stream["sha256"] = json!(sha256);
            }
            stream
        })
        .collect();
    let mut message = json!({
        "type": "command:complete",
        "commandId": command_id,
        "agentId": agent_id,
        "status": match ending.outcome {
            Outcome::Completed => "completed",
            Outcome::Failed => "failed",
            Outcome::Interrupted => "interrupted",
        },
        "incomplete": is_partial,
        "streams": streams,
        "requestId": end_of(command_id),
        "timestamp": now(),
    });
    if let Some(code) = ending.exit_code {
        message["exitCode"] = json!(code);
    }
    if let Some(signal) = &ending.signal {
        message["signal"] = json!(signal);
    }
    if let Some(duration) = ending.duration {
        message["duration"] = json!(millis(duration));
    }
    if let Some(reason) = &ending.reason {
        message["reason"] = json!(cut(reason));
    }
    if let Some(usage) = &ending.usage {
        message["usage"] = json!({
            "cpuTime": millis(usage.cpu),
            "peakMemory": usage.peak_memory,
        });
    }
    message.to_string()
}

/// What names the message with the end of a command.
pub(super) fn end_of(command_id: &str) -> String {
    format!("{END}{command_id}")
}

/// The command whose end was named.
pub(super) fn ended_by(request_id: &str) -> Option<&str> {
    request_id.strip_prefix(END)
}

/// A part of what a command has written to one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) stream: Stream,
    pub(super) offset: u64,
    pub(super) bytes: Vec<u8>,
    pub(super) at: SystemTime,
    /// Whether what is missing in front of it is lost for good.
    pub(super) after_loss: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    agent_id: &'a str,
    command_id: &'a str,
    output: Output<'a>,
    offset: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    after_loss: bool,
    request_id: &'a str,
    timestamp: Timestamp,
}

#[derive(Serialize)]
struct Output<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    content: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    raw: Option<String>,
    timestamp: Timestamp,
}

/// Output as a message, compressed if that is wanted and worth it.
pub(super) fn output(command_id: &str, agent_id: &str, part: &Part, compress: bool) -> String {
    let (content, raw) = match std::str::from_utf8(&part.bytes) {
        Ok(text) if length_as_json(text) <= MAX_TEXT_BYTES => (Cow::Borrowed(text), None),
        Ok(_) => (Cow::Borrowed(""), Some(STANDARD.encode(&part.bytes))),
        Err(_) => {
            let text = String::from_utf8_lossy(&part.bytes);
            let is_short = length_as_json(&text) <= MAX_TEXT_BYTES / 2;
            let text = if is_short { text } else { Cow::Borrowed("") };
            (text, Some(STANDARD.encode(&part.bytes)))
        }
    };
    let message = Written {
        kind: "terminal:output",
        agent_id,
        command_id,
        output: Output {
            kind: name_of(part.stream),
            content,
            raw,
            timestamp: at(part.at),
        },
        offset: part.offset,
        after_loss: part.after_loss,
        request_id: OUTPUT,
        timestamp: now(),
    };
    // All of it can be written as JSON.
    let text = serde_json::to_string(&message).unwrap_or_default();
    if compress && text.len() > WORTH_BYTES {
        compressed(&text)
    } else {
        text
    }
}

fn compressed(text: &str) -> String {
    let mut writer = GzEncoder::new(Vec::new(), Compression::fast());
    let compressed = writer
        .write_all(text.as_bytes())
        .and_then(|()| writer.finish());
    // Memory can be written to.
    let compressed = compressed.unwrap_or_default();
    json!({
        "type": "compressed",
        "algorithm": "gzip",
        "originalType": "terminal:output",
        "originalSize": text.len(),
        "compressedSize": compressed.len(),
        "data": STANDARD.encode(&compressed),
        "timestamp": now(),
    })
    .to_string()
}

/// How long a text is in JSON, at most.
fn length_as_json(text: &str) -> usize {
    text.bytes()
        .map(|byte| match byte {
            b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
            0..0x20 => 6,
            _ => 1,
        })
        .sum()
}

/// What a stream is called on the wire.
pub(super) const fn name_of(stream: Stream) -> &'static str {
    match stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
    }
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn cut(text: &str) -> &str {
    let mut end = text.len().min(MAX_REASON_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn now() -> Timestamp {
    at(SystemTime::now())
}

fn at(time: SystemTime) -> Timestamp {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    let millis = i64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(i64::MAX);
    let epoch = || Timestamp::from_unix_millis(0).expect("the epoch is a time");
    Timestamp::from_unix_millis(millis).unwrap_or_else(epoch)
}

#[cfg(test)]
mod tests {
    use flate2::read::GzDecoder;
    use signalbox_protocol::frame::fleet::{ClientFrame, TerminalOutput};
    use std::io::Read as _;
    use std::time::Duration;

    use super::*;
    use crate::output::StreamSum;

    const LIMIT: usize = 1024 * 1024;

    fn part(bytes: Vec<u8>) -> Part {
        Part {
            stream: Stream::Stdout,
            offset: 5,
            bytes,
            at: SystemTime::UNIX_EPOCH,
            after_loss: false,
        }
    }

    fn read(text: &str) -> TerminalOutput {
        match ClientFrame::decode(text).unwrap() {
            ClientFrame::TerminalOutput(output) => output,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn output_arrives_byte_for_byte_and_fits() {
        let all: Vec<u8> = (0..=255).cycle().take(256 * 1024).collect();
        let escapes = b"\x1b".repeat(256 * 1024);
        let text = "naïve\n".repeat(40_000).into_bytes();
        for bytes in [all, escapes, text.clone(), b"\xff".to_vec()] {
            let message = output("c", "a", &part(bytes.clone()), false);
            assert!(message.len() < LIMIT, "{}", message.len());
            let read = read(&message);
            assert_eq!((read.offset, read.stream), (Some(5), "stdout"));
            let raw = read.raw.map(|raw| STANDARD.decode(raw).unwrap());
            assert_eq!(raw.unwrap_or(read.content.into_bytes()), bytes);
        }
        let packed = output("c", "a", &part(text), true);
        let Ok(ClientFrame::Compressed(packed)) = ClientFrame::decode(&packed) else {
            panic!("it is compressed");
        };
        let data = STANDARD.decode(packed.data).unwrap();
        let mut inner = String::new();
        GzDecoder::new(data.as_slice())
            .read_to_string(&mut inner)
            .unwrap();
        assert_eq!(inner.len() as u64, packed.original_size);
        assert!(read(&inner).content.starts_with("naïve"));
    }

    #[test]
    fn an_end_says_all_that_is_known() {
        let ending = Ending {
            outcome: Outcome::Failed,
            exit_code: Some(137),
            signal: Some("SIGKILL".to_owned()),
            reason: Some("x".repeat(5_000)),
            started: None,
            duration: Some(Duration::from_millis(1_234)),
            streams: vec![StreamSum {
                stream: Stream::Stderr,
                bytes: 9,
                sha256: None,
                lost: 0,
            }],
            output_incomplete: true,
            usage: None,
            left_behind: 0,
        };
        let message = complete("cmd-1", "a", &ending, true);
        let Ok(ClientFrame::CommandComplete(report)) = ClientFrame::decode(&message) else {
            panic!("{message}");
        };
        assert_eq!(
            (report.exit_code, report.duration),
            (Some(137), Some(1_234))
        );
        assert_eq!(report.status, Some("failed"));
        assert!(report.incomplete && report.reason.is_some());
        assert_eq!(ended_by(&end_of("cmd-1")), Some("cmd-1"));
    }

    #[test]
    fn what_an_agent_says_is_understood() {
        let who = Introduction {
            agent_id: "a",
            agent_type: "runner",
            concurrency: 2,
            running: vec!["c-1".to_owned()],
            ended: Vec::new(),
        };
        for message in [
            connect(&who),
            disconnect("a"),
            status("a", true, &json!({"cpuUsage": 1})),
            running("c", "a"),
            ping(),
            pong(),
            stopped("s"),
            refresh("t"),
        ] {
            assert!(ClientFrame::decode(&message).is_ok(), "{message}");
        }
    }
}
