//! A model's server, a provider in front of it, and what came of a request.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use serde_json::json;
use signalbox_identity::Secret;
use signalbox_orchestrator::analysis::Schema;
use signalbox_orchestrator::provider::anthropic::Anthropic;
use signalbox_orchestrator::provider::http::{BaseUrl, Client, Timeouts};
use signalbox_orchestrator::provider::openai::OpenAi;
use signalbox_orchestrator::provider::retry::{self, Retries};
use signalbox_orchestrator::provider::{
    AnalysisRequest, Ask, End, Failure, Message, Piece, Pieces, Provider, Request, Usage,
};
use signalbox_testkit::FakeModel;

/// The key of every provider here.
pub(crate) const KEY: &str = "sk-very-secret";

/// An API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Api {
    Anthropic,
    OpenAi,
}

/// Both.
pub(crate) const BOTH: [Api; 2] = [Api::Anthropic, Api::OpenAi];

/// What came of a request.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) text: String,
    pub(crate) usage: Option<Usage>,
    pub(crate) retried: Vec<(Failure, Duration)>,
    /// What each of these cost.
    pub(crate) costs: Vec<Usage>,
    pub(crate) progress: usize,
    pub(crate) end: Option<End>,
    pub(crate) failure: Option<Failure>,
}

impl Outcome {
    /// Reads a stream to its end.
    pub(crate) async fn of(mut pieces: Pieces) -> Self {
        let mut outcome = Self::default();
        while let Some(item) = pieces.next().await {
            assert!(
                outcome.end.is_none() && outcome.failure.is_none(),
                "more behind the end"
            );
            match item {
                Ok(Piece::Text(text)) => {
                    assert!(!text.is_empty());
                    outcome.text.push_str(&text);
                }
                Ok(Piece::Progress) => outcome.progress += 1,
                Ok(Piece::Usage(usage)) => outcome.usage = Some(usage),
                Ok(Piece::Retrying {
                    failure,
                    wait,
                    cost,
                }) => {
                    outcome.retried.push((failure, wait));
                    outcome.costs.push(cost);
                }
                Ok(Piece::End(end)) => outcome.end = Some(end),
                Err(failure) => outcome.failure = Some(failure),
            }
        }
        assert!(
            outcome.end.is_some() != outcome.failure.is_some(),
            "{outcome:?}"
        );
        outcome
    }

    /// Its end.
    pub(crate) fn ended(&self) -> &End {
        self.end.as_ref().unwrap_or_else(|| panic!("{self:?}"))
    }

    /// Its failure.
    pub(crate) fn failed(&self) -> &Failure {
        self.failure.as_ref().unwrap_or_else(|| panic!("{self:?}"))
    }
}

/// A provider in front of a server.
pub(crate) fn provider(api: Api, model: &FakeModel) -> Arc<dyn Provider> {
    provider_with(api, model, Timeouts::default())
}

/// One with other time-outs.
pub(crate) fn provider_with(api: Api, model: &FakeModel, timeouts: Timeouts) -> Arc<dyn Provider> {
    let key = Some(Arc::new(Secret::new(KEY)));
    let url = match api {
        Api::Anthropic => model.anthropic_url(),
        Api::OpenAi => model.openai_url(),
    };
    let base = BaseUrl::parse(&url, false).unwrap();
    let client = Client::new();
    match api {
        Api::Anthropic => Arc::new(Anthropic {
            client,
            base,
            key,
            timeouts,
        }),
        Api::OpenAi => Arc::new(OpenAi {
            client,
            base,
            key,
            timeouts,
            token_limit: None,
        }),
    }
}

/// A question.
pub(crate) fn asking(text: &str) -> Request {
    Request {
        model: "fake".to_owned(),
        instructions: "Be brief.".to_owned(),
        messages: vec![Message::User {
            text: text.to_owned(),
            context: None,
        }],
        max_output_tokens: 100,
        ..Request::default()
    }
}

/// A question whose answer has an analysis: an object with a number `n`.
pub(crate) fn asking_analysis(ask: Ask) -> Request {
    let schema =
        json!({"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}});
    Request {
        analysis: Some(AnalysisRequest {
            schema: Arc::new(Schema::compile(schema).unwrap()),
            ask,
            only: false,
        }),
        ..asking("How many?")
    }
}

/// Sends a request once.
pub(crate) async fn once(api: Api, model: &FakeModel, request: Request) -> Outcome {
    Outcome::of(provider(api, model).answer(Arc::new(request))).await
}

/// Sends a request, and again as often as is set, without waits of our own.
pub(crate) async fn retrying(api: Api, model: &FakeModel, most: u32) -> Outcome {
    let retries = Retries {
        most,
        first_wait: Duration::ZERO,
        longest_wait: Duration::ZERO,
        longest_asked: Duration::from_secs(1),
    };
    let provider = provider(api, model);
    Outcome::of(retry::answer(provider, Arc::new(asking("Hello?")), retries)).await
}
