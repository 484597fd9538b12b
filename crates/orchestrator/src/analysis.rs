//! The structured result of an answer: its schema, whether what a model wrote
//! fits it, and the one request that asks for a better one.
//!
//! For a turn: take [`End::analysis`](crate::provider::End::analysis) of the
//! answer that has no calls, and have it [`checked`]. On a [`Fault`] send
//! [`repair`]'s request, as any other within clocks and budgets, ignore its
//! text, and read again. The second fault ends the turn.

pub mod evidence;
pub(crate) mod weight;

use std::fmt;

use serde_json::Value;

use crate::provider::{AnalysisRequest, Message, Request};

/// The largest analysis, in bytes.
pub const MAX_BYTES: usize = 64 * 1024;
/// The most problems that are told to a model at once.
const MAX_PROBLEMS: usize = 20;
/// How much of a value a problem shows, in characters.
const MAX_PROBLEM_CHARS: usize = 300;
/// The one problem of a value that is not checked.
const TOO_MUCH: &str = "/: too much to check against the schema; write less, and less nested";

/// A JSON schema, ready for use.
pub struct Schema {
    source: Value,
    validator: jsonschema::Validator,
}

impl Schema {
    /// Compiles a schema; it must describe an object and refer to nothing outside.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn compile(source: Value) -> Result<Self, String> {
        let validator = validator(&source)?;
        Ok(Self { source, validator })
    }

    /// Compiles a schema in whose place another is `checked`: one that takes all
    /// that it takes, and not more effort.
    ///
    /// # Errors
    /// Says what is wrong with either.
    pub(crate) fn compile_as(source: Value, checked: &Value) -> Result<Self, String> {
        let valid = jsonschema::meta::options().validate(&source);
        valid.map_err(|error| shortened(&error.to_string()))?;
        let validator = validator(checked)?;
        Ok(Self { source, validator })
    }

    /// The schema as JSON.
    #[must_use]
    pub const fn source(&self) -> &Value {
        &self.source
    }

    /// What is wrong with a value, at most twenty problems, each with its place. One
    /// whose check would take too much is a problem itself.
    #[must_use]
    pub fn problems(&self, value: &Value) -> Vec<String> {
        if weight::check(&self.source, value).is_err() {
            return vec![TOO_MUCH.to_owned()];
        }
        self.validator
            .iter_errors(value)
            .take(MAX_PROBLEMS)
            .map(|error| {
                let place = error.instance_path().to_string();
                let place = if place.is_empty() { "/" } else { &place };
                shortened(&format!("{place}: {error}"))
            })
            .collect()
    }
}

fn validator(schema: &Value) -> Result<jsonschema::Validator, String> {
    if schema.get("type").and_then(Value::as_str) != Some("object") {
        return Err("expected a JSON schema with \"type\": \"object\"".to_owned());
    }
    jsonschema::validator_for(schema).map_err(|error| shortened(&error.to_string()))
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Schema").field(&self.source).finish()
    }
}

/// Why an analysis cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", problems.join("; "))]
pub struct Fault {
    /// What the model wrote, if anything.
    pub written: Option<String>,
    /// What is wrong, each with its place.
    pub problems: Vec<String>,
}

/// Reads what a model wrote as its analysis.
///
/// # Errors
/// Says why it cannot be used.
pub fn read(schema: &Schema, written: Option<&str>) -> Result<Value, Fault> {
    let fault = |problems: Vec<String>| Fault {
        written: written.map(str::to_owned),
        problems,
    };
    let Some(text) = written else {
        return Err(fault(vec!["there is no analysis".to_owned()]));
    };
    if text.len() > MAX_BYTES {
        return Err(Fault {
            written: None,
            problems: vec![format!("the analysis is longer than {MAX_BYTES} bytes")],
        });
    }
    let value: Value = serde_json::from_str(text)
        .map_err(|error| fault(vec![format!("it is not JSON: {error}")]))?;
    let problems = schema.problems(&value);
    if problems.is_empty() {
        Ok(value)
    } else {
        Err(fault(problems))
    }
}

/// As [`read`], for the answer to a request: what it cites must be there as well,
/// where the schema has it cite evidence.
///
/// # Errors
/// Says why it cannot be used.
pub fn checked(schema: &Schema, request: &Request, written: Option<&str>) -> Result<Value, Fault> {
    let analysis = read(schema, written)?;
    if !evidence::is_cited(schema.source()) {
        return Ok(analysis);
    }
    let problems = evidence::problems(&analysis, &evidence::Given::of(request));
    if problems.is_empty() {
        return Ok(analysis);
    }
    Err(Fault {
        written: written.map(str::to_owned),
        problems,
    })
}

/// The request that asks once more for the analysis of an answer, and for
/// nothing else. `None` when the request asked for no analysis.
#[must_use]
pub fn repair(request: &Request, answer: &str, fault: &Fault) -> Option<Request> {
    let analysis = request.analysis.as_ref()?;
    let mut messages = request.messages.clone();
    if !answer.trim().is_empty() {
        messages.push(Message::Agent {
            text: answer.to_owned(),
            calls: Vec::new(),
        });
    }
    messages.push(Message::User {
        text: complaint(fault),
        context: None,
    });
    Some(Request {
        messages,
        analysis: Some(AnalysisRequest {
            only: true,
            ..analysis.clone()
        }),
        so_far: String::new(),
        ..request.clone()
    })
}

fn complaint(fault: &Fault) -> String {
    let problems = fault.problems.join("\n- ");
    let written = fault.written.as_ref().map_or_else(String::new, |written| {
        format!("\n\nThis is what was handed over:\n{written}")
    });
    format!(
        "The analysis of your answer above cannot be used:\n- {problems}{written}\n\n\
         Hand over the corrected analysis now, and nothing else."
    )
}

fn shortened(text: &str) -> String {
    if text.chars().count() <= MAX_PROBLEM_CHARS {
        return text.to_owned();
    }
    let start: String = text.chars().take(MAX_PROBLEM_CHARS).collect();
    format!("{start}…")
}
