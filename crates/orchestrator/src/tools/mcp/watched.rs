//! What both transports have in common: they tell when they have ended, and a
//! server that asks and asks without taking the answers is not read on.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rmcp::model::JsonRpcMessage;
use rmcp::service::{RoleClient, TxJsonRpcMessage};
use rmcp::transport::Transport;
use signalbox_bus::assignment::Stop;
use tokio::sync::Notify;

use super::wire::Incoming;

/// Answers and notifications on their way to a server; when there are as many,
/// nothing more is read of it until some have arrived.
const UNDER_WAY_CAPACITY: usize = 64;

/// A transport that is watched.
pub(super) struct Watched<T> {
    transport: T,
    ended: Stop,
    under_way: Arc<UnderWay>,
}

#[derive(Debug, Default)]
struct UnderWay {
    count: AtomicUsize,
    fewer: Notify,
}

/// One message on its way.
struct Counted(Arc<UnderWay>);

impl Counted {
    fn new(under_way: &Arc<UnderWay>) -> Self {
        under_way.count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(under_way))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::Relaxed);
        // Kept for whoever waits next, so that none is missed.
        self.0.fewer.notify_one();
    }
}

impl<T> Watched<T> {
    /// Utters `ended` when the server has nothing more to say.
    pub(super) fn new(transport: T, ended: Stop) -> Self {
        Self {
            transport,
            ended,
            under_way: Arc::default(),
        }
    }
}

impl<T: Transport<RoleClient>> Transport<RoleClient> for Watched<T> {
    type Error = T::Error;

    fn send(
        &mut self,
        message: TxJsonRpcMessage<RoleClient>,
    ) -> impl Future<Output = Result<(), T::Error>> + Send + 'static {
        // Requests are ours: there are as many as there are calls.
        let is_request = matches!(message, JsonRpcMessage::Request(_));
        let counted = (!is_request).then(|| Counted::new(&self.under_way));
        let sending = self.transport.send(message);
        async move {
            let _counted = counted;
            sending.await
        }
    }

    async fn receive(&mut self) -> Option<Incoming> {
        while self.under_way.count.load(Ordering::Relaxed) >= UNDER_WAY_CAPACITY {
            self.under_way.fewer.notified().await;
        }
        let message = self.transport.receive().await;
        if message.is_none() {
            self.ended.trigger();
        }
        message
    }

    async fn close(&mut self) -> Result<(), T::Error> {
        self.transport.close().await
    }
}
