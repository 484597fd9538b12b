//! Who may ask gateways, and hear what gateways are asked, tried against a real
//! server: sessions are known there by their secrets.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use async_nats::{ConnectOptions, Event};
use futures_util::StreamExt as _;
use signalbox_bus::server::User;
use signalbox_bus::subject::GatewayId;
use signalbox_testkit::{DEADLINE, NatsServer, settle};
use tokio::sync::mpsc;
use tokio::time::timeout;

#[tokio::test]
async fn gateways_ask_and_hear_each_other() {
    let server = NatsServer::start().await;
    let (one, other) = (
        server.connect(User::Gateway).await,
        server.connect(User::Gateway).await,
    );
    let id = GatewayId::new(7);
    let mut asked = one.subscribe(id.all()).await.unwrap();
    settle(&one).await;
    other.publish(id.ask(), "request".into()).await.unwrap();
    let request = timeout(DEADLINE, asked.next()).await.unwrap().unwrap();
    assert_eq!(request.payload, "request");
}

#[tokio::test]
async fn nobody_else_does() {
    let server = NatsServer::start().await;
    let id = GatewayId::new(7);
    for user in User::ALL {
        if matches!(user, User::Admin | User::Gateway) {
            continue;
        }
        let (sender, mut refusals) = mpsc::channel(64);
        let options = ConnectOptions::new().event_callback(move |event| {
            if let Event::ServerError(error) = event {
                sender.try_send(error.to_string().to_lowercase()).ok();
            }
            std::future::ready(())
        });
        let client = server.connect_with(user, options).await;
        for (operation, subject) in [
            ("publish", id.ask()),
            ("publish", id.answer(1)),
            ("subscription", id.all()),
            ("subscription", "svc.gateway.>".to_owned()),
            ("subscription", "svc.>".to_owned()),
        ] {
            let mut subscription = None;
            if operation == "publish" {
                client.publish(subject.clone(), "{}".into()).await.unwrap();
            } else {
                subscription = Some(client.subscribe(subject.clone()).await.unwrap());
            }
            client.flush().await.unwrap();
            let refusal = timeout(DEADLINE, refusals.recv()).await;
            let refusal =
                refusal.unwrap_or_else(|_| panic!("{user}: {operation} {subject} passed"));
            let expected = format!("permissions violation for {operation} to \"{subject}\"");
            let refusal = refusal.unwrap();
            assert!(refusal.contains(&expected), "{user}: {refusal}");
            drop(subscription);
        }
    }
}
