//! What relays are asked for in a dashboard's name, and what it is answered.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use signalbox_identity::Permission;
use signalbox_protocol::ErrorCode;
use signalbox_protocol::fleet::{Shard as FleetShard, command_id};
use signalbox_protocol::frame::fleet::CommandRequest as Asked;
use signalbox_protocol::frame::fleet::server::ServerFrame;
use signalbox_protocol::wire::command_reply::Outcome;
use signalbox_protocol::wire::command_request::Verb;
use signalbox_protocol::wire::{
    ClearTerminal, CommandError, CommandPriority, CommandRefusal, CommandRequest, EmergencyRequest,
    EmergencyResume, EmergencyStop, InterruptCommand, RunCommand, TerminalInput, TerminalResize,
    emergency_reply, emergency_request,
};
use signalbox_transport::Outbound;
use time::OffsetDateTime;
use tracing::info;
use uuid::Uuid;

use super::frames::{now, send, send_urgent};
use super::standing::Standing;
use crate::session::AUDIT;
use crate::shard::Shard;

/// How long a request may wait for its answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long an interruption after a time-out may take; the relay gives the
/// command up by itself where it never came.
const AFTERMATH: Duration = Duration::from_secs(10);

/// What is asked of agents or commands is not done.
pub(super) struct Denied {
    pub(super) code: ErrorCode,
    pub(super) message: String,
    agent_id: Option<String>,
    command_id: Option<String>,
}

/// Asks relays in a dashboard's name, whatever its session does meanwhile.
pub(super) struct Asker {
    session: String,
    shard: Rc<Shard>,
    outbound: Outbound,
    standing: Rc<Standing>,
    /// Errands that pressed, up to the last stop among them.
    stopped: Cell<u64>,
}

impl Asker {
    pub(super) fn new(
        session: String,
        shard: Rc<Shard>,
        outbound: Outbound,
        standing: Rc<Standing>,
    ) -> Self {
        Self {
            session,
            shard,
            outbound,
            standing,
            stopped: Cell::new(0),
        }
    }

    pub(super) fn require(&self, permission: Permission) -> Result<(), Denied> {
        if self.standing.permits(permission) {
            return Ok(());
        }
        Err(Denied {
            code: ErrorCode::Forbidden,
            message: format!("this needs permission {permission}"),
            agent_id: None,
            command_id: None,
        })
    }

    fn by(&self) -> String {
        let principal = self.standing.principal();
        principal.map_or_else(String::new, |principal| principal.subject.to_string())
    }

    /// Asks for a command, unless a stop has come behind the first so many errands
    /// that pressed: it ends what waits, and this has waited here.
    pub(super) async fn request(&self, asked: Asked, pressed: u64, request_id: Option<String>) {
        let request_id = request_id.as_deref();
        let outcome = match self.stopped.get() > pressed {
            true => Err(stopped(asked.agent_id)),
            false => self.run(asked).await,
        };
        match outcome {
            Ok((command_id, agent_id, position, estimated_wait)) => send(
                &self.outbound,
                &ServerFrame::CommandQueued {
                    command_id: &command_id,
                    agent_id: &agent_id,
                    position,
                    estimated_wait,
                    request_id,
                    timestamp: now(),
                },
            ),
            Err(denied) => self.deny(&denied, request_id),
        }
    }

    async fn run(&self, asked: Asked) -> Result<(String, String, u32, u64), Denied> {
        let agent_id = asked.agent_id.clone();
        let with_agent = |denied: Denied| Denied {
            agent_id: denied.agent_id.or_else(|| Some(agent_id.clone())),
            ..denied
        };
        self.require(Permission::RunCommands).map_err(with_agent)?;
        let shard = FleetShard::of_agent(&asked.agent_id);
        let nonce = Uuid::new_v4().simple().to_string();
        let deadline = OffsetDateTime::now_utc() + PATIENCE;
        let expires_at_ms = u64::try_from(deadline.unix_timestamp_nanos() / 1_000_000);
        let has_key = asked.idempotency_key.is_some();
        let by = self.by();
        info!(
            target: AUDIT,
            session = %self.session,
            subject = %by,
            agent = %asked.agent_id,
            "command requested"
        );
        let request = CommandRequest {
            by: by.clone(),
            verb: Some(Verb::Run(RunCommand {
                agent_id: asked.agent_id,
                command: asked.command,
                args: asked.args,
                priority: match asked.priority {
                    Some("high") => CommandPriority::High,
                    Some("low") => CommandPriority::Low,
                    _ => CommandPriority::Normal,
                } as i32,
                idempotency_key: asked.idempotency_key.unwrap_or_default(),
                queue_if_offline: asked.queue_if_offline,
                nonce: nonce.clone(),
                expires_at_ms: expires_at_ms.unwrap_or(0),
            })),
        };
        let relays = self.shard.shared.fleet.relays();
        match relays.command(shard, &request, PATIENCE).await {
            Some(Outcome::Accepted(accepted)) => Ok((
                accepted.command_id,
                accepted.agent_id,
                accepted.position,
                accepted.estimated_wait_ms,
            )),
            Some(Outcome::Refusal(refusal)) => Err(with_agent(refused(refusal))),
            Some(Outcome::Done(_)) | None => {
                // The answer alone may have been lost: nothing may run that
                // nobody waits for. A key is told to run once, whoever asks.
                if !has_key && let Some(command_id) = command_id(shard, &nonce) {
                    let interrupt = CommandRequest {
                        by,
                        verb: Some(Verb::Interrupt(InterruptCommand { command_id })),
                    };
                    let relays = relays.clone();
                    self.shard.shared.fleet.aftermath(async move {
                        relays.command(shard, &interrupt, AFTERMATH).await;
                    });
                }
                Err(with_agent(timed_out()))
            }
        }
    }

    pub(super) async fn interrupt(&self, command_id: String, request_id: Option<String>) {
        let verb = Verb::Interrupt(InterruptCommand {
            command_id: command_id.clone(),
        });
        self.about_command(command_id, verb, false, request_id)
            .await;
    }

    pub(super) async fn resize(
        &self,
        command_id: String,
        columns: u32,
        rows: u32,
        request_id: Option<String>,
    ) {
        let verb = Verb::Resize(TerminalResize {
            command_id: command_id.clone(),
            columns,
            rows,
        });
        self.about_command(command_id, verb, false, request_id)
            .await;
    }

    pub(super) async fn input(
        &self,
        command_id: String,
        data: Vec<u8>,
        request_id: Option<String>,
    ) {
        let verb = Verb::Input(TerminalInput {
            command_id: command_id.clone(),
            data: data.into(),
        });
        self.about_command(command_id, verb, true, request_id).await;
    }

    async fn about_command(
        &self,
        command_id: String,
        verb: Verb,
        once: bool,
        request_id: Option<String>,
    ) {
        let outcome = match (
            self.require(Permission::RunCommands),
            FleetShard::of_command(&command_id),
        ) {
            (Err(denied), _) => Err(denied),
            (Ok(()), None) => Err(no_command()),
            (Ok(()), Some(shard)) => self.verb(shard, verb, once).await,
        };
        self.conclude(
            outcome.map_err(|denied| Denied {
                command_id: Some(command_id),
                ..denied
            }),
            request_id,
        );
    }

    pub(super) async fn clear(&self, agent_id: String, request_id: Option<String>) {
        let verb = Verb::Clear(ClearTerminal {
            agent_id: agent_id.clone(),
        });
        let outcome = match self.require(Permission::RunCommands) {
            Ok(()) => {
                self.verb(FleetShard::of_agent(&agent_id), verb, false)
                    .await
            }
            Err(denied) => Err(denied),
        };
        self.conclude(
            outcome.map_err(|denied| Denied {
                agent_id: Some(agent_id),
                ..denied
            }),
            request_id,
        );
    }

    async fn verb(&self, shard: FleetShard, verb: Verb, once: bool) -> Result<(), Denied> {
        let request = CommandRequest {
            by: self.by(),
            verb: Some(verb),
        };
        let relays = self.shard.shared.fleet.relays();
        let outcome = if once {
            relays.command_once(shard, &request, PATIENCE).await
        } else {
            relays.command(shard, &request, PATIENCE).await
        };
        match outcome {
            Some(Outcome::Done(_) | Outcome::Accepted(_)) => Ok(()),
            Some(Outcome::Refusal(refusal)) => Err(refused(refusal)),
            None => Err(timed_out()),
        }
    }

    /// Stops all agents, or lets them go on, behind so many errands that pressed.
    pub(super) async fn emergency(
        &self,
        stop: Option<String>,
        pressed: u64,
        request_id: Option<String>,
    ) {
        let outcome = match self.require(Permission::EmergencyStop) {
            Err(denied) => Err(denied),
            Ok(()) => {
                let by = self.by();
                info!(target: AUDIT, session = %self.session, subject = %by, stop = stop.is_some(), "emergency stop");
                let verb = match stop {
                    Some(reason) => emergency_request::Verb::Stop(EmergencyStop { reason }),
                    None => emergency_request::Verb::Resume(EmergencyResume {}),
                };
                let request = EmergencyRequest {
                    by,
                    verb: Some(verb),
                };
                let relays = self.shard.shared.fleet.relays();
                let reply = relays.emergency(&request, PATIENCE).await;
                match reply.and_then(|reply| reply.outcome) {
                    Some(emergency_reply::Outcome::State(state)) => {
                        if state.active {
                            self.stopped.set(pressed + 1);
                        }
                        Ok(())
                    }
                    Some(emergency_reply::Outcome::Refusal(refusal)) => Err(refused(refusal)),
                    None => Err(timed_out()),
                }
            }
        };
        self.conclude(outcome, request_id);
    }

    fn conclude(&self, outcome: Result<(), Denied>, request_id: Option<String>) {
        match (outcome, request_id.as_deref()) {
            (Ok(()), Some(request_id)) => send(
                &self.outbound,
                &ServerFrame::RequestDone {
                    request_id,
                    timestamp: now(),
                },
            ),
            (Ok(()), None) => {}
            (Err(denied), request_id) => self.deny(&denied, request_id),
        }
    }

    fn deny(&self, denied: &Denied, request_id: Option<&str>) {
        send_urgent(
            &self.outbound,
            &ServerFrame::CommandError {
                error: &denied.message,
                code: denied.code,
                agent_id: denied.agent_id.as_deref(),
                command_id: denied.command_id.as_deref(),
                request_id,
                timestamp: now(),
            },
        );
    }
}

fn timed_out() -> Denied {
    Denied {
        code: ErrorCode::Timeout,
        message: "no answer in time, nothing was executed".to_owned(),
        agent_id: None,
        command_id: None,
    }
}

fn stopped(agent_id: String) -> Denied {
    Denied {
        code: ErrorCode::EmergencyStop,
        message: "an emergency stop came first".to_owned(),
        agent_id: Some(agent_id),
        command_id: None,
    }
}

fn no_command() -> Denied {
    Denied {
        code: ErrorCode::CommandNotFound,
        message: "there is no such command, or it has ended".to_owned(),
        agent_id: None,
        command_id: None,
    }
}

fn refused(refusal: CommandRefusal) -> Denied {
    let code = match refusal.code() {
        CommandError::AgentNotFound => ErrorCode::AgentNotFound,
        CommandError::AgentOffline => ErrorCode::AgentOffline,
        CommandError::QueueFull => ErrorCode::QueueFull,
        CommandError::EmergencyStop => ErrorCode::EmergencyStop,
        CommandError::CommandNotFound => ErrorCode::CommandNotFound,
        CommandError::Invalid => ErrorCode::InvalidMessage,
        CommandError::Unavailable => ErrorCode::Unavailable,
        CommandError::Unspecified => ErrorCode::Internal,
    };
    Denied {
        code,
        message: refusal.message,
        agent_id: (!refusal.agent_id.is_empty()).then_some(refusal.agent_id),
        command_id: None,
    }
}
