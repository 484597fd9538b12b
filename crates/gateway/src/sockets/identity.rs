//! Who a client is: its credential at the CONNECT and later, and the end of
//! that.

use std::rc::Rc;
use std::time::Duration;

use signalbox_identity::{Principal, Role};
use signalbox_protocol::wire::RequestContext;
use signalbox_protocol::{Dialect, ErrorCode};
use signalbox_socketio::Ack;
use time::OffsetDateTime;
use tokio::time::{Instant, sleep};
use tracing::info;

use super::opening::Opening;
use super::seat::Seat;
use super::{AUDIT, Sockets};
use crate::authority::{Refusal, Withheld};
use crate::dialect::{pipeline, workspace};

/// Bad tokens after which a client has to leave.
const MAX_BAD_TOKENS: u32 = 3;
/// How far away the end of a credential is taken to be at most.
const NEVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// What is due of a client when its alarm rings.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Due {
    /// Nothing.
    #[default]
    Nothing,
    /// A credential, which has not come.
    Credential,
    /// The announcement that its credential ends.
    Announcement {
        /// By the clock of tokens.
        at: OffsetDateTime,
        /// By ours.
        deadline: Instant,
    },
    /// The end of its credential.
    End,
    /// Its end, for sending too much at once again and again.
    TooLarge,
}

impl Sockets {
    /// Finds out who presents a credential. `known` is who the client is
    /// already.
    pub(super) async fn examine(
        &self,
        name: &str,
        opening: &Opening,
        credential: &str,
        known: Option<&Principal>,
    ) -> Result<Principal, Withheld> {
        let shared = &self.shard.shared;
        if !*shared.bus_present.borrow() {
            // A token that was revoked meanwhile would pass here.
            return Err(Refusal::Unavailable.into());
        }
        let context = RequestContext {
            peer_address: opening.peer().to_canonical().to_string(),
            request_id: name.to_owned(),
            connection_id: name.to_owned(),
        };
        let principal = shared.authority.examine(credential, context).await?;
        Ok(self.acceptable(principal, known)?)
    }

    /// Whether a client may go on as `principal`. Nothing is awaited between
    /// this and the adoption: a revocation comes before both and is seen here,
    /// or after and finds the client.
    pub(super) fn acceptable(
        &self,
        principal: Principal,
        known: Option<&Principal>,
    ) -> Result<Principal, Refusal> {
        let principal = self.shard.shared.authority.judge(principal)?;
        if principal.role == Some(Role::Agent) {
            return Err(Refusal::Invalid(
                "credentials of agents open dialect fleet only",
            ));
        }
        match known {
            Some(known) if known.subject != principal.subject => {
                Err(Refusal::Invalid("the credential is another user's"))
            }
            _ => Ok(principal),
        }
    }

    /// Counts a bad credential; gives how late to say so.
    pub(super) fn count_refusal(
        &self,
        opening: &Opening,
        credential: &str,
        withheld: &Withheld,
    ) -> Duration {
        let delay = self.shard.shared.back_off.count(opening.peer(), credential);
        delay.max(withheld.delay)
    }

    /// Waits as long as a refusal is to be withheld.
    pub(super) async fn withhold(&self, delay: Duration) {
        if let Some((_place, delay)) = self.shard.shared.back_off.withhold(delay) {
            sleep(delay).await;
        }
    }

    /// Takes a credential that came in an event, and answers.
    pub(super) async fn authenticate(
        self: &Rc<Self>,
        seat: &Rc<Seat>,
        credential: &str,
        ack: Option<Ack>,
    ) {
        let known = seat.principal();
        let verdict = self
            .examine(&seat.name, &seat.opening, credential, known.as_deref())
            .await;
        if seat.over.get() {
            return;
        }
        match verdict {
            Ok(principal) => {
                seat.bad_tokens.set(0);
                self.adopt(seat, principal, ack).await;
            }
            Err(withheld) => match withheld.refusal {
                Refusal::Invalid(reason) => {
                    let delay = self.count_refusal(&seat.opening, credential, &withheld);
                    self.withhold(delay).await;
                    self.deny(seat, reason, ack);
                }
                refusal @ Refusal::Unavailable => {
                    info!(target: AUDIT, session = %seat.name, peer = %seat.opening.peer(), reason = %refusal, "refused");
                    let message = "credentials cannot be checked now";
                    seat.say(&pipeline::auth_error(ErrorCode::Unavailable, message));
                    seat.send_back(&self.clock);
                }
            },
        }
    }

    fn deny(&self, seat: &Seat, reason: &'static str, ack: Option<Ack>) {
        info!(target: AUDIT, session = %seat.name, peer = %seat.opening.peer(), reason, "refused");
        let bad = seat.bad_tokens.get() + 1;
        seat.bad_tokens.set(bad);
        seat.say(&pipeline::auth_error(ErrorCode::AuthFailed, reason));
        if let Some(ack) = ack {
            let complaint =
                signalbox_protocol::frame::fields::Complaint::plain(ErrorCode::AuthFailed, reason);
            seat.acknowledge(ack, &pipeline::failure(&complaint, None));
        }
        if bad >= MAX_BAD_TOKENS {
            seat.send_away(&self.clock);
        }
    }

    /// Notes that a client has said who it is: it is no stranger any more.
    pub(super) fn trust(&self, seat: &Rc<Seat>, principal: &Principal) {
        seat.opening.guest.visitor.ticket.authenticated();
        let link = seat.socket.link();
        link.set_max_payload(self.shard.shared.options.websocket.max_message_bytes);
        self.trusted.borrow_mut().insert(Rc::clone(link.sid()));
        info!(
            target: AUDIT,
            session = %seat.name,
            peer = %seat.opening.peer(),
            subject = %principal.subject,
            credential = %principal.credential,
            "authenticated"
        );
        self.expect_end(seat, principal.expires_at);
        if self.shard.shared.offences.settle(&principal.subject) {
            seat.due.set(Due::TooLarge);
            self.clock.set(seat, Instant::now());
        }
    }

    /// Sets the alarm for the end of a credential and its announcement.
    fn expect_end(&self, seat: &Rc<Seat>, expires_at: Option<OffsetDateTime>) {
        let Some(at) = expires_at else {
            seat.due.set(Due::Nothing);
            self.clock.clear(seat);
            return;
        };
        let now = Instant::now();
        let left = Duration::try_from(at - OffsetDateTime::now_utc()).unwrap_or(Duration::ZERO);
        let left = left.min(NEVER);
        let deadline = now + left;
        let notice = self.shard.shared.options.expiry_notice;
        if notice.is_zero() {
            seat.due.set(Due::End);
            self.clock.set(seat, deadline);
        } else {
            // A token that lives no longer than the notice is announced at once.
            seat.due.set(Due::Announcement { at, deadline });
            self.clock.set(seat, now + left.saturating_sub(notice));
        }
    }

    /// Does what is due of a client.
    pub(super) fn call_on(&self, seat: &Rc<Seat>) {
        let is_workspace = seat.dialect == Dialect::Workspace;
        match seat.due.take() {
            Due::Nothing => {}
            Due::Announcement { at, deadline } => {
                seat.say(&if is_workspace {
                    workspace::expiring(&seat.socket.id(), at)
                } else {
                    pipeline::expiring(at)
                });
                seat.due.set(Due::End);
                self.clock.set(seat, deadline);
            }
            Due::Credential => {
                let message = "not authenticated in time";
                self.part(seat, ErrorCode::AuthFailed, message);
            }
            Due::TooLarge => self.part(
                seat,
                ErrorCode::TooLarge,
                "messages that are too large were sent again and again",
            ),
            Due::End => self.part(seat, ErrorCode::TokenExpired, "the token has expired"),
        }
    }

    /// Tells a client why it has to leave, and has it leave.
    pub(super) fn part(&self, seat: &Seat, code: ErrorCode, message: &'static str) {
        info!(target: AUDIT, session = %seat.name, peer = %seat.opening.peer(), reason = message, "sent away");
        seat.say(&if seat.dialect == Dialect::Workspace {
            workspace::refusal(&workspace::Refused { code, message })
        } else {
            pipeline::auth_error(code, message)
        });
        seat.send_away(&self.clock);
    }
}
