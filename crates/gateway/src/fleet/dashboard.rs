//! What dashboards ask for, and what they are answered.

use std::rc::Rc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use signalbox_identity::Permission;
use signalbox_protocol::ErrorCode;
use signalbox_protocol::fleet::{Shard as FleetShard, command_id};
use signalbox_protocol::frame::fields::Complaint;
use signalbox_protocol::frame::fleet::server::ServerFrame;
use signalbox_protocol::frame::fleet::{CommandRequest as Asked, DashboardConnect};
use signalbox_protocol::wire::command_reply::Outcome;
use signalbox_protocol::wire::command_request::Verb;
use signalbox_protocol::wire::{
    ClearTerminal, CommandError, CommandPriority, CommandRefusal, CommandRequest, EmergencyRequest,
    EmergencyResume, EmergencyStop, InterruptCommand, RunCommand, TerminalInput, TerminalResize,
    emergency_reply, emergency_request,
};
use time::OffsetDateTime;
use tracing::info;
use uuid::Uuid;

use super::following::follow;
use super::frames::{now, send, send_urgent};
use super::pack::Packing;
use super::session::Session;
use super::standing::Part;
use super::watcher::{Ask, Join};
use crate::session::AUDIT;
use crate::shard::Shard;

/// How long a request may wait for its answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long an interruption after a time-out may take; the relay gives the
/// command up by itself where it never came.
const AFTERMATH: Duration = Duration::from_secs(10);

/// What is asked of agents or commands is not done.
struct Denied {
    code: ErrorCode,
    message: String,
    agent_id: Option<String>,
    command_id: Option<String>,
}

/// A dashboard's place on the stage.
pub(super) struct Place {
    shard: Rc<Shard>,
    place: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shard.stage.leave(self.place);
        // A watcher that is not told keeps watching, which does no harm.
        self.shard.shared.fleet.asks().try_send(Ask::Leave).ok();
    }
}

impl Session {
    /// Takes the connection as a dashboard's.
    pub(super) async fn connect_dashboard(
        &mut self,
        asked: DashboardConnect,
        request_id: Option<String>,
    ) -> Result<(), Complaint> {
        if self.standing.part() != Part::Stranger {
            let message = "the connection has a role already";
            return Err(Complaint::plain(ErrorCode::Forbidden, message));
        }
        self.require(Permission::ReadAgents)
            .map_err(|denied| Complaint::plain(denied.code, denied.message))?;
        self.standing.play(Part::Dashboard);
        self.identified();
        info!(target: AUDIT, session = %self.name, dashboard = ?asked.dashboard_id, "dashboard");
        self.wants_heartbeat = asked.capabilities.iter().any(|word| word == "heartbeat");
        let stage = &self.shard.stage;
        let (place, serial, news) =
            stage.enter(self.outbound.clone(), Packing::of(&asked.capabilities));
        let held = Place {
            shard: Rc::clone(&self.shard),
            place,
        };
        let join = Join {
            shard: self.shard.index,
            member: place,
            serial,
            resume: asked.resume_from,
            request_id,
        };
        let fleet = &self.shard.shared.fleet;
        if fleet.asks().send(Ask::Join(join)).await.is_err() {
            let message = "the fleet is not watched, return";
            return Err(Complaint::plain(ErrorCode::Unavailable, message));
        }
        let work = follow(Rc::clone(&self.shard), self.outbound.clone(), place, news);
        self.following = Some(Box::pin(async move {
            let _held = held;
            work.await;
        }));
        Ok(())
    }

    fn require(&self, permission: Permission) -> Result<(), Denied> {
        let principal = self.standing.principal();
        if principal.is_some_and(|principal| principal.permissions.contains(permission)) {
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

    /// Asks for a command.
    pub(super) async fn request(&self, asked: Asked, request_id: Option<&str>) {
        match self.run(asked).await {
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
            session = %self.name,
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

    pub(super) async fn interrupt(&self, command_id: String, request_id: Option<&str>) {
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
        request_id: Option<&str>,
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
        content: String,
        raw: Option<String>,
        request_id: Option<&str>,
    ) -> Result<(), Complaint> {
        let data = bytes(content, raw, "raw")?;
        let verb = Verb::Input(TerminalInput {
            command_id: command_id.clone(),
            data: data.into(),
        });
        self.about_command(command_id, verb, true, request_id).await;
        Ok(())
    }

    async fn about_command(
        &self,
        command_id: String,
        verb: Verb,
        once: bool,
        request_id: Option<&str>,
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

    pub(super) async fn clear(&self, agent_id: String, request_id: Option<&str>) {
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

    /// Stops all agents, or lets them go on.
    pub(super) async fn emergency(&self, stop: Option<String>, request_id: Option<&str>) {
        let outcome = match self.require(Permission::EmergencyStop) {
            Err(denied) => Err(denied),
            Ok(()) => {
                let by = self.by();
                info!(target: AUDIT, session = %self.name, subject = %by, stop = stop.is_some(), "emergency stop");
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
                    Some(emergency_reply::Outcome::State(_)) => Ok(()),
                    Some(emergency_reply::Outcome::Refusal(refusal)) => Err(refused(refusal)),
                    None => Err(timed_out()),
                }
            }
        };
        self.conclude(outcome, request_id);
    }

    fn conclude(&self, outcome: Result<(), Denied>, request_id: Option<&str>) {
        match (outcome, request_id) {
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

/// The bytes of a text, or the exact ones that came beside it.
///
/// # Errors
/// Names `field` when it is no base64.
pub(super) fn bytes(
    content: String,
    raw: Option<String>,
    field: &str,
) -> Result<Vec<u8>, Complaint> {
    match raw {
        None => Ok(content.into_bytes()),
        Some(raw) => STANDARD
            .decode(raw)
            .map_err(|_| Complaint::field(field, "base64")),
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
