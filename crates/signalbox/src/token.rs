//! `signalbox token`: exchanges an API key for an access token, as any client
//! would, at the gateway.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use http::{Request, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use signalbox_auth::bootstrap::Credentials;
use signalbox_service::{ExitError, Tasks, run as run_service};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::cli::TokenCommand;
use crate::output;
use crate::runtime::Runtime;
use crate::services::CREDENTIALS;

/// How long the gateway may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest answer that is read, in bytes.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

pub(crate) fn run(command: &TokenCommand) -> Result<(), ExitError> {
    let data_dir = &command.data.data_dir;
    let seconds = parse_ttl(&command.ttl).map_err(ExitError::config)?;
    let key = match (&command.key, command.role) {
        (Some(key), _) => key.clone(),
        (None, Some(role)) => {
            let path = data_dir.join(CREDENTIALS);
            let credentials = Credentials::read(&path).map_err(|error| missing(&path, &error))?;
            let key = credentials.key(role).ok_or_else(|| {
                ExitError::config(format!("{}: it has no key for role {role}", path.display()))
            })?;
            key.expose().expose().to_owned()
        }
        (None, None) => {
            return Err(ExitError::config(
                "name a role with --as, or a key with --key",
            ));
        }
    };
    let url = match &command.url {
        Some(url) => url.clone(),
        None => Runtime::read(data_dir)?
            .url()
            .ok_or_else(|| ExitError::config("the running gateway has no listener"))?,
    };
    let mut request = json!({"api_key": key, "ttl": seconds});
    if !command.project.is_empty() {
        request["projects"] = json!(command.project);
    }
    if let Some(agent_id) = &command.agent_id {
        request["agent_id"] = json!(agent_id);
    }
    run_service("token", Duration::ZERO, async |shutdown| {
        let tasks = Tasks::new(shutdown);
        let exchange = exchange(&url, request.to_string(), &tasks);
        let token = timeout(PATIENCE, exchange)
            .await
            .map_err(|_| anyhow!("{url} did not answer within {PATIENCE:?}"))??;
        output::line(token)?;
        Ok::<_, anyhow::Error>(())
    })
}

fn missing(path: &Path, error: &dyn std::fmt::Display) -> ExitError {
    ExitError::config(format!(
        "{}: {error}; start `signalbox up` or name a key with --key",
        path.display()
    ))
}

/// Asks the gateway at `url` for a token.
pub(crate) async fn exchange(url: &str, body: String, tasks: &Tasks) -> anyhow::Result<String> {
    let uri: Uri = url.parse().context("--url")?;
    if uri.scheme_str() != Some("http") {
        bail!("--url: expected http://host:port");
    }
    let authority = uri
        .authority()
        .context("--url: expected http://host:port")?;
    let port = authority.port_u16().unwrap_or(80);
    let stream = TcpStream::connect((authority.host(), port))
        .await
        .with_context(|| format!("no gateway at {url}"))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tasks.spawn("http connection", async move {
        connection.await.ok();
    });
    let request = Request::post("/api/v1/auth/token")
        .header(header::HOST, authority.as_str())
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES)
        .collect()
        .await
        .map_err(|error| anyhow!("unreadable answer: {error}"))?
        .to_bytes();
    let answer: Value =
        serde_json::from_slice(&body).with_context(|| format!("unreadable answer ({status})"))?;
    match answer["access_token"].as_str() {
        Some(token) => Ok(token.to_owned()),
        None => bail!(
            "{}",
            answer["error"]["message"]
                .as_str()
                .unwrap_or("no token in the answer")
        ),
    }
}

/// Seconds in a duration such as `90s`, `15m` or `12h`.
fn parse_ttl(text: &str) -> Result<u32, String> {
    let wrong = || format!("--ttl `{text}`: expected a number of s, m or h, such as 15m");
    let (number, factor) = match text.char_indices().last() {
        Some((at, 's')) => (&text[..at], 1),
        Some((at, 'm')) => (&text[..at], 60),
        Some((at, 'h')) => (&text[..at], 3_600),
        _ => (text, 1),
    };
    let number: u32 = number.parse().map_err(|_| wrong())?;
    number
        .checked_mul(factor)
        .filter(|seconds| *seconds > 0)
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_have_a_unit() {
        assert_eq!(parse_ttl("90"), Ok(90));
        assert_eq!(parse_ttl("90s"), Ok(90));
        assert_eq!(parse_ttl("15m"), Ok(900));
        assert_eq!(parse_ttl("12h"), Ok(43_200));
        for wrong in [
            "",
            "0",
            "h",
            "-1s",
            "1d",
            "9999999999s",
            "4000000000h",
            "1é",
        ] {
            assert!(parse_ttl(wrong).is_err(), "{wrong}");
        }
    }
}
