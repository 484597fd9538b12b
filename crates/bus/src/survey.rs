//! Questions that every replica of a service answers: protobuf bodies over
//! core NATS. Nobody knows how many there are, so whoever asks waits for a
//! time.

use std::time::Duration;

use futures_util::StreamExt as _;
use prost::Message;
use tokio::time::{Instant, timeout_at};
use tracing::{debug, warn};
use uuid::Uuid;

use crate::connection::{Bus, BusError};

/// Asks on `subject` and gives everything that is answered within `patience`.
///
/// # Errors
/// When the question cannot be asked.
pub async fn ask_all<Req: Message, Rep: Message + Default>(
    bus: &Bus,
    subject: &'static str,
    request: &Req,
    patience: Duration,
) -> Result<Vec<Rep>, BusError> {
    let deadline = Instant::now() + patience;
    let reply = format!("{subject}.{}", Uuid::new_v4().simple());
    let failed = |error| BusError::api(format!("ask {subject}"), error);
    let client = bus.client();
    let mut answers = client
        .subscribe(reply.clone())
        .await
        .map_err(|error| failed(error.to_string()))?;
    let body = request.encode_to_vec().into();
    client
        .publish_with_reply(subject, reply, body)
        .await
        .map_err(|error| failed(error.to_string()))?;
    let mut all = Vec::new();
    while let Ok(Some(answer)) = timeout_at(deadline, answers.next()).await {
        match Rep::decode(answer.payload) {
            Ok(answer) => all.push(answer),
            Err(error) => warn!(subject, %error, "unreadable answer"),
        }
    }
    Ok(all)
}

/// Answers every question on `subject`, with as many messages as `answer`
/// gives, until the connection ends.
///
/// # Errors
/// When the subscription cannot be made.
pub async fn answer_all<Req, Rep, F>(
    bus: &Bus,
    subject: &'static str,
    answer: F,
) -> Result<(), BusError>
where
    Req: Message + Default,
    Rep: Message,
    F: Fn(Req) -> Vec<Rep>,
{
    let client = bus.client();
    let mut questions = client
        .subscribe(subject)
        .await
        .map_err(|error| BusError::api(format!("answer {subject}"), error))?;
    while let Some(question) = questions.next().await {
        let Some(reply) = question.reply else {
            continue;
        };
        let Ok(request) = Req::decode(question.payload) else {
            warn!(subject, "unreadable question");
            continue;
        };
        for part in answer(request) {
            let body = part.encode_to_vec().into();
            if let Err(error) = client.publish(reply.clone(), body).await {
                debug!(%error, subject, "answer not sent");
                break;
            }
        }
    }
    Ok(())
}

/// Says something to whoever listens on `subject`; nobody answers.
///
/// # Errors
/// When it cannot be said.
pub async fn tell_all(bus: &Bus, subject: &'static str, text: String) -> Result<(), BusError> {
    let said = bus.client().publish(subject, text.into()).await;
    said.map_err(|error| BusError::api(format!("tell {subject}"), error))
}

/// Hears what is said on `subject`, until the connection ends. What is no text
/// is left out.
///
/// # Errors
/// When the subscription cannot be made.
pub async fn hear_all(
    bus: &Bus,
    subject: &'static str,
    mut hear: impl AsyncFnMut(&str),
) -> Result<(), BusError> {
    let mut said = bus
        .client()
        .subscribe(subject)
        .await
        .map_err(|error| BusError::api(format!("hear {subject}"), error))?;
    while let Some(message) = said.next().await {
        if let Ok(text) = std::str::from_utf8(&message.payload) {
            hear(text).await;
        }
    }
    Ok(())
}
