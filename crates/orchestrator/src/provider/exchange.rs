//! A request under way as a stream of pieces: what the published APIs have in
//! common, namely server-sent events over HTTP and an end that must be seen.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;

use futures_util::stream;

use super::failure::{Failure, FailureKind};
use super::http::Body;
use super::sse::{SseEvent, SseParser};
use super::{Piece, Pieces};

/// Understands one API's events.
pub(super) trait Decoder: Send + 'static {
    /// Takes an event and appends what it means.
    fn event(&mut self, event: &SseEvent, pieces: &mut VecDeque<Piece>) -> Result<(), Failure>;

    /// The stream ended in good order without [`Piece::End`]; appends it if
    /// that may be.
    fn closed(&mut self, _pieces: &mut VecDeque<Piece>) -> Result<(), Failure> {
        Err(cut())
    }
}

/// A stream that ended without its end.
pub(super) fn cut() -> Failure {
    Failure::new(FailureKind::Cut, "the stream ended without its end")
}

type Opening = Pin<Box<dyn Future<Output = Result<Body, Failure>> + Send>>;

struct Exchange<D> {
    /// The request, until its answer begins.
    opening: Option<Opening>,
    body: Option<Body>,
    parser: SseParser,
    decoder: D,
    /// What is understood and not taken yet.
    pieces: VecDeque<Piece>,
    /// What ends the stream behind those pieces.
    failure: Option<Failure>,
    over: bool,
}

/// The pieces of the answer that a request opens.
pub(super) fn pieces<D: Decoder>(
    opening: impl Future<Output = Result<Body, Failure>> + Send + 'static,
    decoder: D,
) -> Pieces {
    let exchange = Exchange {
        opening: Some(Box::pin(opening)),
        body: None,
        parser: SseParser::default(),
        decoder,
        pieces: VecDeque::new(),
        failure: None,
        over: false,
    };
    Box::pin(stream::unfold(exchange, |mut exchange| async move {
        let item = exchange.next().await?;
        Some((item, exchange))
    }))
}

/// A stream that fails at once.
pub(super) fn failed(failure: Failure) -> Pieces {
    Box::pin(stream::iter([Err(failure)]))
}

impl<D: Decoder> Exchange<D> {
    async fn next(&mut self) -> Option<Result<Piece, Failure>> {
        while !self.over {
            if let Some(piece) = self.pieces.pop_front() {
                self.over = matches!(piece, Piece::End(_));
                return Some(Ok(piece));
            }
            if let Some(failure) = self.failure.take() {
                self.over = true;
                return Some(Err(failure));
            }
            if let Err(failure) = self.advance().await {
                self.failure = Some(failure);
            }
        }
        // The connection is of no more use, whatever the provider still sends.
        self.body = None;
        None
    }

    async fn advance(&mut self) -> Result<(), Failure> {
        if let Some(opening) = self.opening.take() {
            self.body = Some(opening.await?);
        }
        let Some(body) = &mut self.body else {
            return Err(cut());
        };
        let Some(bytes) = body.next().await? else {
            self.decoder.closed(&mut self.pieces)?;
            // Without an end among them the stream must not be read again.
            return match self.pieces.back() {
                Some(Piece::End(_)) => Ok(()),
                _ => Err(cut()),
            };
        };
        let mut events = Vec::new();
        let fed = self.parser.feed(&bytes, &mut events);
        for event in &events {
            self.decoder.event(event, &mut self.pieces)?;
            if let Some(Piece::End(_)) = self.pieces.back() {
                return Ok(());
            }
        }
        fed
    }
}
