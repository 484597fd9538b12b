//! `signalbox publish`: events from the command line or standard input, each
//! acknowledged by the bus before the next. Input lines are the data of one
//! type or, with `-` for the type, whole CloudEvents.

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use serde::Deserialize;
use serde_json::value::RawValue;
use signalbox_bus::publish::{Outgoing, publish_event};
use signalbox_bus::{Bus, BusOptions, HeaderMap, header, subject};
use signalbox_identity::SigningKey;
use signalbox_protocol::catalogue;
use signalbox_protocol::domain::Domain;
use signalbox_protocol::envelope::{
    self, CE_ID, CE_PRIORITY, CE_SOURCE, CE_TIME, Headers, Submission,
};
use signalbox_protocol::timestamp::Timestamp;
use signalbox_service::{ExitError, run as run_service};
use tokio::io::{AsyncBufReadExt as _, BufReader, stdin};
use tracing::debug;
use uuid::Uuid;

use crate::cli::PublishArgs;
use crate::output;
use crate::runtime::Runtime;

/// How long the bus may take to answer at the start.
const BUS_WAIT: Duration = Duration::from_secs(10);
/// The source of events of types that the catalogue does not have.
const UNKNOWN_SOURCE: &str = "unknown";

/// In place of a type: each line of input names its own.
const MIXED: &str = "-";
/// In place of data: it is read from standard input.
const STDIN: &str = "-";

/// Who publishes, and how.
struct Publisher<'a> {
    bus: Bus,
    args: &'a PublishArgs,
    signer: Option<Signer>,
}

/// Who vouches for the events.
struct Signer {
    key: SigningKey,
    id: String,
}

/// Where events of one type go.
struct Target {
    domain: Domain,
    name: String,
    kind: Option<&'static catalogue::EventType>,
}

/// An event to publish, as far as it says anything about itself.
#[derive(Default)]
struct Draft {
    id: Option<String>,
    source: Option<String>,
    time: Option<String>,
    priority: Option<String>,
    payload: String,
}

/// A line of input that is a whole CloudEvent.
#[derive(Deserialize)]
struct Line {
    #[serde(rename = "type")]
    kind: String,
    id: Option<String>,
    source: Option<String>,
    time: Option<String>,
    priority: Option<String>,
    data: Box<RawValue>,
}

pub(crate) fn run(args: &PublishArgs) -> Result<(), ExitError> {
    let target = match args.subject.as_str() {
        MIXED if args.data_json != STDIN => {
            return Err(ExitError::config(
                "events of many types are read from standard input, not from the command line",
            ));
        }
        MIXED => None,
        subject => Some(Target::parse(subject).map_err(ExitError::config)?),
    };
    let url = match &args.nats_url {
        Some(url) => url.clone(),
        None => Runtime::read(&args.data.data_dir)?.nats_url,
    };
    let signer = Signer::of(args).map_err(ExitError::config)?;
    run_service("publish", Duration::ZERO, async |_shutdown| {
        let bus = Bus::connect(
            &BusOptions {
                url,
                wait: BUS_WAIT,
            },
            "signalbox-publish",
        )
        .await?;
        let publisher = Publisher { bus, args, signer };
        if args.data_json == STDIN {
            let mut lines = BufReader::new(stdin()).lines();
            let mut number = 0_u64;
            while let Some(line) = lines.next_line().await.context("standard input")? {
                number += 1;
                if !line.trim().is_empty() {
                    publisher
                        .send_line(target.as_ref(), line)
                        .await
                        .with_context(|| format!("line {number}"))?;
                }
            }
        } else {
            publisher
                .send_line(target.as_ref(), args.data_json.clone())
                .await?;
        }
        publisher.bus.drain().await;
        Ok::<_, anyhow::Error>(())
    })
}

impl Target {
    fn parse(text: &str) -> Result<Self, String> {
        let full = if text.starts_with("events.") {
            text.to_owned()
        } else {
            format!("events.{text}")
        };
        let (domain, name) = subject::parse_event(&full).ok_or_else(|| {
            let domains: Vec<&str> = Domain::ALL.into_iter().map(Domain::token).collect();
            format!(
                "`{text}`: expected <domain>.<type>, with a domain of {}",
                domains.join(", ")
            )
        })?;
        Ok(Self {
            domain,
            name: name.to_owned(),
            kind: catalogue::find(domain, name),
        })
    }

    fn default_source(&self) -> &'static str {
        self.kind.map_or(UNKNOWN_SOURCE, |kind| kind.source)
    }
}

impl Publisher<'_> {
    /// Sends data of a known type, or a CloudEvent that says which.
    async fn send_line(&self, target: Option<&Target>, line: String) -> anyhow::Result<()> {
        let Some(target) = target else {
            let line: Line = serde_json::from_str(&line)
                .context("expected a CloudEvent: an object with `type` and `data`")?;
            let target = Target::parse(&line.kind).map_err(|error| anyhow!("type: {error}"))?;
            let draft = Draft {
                id: line.id,
                source: line.source,
                time: line.time,
                priority: line.priority,
                payload: line.data.get().to_owned(),
            };
            return self.send(&target, draft).await;
        };
        let draft = Draft {
            payload: line,
            ..Draft::default()
        };
        self.send(target, draft).await
    }

    async fn send(&self, target: &Target, draft: Draft) -> anyhow::Result<()> {
        let args = self.args;
        let payload = draft.payload;
        let id = draft
            .id
            .or_else(|| args.id.clone())
            .unwrap_or_else(|| Uuid::now_v7().to_string());
        let source = draft
            .source
            .or_else(|| args.source.clone())
            .unwrap_or_else(|| target.default_source().to_owned());
        let signature = match &self.signer {
            Some(signer) => Some(signer.key.sign_detached(payload.as_bytes())?.to_string()),
            None => None,
        };
        let given = [
            (header::SIGNATURE, signature.as_ref()),
            (
                header::KEY_ID,
                self.signer.as_ref().map(|signer| &signer.id),
            ),
            (CE_ID, Some(&id)),
            (CE_SOURCE, Some(&source)),
            (CE_TIME, draft.time.as_ref()),
            (
                CE_PRIORITY,
                draft.priority.as_ref().or(args.priority.as_ref()),
            ),
        ];
        let mut headers = HeaderMap::new();
        for (name, value) in given {
            let Some(value) = value else { continue };
            // The library panics on what would end the header.
            if value.contains(['\r', '\n']) {
                return Err(anyhow!("{name}: expected a single line"));
            }
            headers.insert(name, value.as_str());
        }
        if !args.unchecked {
            check(target, &headers, &payload)?;
        }
        let mut message = Outgoing {
            subject: subject::event(target.domain, &target.name),
            message_id: format!("{}/{source}/{id}", target.domain),
            headers,
            payload: payload.into(),
        };
        let patience = Duration::from_secs(args.patience);
        let (stored, trace) = publish_event(&self.bus, &mut message, true, patience).await?;
        let trace_id = trace.parent().trace_id();
        debug!(%trace_id, %id, sequence = stored.sequence, "published");
        if !args.quiet {
            let state = if stored.duplicate {
                "known already"
            } else {
                "stored"
            };
            output::line(format_args!(
                "{state} {} id={id} trace={trace_id}",
                message.subject
            ))?;
        }
        Ok(())
    }
}

impl Signer {
    /// The one that the arguments name.
    fn of(args: &PublishArgs) -> Result<Option<Self>, String> {
        let Some(path) = &args.sign else {
            return Ok(None);
        };
        let unusable = |cause: String| format!("--sign: {}: {cause}", path.display());
        let pem = std::fs::read_to_string(path).map_err(|error| unusable(error.to_string()))?;
        let key = SigningKey::from_pkcs8_pem(&pem).map_err(|error| unusable(error.to_string()))?;
        let id = args.key_id.clone().unwrap_or_else(|| key.kid().to_owned());
        Ok(Some(Self { key, id }))
    }
}

/// Says now what a router would say later, when nobody is looking.
fn check(target: &Target, headers: &HeaderMap, payload: &str) -> anyhow::Result<()> {
    let Some(kind) = target.kind else {
        let known: Vec<&str> = catalogue::all()
            .filter(|kind| kind.domain == target.domain)
            .map(|kind| kind.name)
            .collect();
        return Err(anyhow!(
            "domain {} has no event type `{}`, only: {}; --unchecked sends it all the same",
            target.domain,
            target.name,
            known.join(", ")
        ));
    };
    let headers = header::MessageHeaders(Some(headers));
    let event = envelope::decode(&Submission {
        kind,
        headers: &headers as &dyn Headers,
        payload: payload.as_bytes(),
        fallback_id: "-",
        stored_at: Timestamp::from_unix_millis(0).context("the epoch")?,
    });
    match event.and_then(|event| event.topic().map_err(Into::into)) {
        Ok(_) => Ok(()),
        Err(rejection) => Err(anyhow!("{rejection}; --unchecked sends it all the same")),
    }
}
