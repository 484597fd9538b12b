//! Settings of dialect `fleet`.

use std::time::Duration;

use clap::Args;

use super::{InvalidSetting, seconds};

/// How dashboards and agents are served.
#[derive(Args, Clone, Debug)]
// The relay's settings have a group of the struct's name.
#[group(id = "fleet_at_the_gateway")]
pub struct FleetArgs {
    /// Seconds between the signs of life that dashboards and agents give; a connection that is silent for three of them is ended
    #[arg(long, env = "SIGNALBOX_FLEET_HEARTBEAT", default_value_t = 30.0)]
    pub fleet_heartbeat: f64,
    /// Seconds in which a connection must say whether it is a dashboard or an agent
    #[arg(long, env = "SIGNALBOX_FLEET_IDENTIFICATION", default_value_t = 300.0)]
    pub fleet_identification: f64,
    /// Messages of a connection in a minute, 0 = any number
    #[arg(
        long,
        env = "SIGNALBOX_FLEET_MESSAGES_PER_MINUTE",
        default_value_t = 100
    )]
    pub fleet_messages_per_minute: u32,
    /// Messages of a connection in an hour, 0 = any number
    #[arg(
        long,
        env = "SIGNALBOX_FLEET_MESSAGES_PER_HOUR",
        default_value_t = 1_000
    )]
    pub fleet_messages_per_hour: u32,
    /// Messages of a connection in a second, 0 = any number
    #[arg(long, env = "SIGNALBOX_FLEET_BURST", default_value_t = 10)]
    pub fleet_burst: u32,
    /// Messages of all dashboards and agents in a minute, 0 = any number
    #[arg(long, env = "SIGNALBOX_FLEET_ALL_PER_MINUTE", default_value_t = 10_000)]
    pub fleet_all_per_minute: u32,
    /// Messages of all dashboards and agents in an hour, 0 = any number
    #[arg(long, env = "SIGNALBOX_FLEET_ALL_PER_HOUR", default_value_t = 100_000)]
    pub fleet_all_per_hour: u32,
    /// Commands that a connection may request in a minute, 0 = any number
    #[arg(
        long,
        env = "SIGNALBOX_FLEET_REQUESTS_PER_MINUTE",
        default_value_t = 10
    )]
    pub fleet_requests_per_minute: u32,
    /// Commands that a connection may request in an hour, 0 = any number
    #[arg(long, env = "SIGNALBOX_FLEET_REQUESTS_PER_HOUR", default_value_t = 100)]
    pub fleet_requests_per_hour: u32,
    /// Messages with output of a connection in a minute, 0 = any number
    #[arg(
        long,
        env = "SIGNALBOX_FLEET_OUTPUT_PER_MINUTE",
        default_value_t = 1_000
    )]
    pub fleet_output_per_minute: u32,
    /// Messages with output of a connection in an hour, 0 = any number
    #[arg(
        long,
        env = "SIGNALBOX_FLEET_OUTPUT_PER_HOUR",
        default_value_t = 10_000
    )]
    pub fleet_output_per_hour: u32,
    /// Heartbeats of a connection in a minute, 0 = any number
    #[arg(
        long,
        env = "SIGNALBOX_FLEET_HEARTBEATS_PER_MINUTE",
        default_value_t = 60
    )]
    pub fleet_heartbeats_per_minute: u32,
    /// Messages with input of a connection in a minute, 0 = any number
    #[arg(
        long,
        env = "SIGNALBOX_FLEET_INPUT_PER_MINUTE",
        default_value_t = 3_000
    )]
    pub fleet_input_per_minute: u32,
    /// Changes of a terminal's size by a connection in a minute, 0 = any number
    #[arg(long, env = "SIGNALBOX_FLEET_RESIZES_PER_MINUTE", default_value_t = 60)]
    pub fleet_resizes_per_minute: u32,
}

/// How dashboards and agents are served, validated.
#[derive(Clone, Copy, Debug)]
pub struct FleetOptions {
    /// How often dashboards and agents give a sign of life.
    pub heartbeat: Duration,
    /// How long a connection may stay without a role.
    pub identification: Duration,
    /// What a connection may send of messages without a limit of their own.
    pub connection: Rates,
    /// Those of all connections together.
    pub all: Rates,
    /// `command:request` of a connection.
    pub requests: Rates,
    /// `terminal:output` of a connection.
    pub output: Rates,
    /// `heartbeat:ping` of a connection.
    pub heartbeats: Rates,
    /// `terminal:input` of a connection.
    pub input: Rates,
    /// `terminal:resize` of a connection.
    pub resizes: Rates,
}

/// How many in which time; 0 = any number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// In a second.
    pub second: u32,
    /// In a minute.
    pub minute: u32,
    /// In an hour.
    pub hour: u32,
}

impl Rates {
    const fn new(minute: u32, hour: u32) -> Self {
        Self {
            second: 0,
            minute,
            hour,
        }
    }
}

impl FleetArgs {
    /// The settings, validated.
    pub(super) fn options(&self) -> Result<FleetOptions, InvalidSetting> {
        let heartbeat = seconds("--fleet-heartbeat", self.fleet_heartbeat)?;
        if heartbeat.is_zero() {
            return Err(InvalidSetting {
                setting: "--fleet-heartbeat",
                expected: "more than 0 seconds",
            });
        }
        Ok(FleetOptions {
            heartbeat,
            identification: seconds("--fleet-identification", self.fleet_identification)?,
            connection: Rates {
                second: self.fleet_burst,
                ..Rates::new(self.fleet_messages_per_minute, self.fleet_messages_per_hour)
            },
            all: Rates::new(self.fleet_all_per_minute, self.fleet_all_per_hour),
            requests: Rates::new(self.fleet_requests_per_minute, self.fleet_requests_per_hour),
            output: Rates::new(self.fleet_output_per_minute, self.fleet_output_per_hour),
            heartbeats: Rates::new(self.fleet_heartbeats_per_minute, 0),
            input: Rates::new(self.fleet_input_per_minute, 0),
            resizes: Rates::new(self.fleet_resizes_per_minute, 0),
        })
    }
}
