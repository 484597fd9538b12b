//! What the gateway asks the auth service on behalf of HTTP clients, and how
//! refusals reach them: as late as the service says, so that guessing is slow,
//! without holding up anyone else.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use parking_lot::Mutex;
use signalbox_bus::rpc::{self, CallError};
use signalbox_bus::{Bus, subject, trace};
use signalbox_protocol::ErrorCode;
use signalbox_protocol::frame::fields::Complaint;
use signalbox_protocol::wire::{self, issue_token_reply, manage_reply, revoke_reply};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until};
use tracing::warn;

use crate::spans;
use signalbox_limits::network;

/// How long the service may take for what reads and writes records.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long it may take where a password may have to be hashed, for which
/// others may wait already.
const HASHING_PATIENCE: Duration = Duration::from_secs(10);
/// Refusals that are withheld at once, over all listeners and shards. Beyond
/// it they are answered at once with RATE_LIMIT and the time of the delay,
/// which tells nothing about the credential.
const WITHHELD_CAPACITY: usize = 256;

/// Passwords of one address that are looked at at once; further ones get
/// RATE_LIMIT. A burst is sent before the first of it has failed, and would
/// fill the places of the auth service for everyone else.
const LOGINS_PER_ADDRESS: usize = 8;

/// A request that is not served, for the client.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Declined {
    /// Why.
    pub(crate) complaint: Complaint,
    /// When to try again, where that is known.
    pub(crate) retry_after: Option<Duration>,
}

impl From<Complaint> for Declined {
    fn from(complaint: Complaint) -> Self {
        Self {
            complaint,
            retry_after: None,
        }
    }
}

/// The way to the auth service. Shared by all shards.
pub(crate) struct AuthService {
    bus: Bus,
    withheld: Withheld,
    logins: Logins,
}

impl AuthService {
    pub(crate) fn new(bus: Bus) -> Self {
        Self {
            bus,
            withheld: Withheld::new(WITHHELD_CAPACITY),
            logins: Logins::default(),
        }
    }

    /// Has tokens issued for an API key or a password.
    ///
    /// # Errors
    /// What to tell the client.
    pub(crate) async fn issue(
        &self,
        request: &wire::IssueTokenRequest,
    ) -> Result<wire::IssuedToken, Declined> {
        let (patience, login) = match request.password.is_empty() {
            true => (PATIENCE, None),
            false => (HASHING_PATIENCE, Some(self.logins.enter(request)?)),
        };
        let call = rpc::call(&self.bus, subject::ISSUE_TOKEN, request, None, patience);
        let reply = trace::within(spans::credential("issue token"), call).await;
        drop(login);
        self.issued(reply).await
    }

    /// Has a refresh token exchanged.
    ///
    /// # Errors
    /// What to tell the client.
    pub(crate) async fn refresh(
        &self,
        request: &wire::RefreshTokenRequest,
    ) -> Result<wire::IssuedToken, Declined> {
        let call = rpc::call(&self.bus, subject::REFRESH_TOKEN, request, None, PATIENCE);
        let reply = trace::within(spans::credential("refresh token"), call).await;
        self.issued(reply).await
    }

    async fn issued(
        &self,
        reply: Result<wire::IssueTokenReply, CallError>,
    ) -> Result<wire::IssuedToken, Declined> {
        use issue_token_reply::Outcome;

        match answered(reply.map(|reply| reply.outcome))? {
            Outcome::Token(token) => Ok(token),
            Outcome::Refusal(refusal) => Err(self.withheld.told(refusal).await),
        }
    }

    /// Revokes what a client holds.
    ///
    /// # Errors
    /// What to tell the client.
    pub(crate) async fn revoke(&self, request: &wire::RevokeRequest) -> Result<(), Declined> {
        use revoke_reply::Outcome;

        let call = rpc::call(&self.bus, subject::REVOKE, request, None, PATIENCE);
        let reply: Result<wire::RevokeReply, _> =
            trace::within(spans::credential("revoke token"), call).await;
        match answered(reply.map(|reply| reply.outcome))? {
            Outcome::Done(_) => Ok(()),
            Outcome::Refusal(refusal) => Err(self.withheld.told(refusal).await),
        }
    }

    /// Has an administrator's request done.
    ///
    /// # Errors
    /// What to tell the client.
    pub(crate) async fn manage(
        &self,
        request: &wire::ManageRequest,
    ) -> Result<manage_reply::Outcome, Declined> {
        use manage_reply::Outcome;

        let call = rpc::call(&self.bus, subject::MANAGE, request, None, HASHING_PATIENCE);
        let reply: Result<wire::ManageReply, _> =
            trace::within(spans::credential("manage"), call).await;
        match answered(reply.map(|reply| reply.outcome))? {
            Outcome::Refusal(refusal) => Err(self.withheld.told(refusal).await),
            done => Ok(done),
        }
    }
}

/// The outcome in a reply, if there is one.
fn answered<T>(outcome: Result<Option<T>, CallError>) -> Result<T, Complaint> {
    let unavailable = || {
        Complaint::plain(
            ErrorCode::Unavailable,
            "credentials cannot be checked now, try again",
        )
    };
    match outcome {
        Ok(outcome) => outcome.ok_or_else(unavailable),
        Err(error) => {
            warn!(%error, "auth service not reached");
            Err(unavailable())
        }
    }
}

/// The logins under way, by address.
#[derive(Default)]
struct Logins(Mutex<HashMap<Option<IpAddr>, usize>>);

/// A login under way; counts for as long as it exists.
struct Login<'a> {
    logins: &'a Logins,
    source: Option<IpAddr>,
}

impl Logins {
    fn enter(&self, request: &wire::IssueTokenRequest) -> Result<Login<'_>, Complaint> {
        let context = request.context.as_ref();
        let address = context.and_then(|context| context.peer_address.parse().ok());
        let source = address.map(network);
        let mut counts = self.0.lock();
        let count = counts.entry(source).or_default();
        if *count >= LOGINS_PER_ADDRESS {
            return Err(Complaint::plain(
                ErrorCode::RateLimit,
                "too many logins at once from this address, try again",
            ));
        }
        *count += 1;
        Ok(Login {
            logins: self,
            source,
        })
    }
}

impl Drop for Login<'_> {
    fn drop(&mut self) {
        let mut counts = self.logins.0.lock();
        if let Some(count) = counts.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.source);
            }
        }
    }
}

/// Keeps refusals back for as long as the service says.
struct Withheld {
    places: Semaphore,
}

impl Withheld {
    const fn new(capacity: usize) -> Self {
        Self {
            places: Semaphore::const_new(capacity),
        }
    }

    /// What to tell the client of a refusal, once its time has come. A client
    /// that leaves gives its place back at once.
    async fn told(&self, refusal: wire::Refusal) -> Declined {
        let delay = Duration::from_millis(refusal.delay_ms.into());
        let until = Instant::now() + delay;
        let complaint = complaint(refusal);
        if delay.is_zero() {
            return complaint.into();
        }
        // The service has looked at nothing, so there is nothing to keep back.
        if complaint.code == ErrorCode::RateLimit {
            return Declined {
                complaint,
                retry_after: Some(delay),
            };
        }
        match self.places.try_acquire() {
            Ok(_place) => {
                sleep_until(until).await;
                complaint.into()
            }
            Err(_) => Declined {
                complaint: Complaint::plain(
                    ErrorCode::RateLimit,
                    "too many failures, try again later",
                ),
                retry_after: Some(delay),
            },
        }
    }
}

/// A refusal of the auth service, for the client. Its sentences are made for
/// clients; a code that this version does not know is our own fault.
pub(crate) fn complaint(refusal: wire::Refusal) -> Complaint {
    Complaint {
        code: ErrorCode::parse(&refusal.code).unwrap_or(ErrorCode::Internal),
        message: refusal.message,
        field: Some(refusal.field).filter(|field| !field.is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(code: &str, delay_ms: u32) -> wire::Refusal {
        wire::Refusal {
            code: code.to_owned(),
            message: "no".to_owned(),
            delay_ms,
            ..wire::Refusal::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_are_withheld_for_as_long_as_the_service_says() {
        let withheld = Withheld::new(1);
        let start = Instant::now();
        let told = withheld.told(refusal("AUTH_FAILED", 700)).await;
        assert_eq!(start.elapsed(), Duration::from_millis(700));
        assert_eq!(told.complaint.code, ErrorCode::AuthFailed);
        let start = Instant::now();
        assert_eq!(
            withheld.told(refusal("AUTH_FAILED", 0)).await.retry_after,
            None
        );
        let unseen = withheld.told(refusal("RATE_LIMIT", 900)).await;
        assert_eq!(unseen.retry_after, Some(Duration::from_millis(900)));
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn beyond_the_places_nothing_is_told_but_when_to_return() {
        let withheld = Withheld::new(1);
        let start = Instant::now();
        let (first, second) = tokio::join!(
            withheld.told(refusal("AUTH_FAILED", 5_000)),
            withheld.told(refusal("AUTH_FAILED", 3_000)),
        );
        assert_eq!(first.complaint.code, ErrorCode::AuthFailed);
        assert_eq!(second.complaint.code, ErrorCode::RateLimit);
        assert_eq!(second.retry_after, Some(Duration::from_secs(3)));
        assert_eq!(start.elapsed(), Duration::from_secs(5));
        // The place is free again, also after one that did not wait.
        let left = tokio::time::timeout(
            Duration::from_secs(1),
            withheld.told(refusal("AUTH_FAILED", 5_000)),
        );
        assert!(left.await.is_err());
        assert_eq!(withheld.places.available_permits(), 1);
    }

    #[test]
    fn one_address_does_not_take_the_places_of_another() {
        let logins = Logins::default();
        let from = |address: &str| wire::IssueTokenRequest {
            context: Some(wire::RequestContext {
                peer_address: address.to_owned(),
                ..wire::RequestContext::default()
            }),
            ..wire::IssueTokenRequest::default()
        };
        let mut held: Vec<Login<'_>> = (0..LOGINS_PER_ADDRESS)
            .map(|number| {
                logins
                    .enter(&from(&format!("2001:db8::{number}")))
                    .ok()
                    .unwrap()
            })
            .collect();
        let refused = logins.enter(&from("2001:db8::ffff")).err().unwrap();
        assert_eq!(refused.code, ErrorCode::RateLimit);
        assert!(logins.enter(&from("2001:db8:0:1::1")).is_ok());
        assert!(logins.enter(&from("192.0.2.1")).is_ok());
        held.pop();
        assert!(logins.enter(&from("2001:db8::ffff")).is_ok());
        drop(held);
        assert!(logins.0.lock().is_empty());
    }

    #[test]
    fn refusals_keep_their_field_and_code() {
        let refused = wire::Refusal {
            field: "role".to_owned(),
            ..refusal("INVALID_MESSAGE", 0)
        };
        assert_eq!(complaint(refused).field.as_deref(), Some("role"));
        let unknown = complaint(refusal("NEW_IN_THE_NEXT_VERSION", 0));
        assert_eq!((unknown.code, unknown.field), (ErrorCode::Internal, None));
    }
}
