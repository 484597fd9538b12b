//! What the relay has an agent told: each delivery is carried out once, and in
//! the order of the relay that holds the agent.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use signalbox_protocol::frame::fleet::server::ServerFrame;
use signalbox_protocol::wire::agent_delivery::Delivery;
use signalbox_protocol::wire::{AgentDelivery, DeliveryOutcome};
use signalbox_transport::CloseCode;
use tracing::info;

use crate::fleet::agents::Note;
use crate::fleet::frames::{now, send, send_urgent};
use crate::fleet::session::Session;
use crate::session::AUDIT;

impl Session {
    /// Another connection is the agent's now.
    pub(super) fn replaced(&mut self) {
        info!(target: AUDIT, session = %self.name, "replaced");
        if let Some(agent) = self.agent.as_deref_mut() {
            agent.held.clear();
            agent.held_bytes = 0;
            // The relay knows that it is gone.
            agent.is_greeted = false;
        }
        self.outbound.close(CloseCode::POLICY_VIOLATION, "replaced");
    }

    /// Does what the session is told from outside.
    pub(in crate::fleet) fn take_note(&mut self, note: Note) {
        match note {
            Note::Delivery(delivery, done) => {
                let outcome = self.deliver(delivery);
                done.send(outcome).ok();
            }
            Note::Unknown => self.announce(),
            Note::Replaced => self.replaced(),
        }
    }

    fn deliver(&mut self, delivery: AgentDelivery) -> DeliveryOutcome {
        let Some(agent) = self.agent.as_deref_mut() else {
            return DeliveryOutcome::Gone;
        };
        if self.outbound.is_closed() {
            return DeliveryOutcome::Gone;
        }
        let place = (delivery.term, delivery.number);
        if delivery.term < agent.delivered.0 {
            return DeliveryOutcome::Stale;
        }
        if place <= agent.delivered {
            return DeliveryOutcome::Delivered;
        }
        agent.delivered = place;
        let timestamp = now();
        match delivery.delivery {
            Some(Delivery::Execute(execute)) => {
                let attempt = agent
                    .executed
                    .entry(execute.command_id.clone())
                    .or_default();
                if execute.attempt > *attempt {
                    *attempt = execute.attempt;
                    send(
                        &self.outbound,
                        &ServerFrame::CommandExecute {
                            command_id: &execute.command_id,
                            command: &execute.command,
                            args: &execute.args,
                            attempt: execute.attempt,
                            timestamp,
                        },
                    );
                }
            }
            Some(Delivery::Interrupt(interrupt)) => send_urgent(
                &self.outbound,
                &ServerFrame::CommandInterrupt {
                    command_id: &interrupt.command_id,
                    by: (!interrupt.by.is_empty()).then_some(&interrupt.by),
                    timestamp,
                },
            ),
            Some(Delivery::Input(input)) => {
                let content = String::from_utf8_lossy(&input.data);
                let is_text = std::str::from_utf8(&input.data).is_ok();
                let raw = (!is_text).then(|| STANDARD.encode(&input.data));
                send(
                    &self.outbound,
                    &ServerFrame::TerminalInput {
                        command_id: &input.command_id,
                        content: &content,
                        raw: raw.as_deref(),
                        timestamp,
                    },
                );
            }
            Some(Delivery::Resize(resize)) => send(
                &self.outbound,
                &ServerFrame::TerminalResize {
                    command_id: &resize.command_id,
                    columns: resize.columns,
                    rows: resize.rows,
                    timestamp,
                },
            ),
            Some(Delivery::Emergency(state)) => send_urgent(
                &self.outbound,
                &if state.active {
                    ServerFrame::EmergencyStop {
                        reason: &state.reason,
                        by: &state.by,
                        stop_id: &state.stop_id,
                        timestamp,
                    }
                } else {
                    ServerFrame::Resume {
                        by: &state.by,
                        stop_id: &state.stop_id,
                        timestamp,
                    }
                },
            ),
            Some(Delivery::Replaced(_)) => self.replaced(),
            None => {}
        }
        DeliveryOutcome::Delivered
    }
}
