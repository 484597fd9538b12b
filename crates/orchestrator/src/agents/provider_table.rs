//! `[providers.NAME]`: where models are and with which key.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use signalbox_identity::Secret;

use super::document::{Placed, Problems, Section};
use super::file::Source;
use crate::provider::Provider;
use crate::provider::anthropic::{self, Anthropic};
use crate::provider::http::{BaseUrl, CONNECT_TIMEOUT, Client, READ_TIMEOUT, Timeouts};
use crate::provider::offline::{self, Offline};
use crate::provider::openai::{self, OpenAi, TokenLimit};

/// The longest time that may be set, for connections and silence.
const MAX_TIMEOUT: Duration = Duration::from_secs(3600);
/// The longest wait between two words of the offline analyst.
const MAX_PACE: Duration = Duration::from_secs(60);
/// The largest file with a key, in bytes.
const MAX_KEY_BYTES: u64 = 16 * 1024;

/// The API that a provider speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Anthropic Messages.
    Anthropic,
    /// OpenAI chat completions.
    OpenAi,
    /// None: the analyst that is built in.
    Offline,
}

/// The words for the kinds.
const KINDS: &[(&str, Kind)] = &[
    ("anthropic", Kind::Anthropic),
    ("openai", Kind::OpenAi),
    ("offline", Kind::Offline),
];

/// The words for the names of the token limit.
const TOKEN_LIMITS: &[(&str, TokenLimit)] = &[
    ("max_tokens", TokenLimit::Tokens),
    ("max_completion_tokens", TokenLimit::CompletionTokens),
];

/// A provider as the file has it.
#[derive(Clone, Debug)]
pub(super) struct ProviderDraft {
    pub(super) kind: Kind,
    base: BaseUrl,
    key: KeyPlace,
    timeouts: Timeouts,
    token_limit: Option<TokenLimit>,
    pace: Duration,
    /// Where the table is, and what it is called there.
    place: Range<usize>,
    field: String,
}

#[derive(Clone, Debug)]
enum KeyPlace {
    None,
    Variable(String),
    File(PathBuf),
}

/// The providers that need no table.
pub(super) fn shipped() -> Vec<(String, ProviderDraft)> {
    let draft = |name: &str, kind, variable: Option<&str>| {
        let draft = ProviderDraft {
            kind,
            base: default_base(kind),
            key: variable.map_or(KeyPlace::None, |name| KeyPlace::Variable(name.to_owned())),
            timeouts: Timeouts::default(),
            token_limit: None,
            pace: offline::PACE,
            place: 0..0,
            field: format!("providers.{name}"),
        };
        (name.to_owned(), draft)
    };
    vec![
        draft("anthropic", Kind::Anthropic, Some("ANTHROPIC_API_KEY")),
        draft("openai", Kind::OpenAi, Some("OPENAI_API_KEY")),
        draft("offline", Kind::Offline, None),
    ]
}

fn default_base(kind: Kind) -> BaseUrl {
    let url = match kind {
        Kind::Anthropic => anthropic::BASE_URL,
        Kind::OpenAi | Kind::Offline => openai::BASE_URL,
    };
    BaseUrl::parse(url, false).expect("the built-in addresses are valid")
}

/// Reads a table; `None` when it is too wrong to go on with.
pub(super) fn read(
    mut section: Section<'_>,
    directory: &Path,
    problems: &mut Problems,
) -> Option<ProviderDraft> {
    let before = section.place.clone();
    let names_kind = section.place_of("kind").is_some();
    let kind = section.word("kind", KINDS, problems);
    let url = section.text("base_url", problems);
    let allow_http = section.flag("allow_http", problems).unwrap_or(false);
    let variable = section.bounded_text("api_key_env", 256, problems);
    let file = section.bounded_text("api_key_file", 4096, problems);
    let connect = section.seconds("connect_timeout", MAX_TIMEOUT, problems);
    let read = section.seconds("read_timeout", MAX_TIMEOUT, problems);
    let token_limit = section.word("token_limit", TOKEN_LIMITS, problems);
    let pace = section.amount("pace", MAX_PACE.as_secs_f64(), true, problems);
    let field = section.path.clone();
    let kind_field = section.field("kind");
    for key in ["api_key", "key", "token"] {
        if let Some(place) = section.place_of(key) {
            let message = "keys do not belong into this file; expected api_key_env, the name of \
                           a variable, or api_key_file";
            problems.error(&place, &section.field(key), message);
            section.forget(key);
        }
    }
    let base = url.as_ref().map(|(url, place)| {
        BaseUrl::parse(url, allow_http)
            .inspect_err(|message| problems.error(place, &section.field("base_url"), message))
    });
    if let (Some(_), Some((_, place))) = (&variable, &file) {
        let message = "expected either api_key_env or api_key_file, not both";
        problems.error(place, &section.field("api_key_file"), message);
    }
    let Some((kind, _)) = kind else {
        if !names_kind {
            let message = "expected \"anthropic\", \"openai\" or \"offline\"";
            problems.error(&before, &kind_field, message);
        }
        section.finish(problems);
        return None;
    };
    let network = [
        ("base_url", url.is_some()),
        ("api_key_env", variable.is_some()),
        ("api_key_file", file.is_some()),
    ];
    for (key, given) in network {
        if kind == Kind::Offline && given {
            let message = "the offline analyst has no address and no key";
            problems.error(&before, &section.field(key), message);
        }
    }
    section.finish(problems);
    let base = base.unwrap_or_else(|| Ok(default_base(kind)));
    Some(ProviderDraft {
        kind,
        // The mistake is told; what follows may have others.
        base: base.unwrap_or_else(|_| default_base(kind)),
        key: match (variable, file) {
            (Some((name, _)), _) => KeyPlace::Variable(name.to_owned()),
            (None, Some((path, _))) => KeyPlace::File(directory.join(path)),
            (None, None) => KeyPlace::None,
        },
        timeouts: Timeouts {
            connect: value(connect).unwrap_or(CONNECT_TIMEOUT),
            read: value(read).unwrap_or(READ_TIMEOUT),
        },
        token_limit: value(token_limit),
        pace: value(pace).map_or(offline::PACE, Duration::from_secs_f64),
        place: before,
        field,
    })
}

impl ProviderDraft {
    /// Makes the provider for an agent that names it at `used`. A key that is not
    /// there is a warning, or an error if the provider is about to be used.
    pub(super) fn build(
        &self,
        client: &Client,
        source: &Source<'_>,
        used: &Range<usize>,
        problems: &mut Problems,
    ) -> Arc<dyn Provider> {
        let key = self.key(source).unwrap_or_else(|message| {
            let field = format!("{}.{}", self.field, self.key.field());
            // One that needs no table is nowhere in the file.
            let place = if self.place.is_empty() {
                used
            } else {
                &self.place
            };
            if source.keys_required {
                problems.error(place, &field, message);
            } else {
                problems.warn(place, &field, message);
            }
            None
        });
        let (client, base) = (client.clone(), self.base.clone());
        let timeouts = self.timeouts;
        match self.kind {
            Kind::Anthropic => Arc::new(Anthropic {
                client,
                base,
                key,
                timeouts,
            }),
            Kind::OpenAi => Arc::new(OpenAi {
                client,
                base,
                key,
                timeouts,
                token_limit: self.token_limit,
            }),
            Kind::Offline => Arc::new(Offline { pace: self.pace }),
        }
    }

    fn key(&self, source: &Source<'_>) -> Result<Option<Arc<Secret>>, String> {
        let text = match &self.key {
            KeyPlace::None => return Ok(None),
            KeyPlace::Variable(name) => (source.variable)(name).ok_or_else(|| {
                format!("expected a key in the variable {name}, which is not set")
            })?,
            KeyPlace::File(path) => {
                let shown = path.display();
                let size = std::fs::metadata(path).map_err(|error| format!("{shown}: {error}"))?;
                if size.len() > MAX_KEY_BYTES {
                    return Err(format!("{shown}: expected a key, got {} bytes", size.len()));
                }
                std::fs::read_to_string(path).map_err(|error| format!("{shown}: {error}"))?
            }
        };
        let text = text.trim();
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("expected a key: one line of printable characters".to_owned());
        }
        Ok(Some(Arc::new(Secret::new(text))))
    }
}

impl KeyPlace {
    const fn field(&self) -> &'static str {
        match self {
            Self::File(_) => "api_key_file",
            Self::None | Self::Variable(_) => "api_key_env",
        }
    }
}

fn value<T>(placed: Option<Placed<T>>) -> Option<T> {
    placed.map(|(value, _)| value)
}
