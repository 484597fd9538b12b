//! What dashboards say: one that comes in, and what is made of its requests.

use std::rc::Rc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use signalbox_identity::Permission;
use signalbox_protocol::ErrorCode;
use signalbox_protocol::frame::fields::Complaint;
use signalbox_protocol::frame::fleet::{ClientFrame, DashboardConnect};
use tracing::info;

use super::following::follow;
use super::pack::Packing;
use super::session::Session;
use super::standing::Part;
use super::watcher::{Ask, Join};
use crate::session::AUDIT;
use crate::shard::Shard;

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
        self.asker
            .require(Permission::ReadAgents)
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

    /// Serves what a dashboard says: what relays are to do is done beside the
    /// conversation, in its order.
    pub(super) fn serve_dashboard(
        &mut self,
        frame: ClientFrame,
        id: Option<String>,
    ) -> Result<(), Complaint> {
        let asker = Rc::clone(&self.asker);
        let errands = &mut self.errands;
        let pressed = errands.pressed();
        match frame {
            ClientFrame::DashboardDisconnect => self.is_leaving = true,
            ClientFrame::CommandRequest(asked) => {
                let bytes = asked.command.len() + asked.args.iter().map(String::len).sum::<usize>();
                errands.push(
                    bytes,
                    async move { asker.request(asked, pressed, id).await },
                );
            }
            ClientFrame::CommandInterrupt { command_id } => {
                errands.push(0, async move { asker.interrupt(command_id, id).await });
            }
            ClientFrame::TerminalClear { agent_id } => {
                errands.push(0, async move { asker.clear(agent_id, id).await });
            }
            ClientFrame::TerminalInput {
                command_id,
                content,
                raw,
            } => {
                let data = bytes(content, raw, "raw")?;
                errands.push(data.len(), async move {
                    asker.input(command_id, data, id).await;
                });
            }
            ClientFrame::TerminalResize {
                command_id,
                columns,
                rows,
            } => errands.push(0, async move {
                asker.resize(command_id, columns, rows, id).await;
            }),
            ClientFrame::EmergencyStop { reason } => {
                let stop = Some(reason.unwrap_or_default());
                errands.press(async move { asker.emergency(stop, pressed, id).await });
            }
            ClientFrame::Resume => {
                errands.press(async move { asker.emergency(None, pressed, id).await });
            }
            _ => {
                let message = "only agents send this";
                return Err(Complaint::plain(ErrorCode::Forbidden, message));
            }
        }
        Ok(())
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
