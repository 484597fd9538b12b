//! What the client subscribes to.

use std::rc::Rc;

use signalbox_bus::trace;
use signalbox_protocol::ErrorCode;
use signalbox_protocol::catalogue::Channel;
use signalbox_protocol::frame::fields::Complaint;
use tracing::debug;

use super::Session;
use super::standing::Held;
use crate::access;
use crate::dialect::{Answer, Dialect, Subscribe};
use crate::hub::Progress;
use crate::replay::{OutOfReach, is_within_reach, replay};
use crate::spans;

/// Subscriptions that one connection may hold.
const MAX_SUBSCRIPTIONS: usize = 1_024;

impl<D: Dialect + 'static> Session<D> {
    pub(super) async fn subscribe(&mut self, asked: Subscribe) -> Result<(), Complaint> {
        let channel = asked.channel;
        self.authorise(channel)?;
        let held = |name: &Option<String>| self.standing.find(name.as_deref()?);
        if held(&asked.name).is_none() {
            self.has_room()?;
        }
        let is_crowded = {
            let hub = self.shard.hub.borrow();
            held(&asked.name).is_none() && hub.is_crowded(self.member, channel, &asked.encoding)
        };
        if is_crowded {
            let message =
                format!("too many subscriptions to {channel} that select different fields");
            return Err(Complaint::plain(ErrorCode::RateLimit, message));
        }
        let resumed = match asked.since {
            None => None,
            Some(since) => match is_within_reach(&self.shard, since).await {
                Ok(reached) => Some(reached),
                Err(OutOfReach) => {
                    let message = "history is out of reach, subscribe again";
                    return Err(Complaint::plain(ErrorCode::Unavailable, message));
                }
            },
        };
        // The credential may have been taken back, and what it held with it.
        self.authorise(channel)?;
        let attendance = self.attend(&asked)?;
        let newcomer = attendance
            .as_ref()
            .filter(|_| resumed != Some(true))
            .map(|attendance| attendance.investigation_id().to_owned());
        let replaced = held(&asked.name);
        let start = asked
            .since
            .filter(|_| resumed == Some(true))
            .map(|since| since.sequence);
        let name = asked.name.unwrap_or_else(|| self.next_name());
        let (id, seq, progress) = {
            let mut hub = self.shard.hub.borrow_mut();
            let id = match replaced {
                None => hub.subscribe(self.member, asked.selection, &asked.encoding, start),
                Some(old) => hub
                    .replace(old, asked.selection, &asked.encoding, start)
                    .ok_or_else(|| {
                        Complaint::plain(
                            ErrorCode::RateLimit,
                            "subscribed again too often, wait for what is being replayed",
                        )
                    })?,
            };
            let seq = hub.cursor_of(id);
            // What other subscriptions are owed up to here goes first.
            hub.settle(self.member);
            self.answer(&Answer::Subscribed {
                channel,
                subscription_id: &name,
                seq,
                recovered: resumed,
            });
            // Nothing comes before the state that it is to be added to.
            let progress = newcomer.is_none().then(|| hub.catch_up(id));
            (id, seq, progress)
        };
        debug!(session = %self.name, %channel, %seq, recovered = resumed, "subscribed");
        if let Some(investigation_id) = newcomer {
            self.introduce(investigation_id, name.clone(), id, seq);
        } else if progress != Some(Progress::Live) {
            let work = replay(Rc::clone(&self.shard), self.outbound.clone(), id);
            self.replays
                .push(Box::pin(trace::within(spans::replay(channel), work)));
        }
        let held = Held::Events {
            id,
            channel,
            attendance,
        };
        self.standing.hold(name, held);
        Ok(())
    }

    /// Whether the connection may hold one more subscription.
    pub(super) fn has_room(&self) -> Result<(), Complaint> {
        if self.standing.len() < MAX_SUBSCRIPTIONS {
            return Ok(());
        }
        let message = format!("a connection holds at most {MAX_SUBSCRIPTIONS} subscriptions");
        Err(Complaint::plain(ErrorCode::RateLimit, message))
    }

    /// A name that no subscription of the connection has had.
    pub(super) fn next_name(&mut self) -> String {
        self.next_subscription += 1;
        format!("sub-{}", self.next_subscription)
    }

    pub(super) fn authorise(&self, channel: Channel) -> Result<(), Complaint> {
        let Some(principal) = self.standing.principal() else {
            return Err(Complaint::plain(ErrorCode::Forbidden, "authenticate first"));
        };
        match access::missing(principal.permissions, channel) {
            None => Ok(()),
            Some(required) => Err(Complaint::plain(
                ErrorCode::Forbidden,
                format!("channel {channel} needs permission {required}"),
            )),
        }
    }

    pub(super) fn unsubscribe(&mut self, name: &str, field: &'static str) -> Result<(), Complaint> {
        let Some(held) = self.standing.release(name) else {
            return Err(Complaint {
                code: ErrorCode::NotFound,
                message: "this connection has no such subscription".to_owned(),
                field: Some(field.to_owned()),
            });
        };
        let channel = held.channel();
        match held {
            Held::Events { id, .. } => {
                let mut hub = self.shard.hub.borrow_mut();
                hub.settle(self.member);
                hub.unsubscribe(id);
            }
            Held::Chats { session } => {
                if let Some(seat) = self.standing.seat() {
                    seat.unsubscribe(session.as_deref());
                }
            }
        }
        self.answer(&Answer::Unsubscribed {
            channel,
            subscription_id: name,
        });
        Ok(())
    }
}
