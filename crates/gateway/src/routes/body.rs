//! Reading request bodies: bounded in bytes and in time.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use signalbox_protocol::ErrorCode;
use signalbox_protocol::frame::fields::{Complaint, Fields};
use tokio::time::timeout;

/// How much of a body that is too large is read and dropped, in bytes: most
/// clients look for an answer only once they have sent everything.
const DISCARDED_BYTES: usize = 8 * 1024 * 1024;

/// The longest body of a request about credentials, in bytes.
const MAX_OBJECT_BYTES: usize = 16 * 1024;

/// Reads a JSON object that comes within `patience`.
///
/// # Errors
/// What to tell the client.
pub(super) async fn fields(body: Body, patience: Duration) -> Result<Fields, Complaint> {
    let bytes = read(body, MAX_OBJECT_BYTES, patience).await?;
    let no_json = || Complaint::plain(ErrorCode::InvalidJson, "expected a JSON object");
    let text = std::str::from_utf8(&bytes).map_err(|_| no_json())?;
    Fields::parse(text).map_err(|complaint| match complaint.code {
        ErrorCode::InvalidJson => no_json(),
        _ => complaint,
    })
}

/// Reads a body of at most `limit` bytes within `patience`.
///
/// # Errors
/// What to tell the client.
pub(super) async fn read(body: Body, limit: usize, patience: Duration) -> Result<Bytes, Complaint> {
    match timeout(patience, collect(body, limit)).await {
        Ok(collected) => collected,
        Err(_) => Err(Complaint::plain(
            ErrorCode::InvalidMessage,
            "the body took too long to arrive",
        )),
    }
}

async fn collect(body: Body, limit: usize) -> Result<Bytes, Complaint> {
    let mut chunks = body.into_data_stream();
    let mut collected = BytesMut::new();
    let mut seen = 0_usize;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| {
            Complaint::plain(ErrorCode::InvalidMessage, "the body ended before its end")
        })?;
        seen = seen.saturating_add(chunk.len());
        if seen <= limit {
            collected.extend_from_slice(&chunk);
        } else {
            collected.clear();
            if seen > DISCARDED_BYTES {
                break;
            }
        }
    }
    if seen > limit {
        let message = format!("expected a body of at most {limit} bytes");
        return Err(Complaint::plain(ErrorCode::TooLarge, message));
    }
    Ok(collected.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn bodies_are_bounded_to_the_byte() {
        let body = |size| Body::from(vec![b'x'; size]);
        assert_eq!(read(body(10), 10, PATIENCE).await.unwrap().len(), 10);
        let complaint = read(body(11), 10, PATIENCE).await.unwrap_err();
        assert_eq!(complaint.code, ErrorCode::TooLarge);
        assert!(complaint.message.contains("10 bytes"), "{complaint}");
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_are_bounded_in_time() {
        let never = futures_util::stream::pending::<Result<Bytes, std::io::Error>>();
        let complaint = read(Body::from_stream(never), 10, PATIENCE)
            .await
            .unwrap_err();
        assert!(complaint.message.contains("too long"), "{complaint}");
    }
}
