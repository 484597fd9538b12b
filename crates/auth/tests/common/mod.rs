//! A real bus with the buckets and users of production, and auth services on it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "no test program uses all of it")]

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use async_nats::jetstream::kv::Store;
use futures_util::TryStreamExt as _;
use signalbox_auth::{BackOff, Error, FetchTimes, Options, PasswordCost, bootstrap};
use signalbox_bus::server::User;
use signalbox_bus::stream::{self, StreamSettings};
use signalbox_bus::{Bus, BusOptions, key, rpc, subject};
use signalbox_identity::{
    ApiKey, ApiKeyRecord, Claims, Expectations, KeySet, Limits, Principal, PublicKey, Revocation,
    Revocations, Role, SigningKey, UserId, Verdict,
};
pub(crate) use signalbox_protocol::wire::manage_reply::Outcome as Managed;
use signalbox_protocol::wire::manage_request::Operation;
use signalbox_protocol::wire::{
    self, issue_token_reply, revoke_reply, revoke_request, verify_key_reply,
};
use signalbox_service::{Health, Shutdown};
use signalbox_testkit::{DEADLINE, NatsServer, eventually};
use tempfile::TempDir;
use time::OffsetDateTime;
use tokio::task::JoinHandle;

/// Room for the streams, which these tests do not fill.
const FREE_BYTES: u64 = 64 * 1024 * 1024;

/// A bus that is set up, and a directory for one machine's files.
pub(crate) struct World {
    pub(crate) server: NatsServer,
    pub(crate) admin: Bus,
    pub(crate) gateway: Bus,
    pub(crate) dir: TempDir,
}

impl World {
    pub(crate) async fn new() -> Self {
        let server = NatsServer::start().await;
        let connect = async |user| Bus::connect(&bus_options(&server, user), "test").await;
        let admin = connect(User::Admin).await.unwrap();
        let gateway = connect(User::Gateway).await.unwrap();
        let world = Self {
            admin,
            gateway,
            dir: tempfile::tempdir().unwrap(),
            server,
        };
        world.init().await;
        world
    }

    /// Makes the buckets, as the first start of a deployment does.
    pub(crate) async fn init(&self) {
        let settings = StreamSettings::default().fitted_to(FREE_BYTES);
        stream::init(&self.admin, &settings).await.unwrap();
    }

    pub(crate) fn keys_dir(&self) -> PathBuf {
        self.dir.path().join("keys")
    }

    /// Settings of a service with a signing key, connected with the rights that
    /// it has in production.
    pub(crate) fn options(&self) -> Options {
        bootstrap::ensure_signing_key(&self.keys_dir()).unwrap();
        Options {
            bus: bus_options(&self.server, User::Auth),
            signing_keys: self.keys_dir(),
            issuer: "signalbox".to_owned(),
            audience: "signalbox".to_owned(),
            token_ttl: Duration::from_secs(900),
            max_token_ttl: Duration::from_secs(3_600),
            key_propagation: Duration::from_secs(60),
            key_poll: Duration::from_millis(50),
            key_afterlife: Duration::from_secs(60),
            refresh_ttl: Duration::from_secs(7_200),
            refresh_grace: Duration::from_secs(30),
            password_cost: PasswordCost {
                memory_kib: 64,
                passes: 1,
            },
            back_off: BackOff::default(),
            issuers: Vec::new(),
            fetch_times: FetchTimes::default(),
            grpc: None,
        }
    }

    /// Adds a key to the directory that is newer than all before it.
    pub(crate) fn add_signing_key(&self, name: &str) -> SigningKey {
        let key = SigningKey::generate().unwrap();
        fs::create_dir_all(self.keys_dir()).unwrap();
        let path = self.keys_dir().join(name);
        fs::write(&path, key.to_pkcs8_pem().expose()).unwrap();
        let file = fs::File::options().write(true).open(path).unwrap();
        let newer = SystemTime::now() + Duration::from_secs(3_600);
        file.set_modified(newer).unwrap();
        key
    }

    pub(crate) async fn bucket(&self, name: &str) -> Store {
        self.admin.bucket(name).await.unwrap()
    }

    /// Stores a new API key, after `change` to its record.
    pub(crate) async fn add_api_key(
        &self,
        role: Role,
        change: impl FnOnce(&mut ApiKeyRecord),
    ) -> ApiKey {
        let key = ApiKey::generate();
        let mut record = record(&key, role);
        change(&mut record);
        self.put_record(&record).await;
        key
    }

    pub(crate) async fn put_record(&self, record: &ApiKeyRecord) {
        let json = serde_json::to_vec(record).unwrap();
        let bucket = self.bucket(key::API_KEYS).await;
        bucket.put(record.id.as_str(), json.into()).await.unwrap();
    }

    pub(crate) async fn verify(&self, key: &str) -> Result<Principal, wire::Refusal> {
        let request = wire::VerifyKeyRequest {
            api_key: key.to_owned(),
            ..wire::VerifyKeyRequest::default()
        };
        let reply: wire::VerifyKeyReply =
            rpc::call(&self.gateway, subject::VERIFY_KEY, &request, None, DEADLINE)
                .await
                .unwrap();
        match reply.outcome.unwrap() {
            verify_key_reply::Outcome::Principal(principal) => Ok(principal.try_into().unwrap()),
            verify_key_reply::Outcome::Refusal(refusal) => Err(refusal),
        }
    }

    pub(crate) async fn issue(
        &self,
        request: wire::IssueTokenRequest,
    ) -> Result<wire::IssuedToken, wire::Refusal> {
        issued(self.ask(subject::ISSUE_TOKEN, &request).await)
    }

    /// Logs in as a user, from `peer`.
    pub(crate) async fn login(
        &self,
        username: &str,
        password: &str,
        peer: &str,
    ) -> Result<wire::IssuedToken, wire::Refusal> {
        let request = wire::IssueTokenRequest {
            username: username.to_owned(),
            password: password.to_owned(),
            context: Some(from(peer)),
            ..wire::IssueTokenRequest::default()
        };
        self.issue(request).await
    }

    pub(crate) async fn refresh(&self, token: &str) -> Result<wire::IssuedToken, wire::Refusal> {
        self.refresh_on("", token).await
    }

    /// Refreshes on a lasting connection.
    pub(crate) async fn refresh_on(
        &self,
        connection: &str,
        token: &str,
    ) -> Result<wire::IssuedToken, wire::Refusal> {
        let request = wire::RefreshTokenRequest {
            refresh_token: token.to_owned(),
            context: Some(wire::RequestContext {
                connection_id: connection.to_owned(),
                ..wire::RequestContext::default()
            }),
        };
        issued(self.ask(subject::REFRESH_TOKEN, &request).await)
    }

    pub(crate) async fn revoke(&self, held: revoke_request::Held) -> Result<(), wire::Refusal> {
        let request = wire::RevokeRequest {
            context: None,
            held: Some(held),
        };
        let reply: wire::RevokeReply = self.ask(subject::REVOKE, &request).await;
        match reply.outcome.unwrap() {
            revoke_reply::Outcome::Done(_) => Ok(()),
            revoke_reply::Outcome::Refusal(refusal) => Err(refusal),
        }
    }

    /// Asks as a gateway does for an administrator.
    pub(crate) async fn manage_with(
        &self,
        credential: &str,
        operation: Operation,
    ) -> Result<Managed, wire::Refusal> {
        let request = wire::ManageRequest {
            credential: credential.to_owned(),
            operation: Some(operation),
            ..wire::ManageRequest::default()
        };
        managed(self.ask(subject::MANAGE, &request).await)
    }

    /// Asks as the command line does.
    pub(crate) async fn manage(&self, operation: Operation) -> Result<Managed, wire::Refusal> {
        let request = wire::ManageRequest {
            actor: "tester".to_owned(),
            operation: Some(operation),
            ..wire::ManageRequest::default()
        };
        let options = bus_options(&self.server, User::Registrar);
        let bus = Bus::connect(&options, "test").await.unwrap();
        let reply = rpc::call(&bus, subject::ADMIN_MANAGE, &request, None, DEADLINE).await;
        managed(reply.unwrap())
    }

    /// Makes a user with the password [`PASSWORD`].
    pub(crate) async fn add_user(&self, username: &str, role: &str) {
        let user = wire::CreateUser {
            username: username.to_owned(),
            password: PASSWORD.to_owned(),
            role: role.to_owned(),
            projects: vec!["apollo".to_owned(), "gemini".to_owned()],
            ..wire::CreateUser::default()
        };
        self.manage(Operation::CreateUser(user)).await.unwrap();
    }

    /// The revocations, read with the rights of a gateway.
    pub(crate) async fn revocations(&self) -> Revocations {
        let bucket = self.gateway.bucket(key::REVOCATIONS).await.unwrap();
        let ids: Vec<String> = bucket.keys().await.unwrap().try_collect().await.unwrap();
        let mut entries = Vec::new();
        for id in ids {
            let json = bucket.get(&id).await.unwrap().unwrap();
            entries.push(serde_json::from_slice::<Revocation>(&json).unwrap());
        }
        entries.into_iter().collect()
    }

    /// What a gateway makes of a token now.
    pub(crate) async fn judge(&self, token: &str) -> Verdict {
        let principal = self.claims(token, "signalbox").await.principal();
        self.revocations().await.judge(&principal)
    }

    async fn ask<Q: prost::Message, A: prost::Message + Default>(
        &self,
        subject: &'static str,
        request: &Q,
    ) -> A {
        let reply = rpc::call(&self.gateway, subject, request, None, DEADLINE).await;
        reply.unwrap()
    }

    /// The public keys, read with the rights of a gateway.
    pub(crate) async fn key_set(&self) -> KeySet {
        let bucket = self.gateway.bucket(key::SIGNING_KEYS).await.unwrap();
        let kids: Vec<String> = bucket.keys().await.unwrap().try_collect().await.unwrap();
        let mut keys = Vec::new();
        for kid in kids {
            // It may have been withdrawn since it was listed.
            let Some(jwk) = bucket.get(&kid).await.unwrap() else {
                continue;
            };
            let public: PublicKey = serde_json::from_slice(&jwk).unwrap();
            assert_eq!(public.kid(), kid);
            keys.push(public);
        }
        keys.into_iter().collect()
    }

    /// The claims of a token, as a gateway finds them.
    pub(crate) async fn claims(&self, token: &str, issuer: &str) -> Claims {
        let keys = self.key_set().await;
        keys.verify(token, &expectations(issuer)).unwrap()
    }
}

/// A service that runs; dropping it ends it.
pub(crate) struct Service {
    pub(crate) health: Health,
    shutdown: Shutdown,
    task: JoinHandle<Result<(), Error>>,
}

impl Service {
    /// Starts a service and waits until it is ready.
    pub(crate) async fn start(options: Options) -> Self {
        let shutdown = Shutdown::new();
        let health = Health::new(shutdown.clone());
        let task = tokio::spawn({
            let (health, shutdown) = (health.clone(), shutdown.clone());
            let (bound, _addr) = tokio::sync::oneshot::channel();
            async move { signalbox_auth::run(options, &health, bound, shutdown).await }
        });
        let service = Self {
            health,
            shutdown,
            task,
        };
        service.readiness(true).await;
        service
    }

    /// Waits until the service says that it is ready, or that it is not.
    pub(crate) async fn readiness(&self, ready: bool) {
        eventually("the readiness", DEADLINE, async || {
            assert!(!self.task.is_finished(), "the service has ended");
            (self.health.is_ready() == ready).then_some(())
        })
        .await;
    }

    /// Asks for the end and waits for it.
    pub(crate) async fn stop(mut self) {
        self.shutdown.trigger();
        let ended = tokio::time::timeout(DEADLINE, &mut self.task).await;
        ended.unwrap().unwrap().unwrap();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The password of every user of a test.
pub(crate) const PASSWORD: &str = "correct horse battery staple";

pub(crate) fn from(peer: &str) -> wire::RequestContext {
    wire::RequestContext {
        peer_address: peer.to_owned(),
        ..wire::RequestContext::default()
    }
}

fn issued(reply: wire::IssueTokenReply) -> Result<wire::IssuedToken, wire::Refusal> {
    match reply.outcome.unwrap() {
        issue_token_reply::Outcome::Token(token) => Ok(token),
        issue_token_reply::Outcome::Refusal(refusal) => Err(refusal),
    }
}

fn managed(reply: wire::ManageReply) -> Result<Managed, wire::Refusal> {
    match reply.outcome.unwrap() {
        Managed::Refusal(refusal) => Err(refusal),
        outcome => Ok(outcome),
    }
}

/// What gateways want of a token.
pub(crate) fn expectations(issuer: &str) -> Expectations {
    Expectations {
        issuer: issuer.to_owned(),
        audience: "signalbox".to_owned(),
        leeway: Duration::ZERO,
    }
}

pub(crate) fn bus_options(server: &NatsServer, user: User) -> BusOptions {
    BusOptions {
        url: server.url(user),
        wait: DEADLINE,
    }
}

pub(crate) fn record(key: &ApiKey, role: Role) -> ApiKeyRecord {
    ApiKeyRecord {
        id: key.id().clone(),
        hash: key.hash(),
        role,
        name: "Night shift".to_owned(),
        subject: UserId::new("user-7").unwrap(),
        projects: vec!["apollo".to_owned(), "gemini".to_owned()],
        agent_id: None,
        limits: Limits::default(),
        created_at: OffsetDateTime::now_utc(),
        revoked: false,
    }
}

pub(crate) fn request_for(key: &ApiKey) -> wire::IssueTokenRequest {
    wire::IssueTokenRequest {
        api_key: key.expose().expose().to_owned(),
        ..wire::IssueTokenRequest::default()
    }
}
