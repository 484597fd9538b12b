//! Settings of single connections and of their number.

use std::time::Duration;

use clap::Args;
use signalbox_transport::{HttpLimits, OutboundLimits, WebSocketOptions};

use super::{InvalidSetting, seconds};
use crate::admission::AdmissionLimits;

/// What one client, one address and all of them together may take.
#[derive(Args, Clone, Debug)]
pub struct ConnectionArgs {
    /// Connections at once; never more than the limit on open files allows
    #[arg(long, env = "SIGNALBOX_MAX_CONNECTIONS", default_value_t = 100_000)]
    pub max_connections: usize,
    /// New connections per second from one address, 0 = any number; an IPv6 address counts by its /64
    #[arg(long, env = "SIGNALBOX_CONNECT_RATE", default_value_t = 200)]
    pub connect_rate: u32,
    /// Connections from one address that have not authenticated yet, 0 = any number
    #[arg(
        long,
        env = "SIGNALBOX_MAX_UNAUTHENTICATED_PER_ADDRESS",
        default_value_t = 1_000
    )]
    pub max_unauthenticated_per_address: u32,
    /// Seconds that a request's head, and again its body, may take to arrive
    #[arg(long, env = "SIGNALBOX_HANDSHAKE_TIMEOUT", default_value_t = 10.0)]
    pub handshake_timeout: f64,
    /// Seconds after which a connection serves no further plain HTTP request; one that is stuck is ended after as long again
    #[arg(long, env = "SIGNALBOX_HTTP_LIFETIME", default_value_t = 60.0)]
    pub http_lifetime: f64,
    /// Bytes of the longest message accepted from a client
    #[arg(long, env = "SIGNALBOX_MAX_MESSAGE_BYTES", default_value_t = 1_048_576)]
    pub max_message_bytes: usize,
    /// Frames that may wait for a slow reader; one more and it is sent away
    #[arg(long, env = "SIGNALBOX_QUEUE_FRAMES", default_value_t = 1_024)]
    pub queue_frames: usize,
    /// Bytes that may wait for a slow reader; more and it is sent away
    #[arg(long, env = "SIGNALBOX_QUEUE_BYTES", default_value_t = 1_048_576)]
    pub queue_bytes: usize,
    /// Seconds between the close of a connection and its reset, if the client takes or answers nothing
    #[arg(long, env = "SIGNALBOX_CLOSE_GRACE", default_value_t = 5.0)]
    pub close_grace: f64,
    /// Bytes that the system may hold of what a client has not taken; Linux allots the double
    #[arg(long, env = "SIGNALBOX_SEND_BUFFER_BYTES", default_value_t = 262_144)]
    pub send_buffer_bytes: usize,
}

impl ConnectionArgs {
    /// Who may connect.
    pub(super) fn admission(&self) -> Result<AdmissionLimits, InvalidSetting> {
        Ok(AdmissionLimits {
            max_connections: positive("--max-connections", self.max_connections)?,
            connect_rate: self.connect_rate,
            max_unauthenticated: self.max_unauthenticated_per_address,
        })
    }

    /// Limits before the upgrade.
    pub(super) fn http(&self) -> Result<HttpLimits, InvalidSetting> {
        Ok(HttpLimits {
            header_read_timeout: lasting("--handshake-timeout", self.handshake_timeout)?,
            ..HttpLimits::default()
        })
    }

    /// How long a connection may go without an upgrade.
    pub(super) fn http_lifetime(&self) -> Result<Duration, InvalidSetting> {
        lasting("--http-lifetime", self.http_lifetime)
    }

    /// Limits after the upgrade.
    pub(super) fn websocket(&self, silence: Duration) -> Result<WebSocketOptions, InvalidSetting> {
        Ok(WebSocketOptions {
            max_message_bytes: positive("--max-message-bytes", self.max_message_bytes)?,
            silence,
            send_buffer_bytes: positive("--send-buffer-bytes", self.send_buffer_bytes)?,
            outbound: OutboundLimits {
                queue_frames: positive("--queue-frames", self.queue_frames)?,
                queue_bytes: positive("--queue-bytes", self.queue_bytes)?,
                close_grace: seconds("--close-grace", self.close_grace)?,
            },
        })
    }
}

fn positive(setting: &'static str, value: usize) -> Result<usize, InvalidSetting> {
    if value == 0 {
        let expected = "a number above 0";
        return Err(InvalidSetting { setting, expected });
    }
    Ok(value)
}

fn lasting(setting: &'static str, value: f64) -> Result<Duration, InvalidSetting> {
    let duration = seconds(setting, value)?;
    if duration.is_zero() {
        let expected = "seconds, more than none";
        return Err(InvalidSetting { setting, expected });
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        connection: ConnectionArgs,
    }

    fn parse(arguments: &[&str]) -> ConnectionArgs {
        let arguments = std::iter::once("gateway").chain(arguments.iter().copied());
        Cli::try_parse_from(arguments).unwrap().connection
    }

    #[test]
    fn defaults_are_those_of_the_transport() {
        let defaults = parse(&[]);
        let silence = WebSocketOptions::default().silence;
        assert_eq!(defaults.websocket(silence), Ok(WebSocketOptions::default()));
        assert_eq!(defaults.http(), Ok(HttpLimits::default()));
        assert_eq!(defaults.admission().unwrap().connect_rate, 200);
    }

    #[test]
    fn limits_that_would_let_nobody_in_are_refused() {
        let setting = |arguments: &[&str]| {
            let args = parse(arguments);
            let all = args
                .admission()
                .and(args.http())
                .and(args.http_lifetime())
                .and(args.websocket(Duration::from_secs(1)));
            all.err().map(|invalid| invalid.setting)
        };
        for flag in [
            "--max-connections",
            "--handshake-timeout",
            "--http-lifetime",
            "--max-message-bytes",
            "--queue-frames",
            "--queue-bytes",
            "--send-buffer-bytes",
        ] {
            assert_eq!(setting(&[flag, "0"]), Some(flag));
            assert_eq!(setting(&[flag, "7"]), None, "{flag}");
        }
        let off = [
            "--connect-rate=0",
            "--max-unauthenticated-per-address=0",
            "--close-grace=0",
        ];
        assert_eq!(setting(&off), None);
    }
}
