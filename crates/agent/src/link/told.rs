//! What a gateway tells an agent.

use serde::Deserialize;

/// A message of the gateway. What it does not need is not read; types that are
/// not known are no error.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "type", rename_all_fields = "camelCase")]
pub(crate) enum Told {
    /// The connection is the agent's.
    #[serde(rename = "agent:connected")]
    Connected {
        /// How often a sign of life is expected, in milliseconds.
        heartbeat_interval: u64,
        /// What is stored of the output of its commands.
        #[serde(default)]
        offsets: Vec<Stored>,
        /// Commands that were given up: to be ended, and not reported.
        #[serde(default)]
        abandoned: Vec<String>,
    },
    /// Run this.
    #[serde(rename = "command:execute")]
    Execute {
        /// The command.
        command_id: String,
        /// What to run.
        command: String,
        /// What is appended to it.
        #[serde(default)]
        args: Vec<String>,
    },
    /// End this.
    #[serde(rename = "command:interrupt")]
    Interrupt {
        /// The command.
        command_id: String,
    },
    /// So much is stored.
    #[serde(rename = "terminal:ack")]
    Ack(Stored),
    /// Somebody types.
    #[serde(rename = "terminal:input")]
    Input {
        /// The command.
        command_id: String,
        /// The text.
        content: String,
        /// The exact bytes in base64, where they are no text.
        raw: Option<String>,
    },
    /// The terminal has another size.
    #[serde(rename = "terminal:resize")]
    Resize {
        /// The command.
        command_id: String,
        /// Its width.
        columns: u32,
        /// Its height.
        rows: u32,
    },
    /// Answer this.
    #[serde(rename = "heartbeat:ping")]
    Ping,
    /// All agents stop.
    #[serde(rename = "system:emergency-stop")]
    Stop {
        /// Why.
        #[serde(default)]
        reason: String,
        /// Names the stop.
        stop_id: Option<String>,
    },
    /// The token is about to expire.
    #[serde(rename = "auth:refresh-needed")]
    RefreshNeeded,
    /// The connection goes on with the fresh token.
    #[serde(rename = "auth:refresh-success")]
    RefreshSuccess,
    /// The connection stays with the token that it has.
    #[serde(rename = "auth:refresh-failed")]
    RefreshFailed {
        /// Why.
        error: String,
    },
    /// The connection, or what it said, is refused.
    #[serde(rename = "connection:error")]
    Refused(Refusal),
    /// What was said is not as it must be.
    #[serde(rename = "validation:error")]
    Invalid {
        /// What is wrong.
        error: String,
        /// That of the message.
        request_id: Option<String>,
    },
    /// There is no such command.
    #[serde(rename = "command:error")]
    NoCommand {
        /// The command.
        command_id: Option<String>,
        /// Why, for programs.
        code: String,
    },
    /// What was asked is done.
    #[serde(rename = "request:done")]
    Done {
        /// That of the message.
        request_id: String,
    },
    /// Anything else.
    #[serde(other)]
    Other,
}

/// How much of a stream is stored.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Stored {
    /// The command.
    pub(crate) command_id: String,
    /// The stream.
    pub(crate) stream: String,
    /// The offset up to which everything is stored.
    pub(crate) offset: u64,
}

/// Why the connection, or a message, is refused.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Refusal {
    /// For people.
    pub(crate) error: String,
    /// For programs.
    pub(crate) code: String,
    /// When to try again, in seconds.
    pub(crate) retry_after: Option<u64>,
    /// With RATE_LIMIT: of which limits.
    pub(crate) limits: Option<Limits>,
    /// That of the message.
    pub(crate) request_id: Option<String>,
}

/// The limits of which one is exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Limits {
    /// In a minute.
    pub(crate) per_minute: Used,
    /// In an hour.
    pub(crate) per_hour: Option<Used>,
}

/// One limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Used {
    /// How many are served; 0 = all.
    pub(crate) limit: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Told {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn messages_are_read_as_gateways_write_them() {
        let connected = read(
            r#"{"type":"agent:connected","agentId":"a","heartbeatInterval":30000,"offsets":[{"commandId":"c","stream":"stdout","offset":7}],"timestamp":"t"}"#,
        );
        let offsets = vec![Stored {
            command_id: "c".to_owned(),
            stream: "stdout".to_owned(),
            offset: 7,
        }];
        let expected = Told::Connected {
            heartbeat_interval: 30_000,
            offsets: offsets.clone(),
            abandoned: Vec::new(),
        };
        assert_eq!(connected, expected);
        let ack = read(
            r#"{"type":"terminal:ack","commandId":"c","stream":"stdout","offset":7,"timestamp":"t"}"#,
        );
        assert_eq!(ack, Told::Ack(offsets[0].clone()));
        let refused = read(
            r#"{"type":"connection:error","error":"e","code":"RATE_LIMIT","retryAfter":60,"limits":{"perMinute":{"used":101,"limit":100}},"timestamp":"t"}"#,
        );
        let Told::Refused(refusal) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(refusal.retry_after, Some(60));
        assert_eq!(refusal.limits.unwrap().per_minute.limit, 100);
        assert_eq!(read(r#"{"type":"agent:list","agents":[]}"#), Told::Other);
        assert_eq!(
            read(r#"{"type":"heartbeat:ping","timestamp":"t"}"#),
            Told::Ping
        );
    }
}
