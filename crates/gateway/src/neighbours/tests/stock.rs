//! The stock Socket.IO client behind a load balancer that sends each of its
//! requests to another gateway.

use serde_json::{Value, json};
use signalbox_socketio::Packet;
use signalbox_testkit::{NatsServer, NodeClient, RoundRobin};

use super::Gateway;
use super::desk::until;

fn tell(client: &NodeClient, command: &Value) {
    client.process().write_line(&command.to_string());
}

#[tokio::test(flavor = "local")]
async fn the_stock_client_needs_no_sticky_sessions() {
    let nats = NatsServer::start().await;
    let gateways = [
        Gateway::start(&nats, 2).await,
        Gateway::start(&nats, 1).await,
    ];
    let servers = || gateways.iter().flat_map(|gateway| &gateway.shards);
    let proxy = RoundRobin::start(servers().map(|shard| shard.address)).await;
    for (transports, last) in [
        (json!(["polling"]), "polling"),
        (json!(["polling", "websocket"]), "websocket"),
        (json!(["websocket"]), "websocket"),
    ] {
        let url = format!("http://{}", proxy.addr());
        let client = NodeClient::start("socketio.mjs", &json!({"url": url}));
        client.expect_event("ready").await;
        tell(
            &client,
            &json!({"join": "/", "options": {"transports": transports}}),
        );
        let connected = client.expect_event("connect").await;
        if connected["transport"] != last {
            assert_eq!(client.expect_event("upgrade").await["transport"], last);
        }
        for number in 0..30 {
            let payload = json!(["echo", number, {"bytes": [0, 30, 255]}]);
            tell(&client, &json!({"ns": "/", "emit": payload}));
            let back = client.expect_event("message").await;
            assert_eq!(back["args"], json!([number, {"bytes": [0, 30, 255]}]));
            tell(
                &client,
                &json!({"ns": "/", "emit": ["echo", number], "ack": 20_000}),
            );
            assert_eq!(client.expect_event("ack").await["answer"], number);
        }
        let members = || {
            servers()
                .map(|shard| shard.desk.members.borrow().len())
                .sum::<usize>()
        };
        assert_eq!(members(), 1);
        for number in 0..100 {
            let packet = Packet::event("/", "news").value(&number.into()).build();
            servers().for_each(|shard| shard.desk.broadcast("/", &packet));
        }
        for number in 0..100 {
            assert_eq!(
                client.expect_event("message").await["args"],
                json!([number])
            );
        }
        tell(&client, &json!({"ns": "/", "leave": true}));
        until("it left", || members() == 0).await;
    }
}

/// Events go on while clients move from poll to poll and from gateway to
/// gateway.
#[tokio::test(flavor = "local")]
async fn nothing_is_lost_or_doubled_while_clients_upgrade() {
    const CLIENTS: usize = 4;
    const EVENTS: usize = 400;
    let nats = NatsServer::start().await;
    let gateways = [
        Gateway::start(&nats, 1).await,
        Gateway::start(&nats, 1).await,
    ];
    let servers = || gateways.iter().flat_map(|gateway| &gateway.shards);
    let proxy = RoundRobin::start(servers().map(|shard| shard.address)).await;
    let url = format!("http://{}", proxy.addr());
    let clients: Vec<NodeClient> = (0..CLIENTS)
        .map(|_| NodeClient::start("socketio.mjs", &json!({"url": url})))
        .collect();
    for client in &clients {
        client.expect_event("ready").await;
        tell(client, &json!({"join": "/"}));
    }
    // Each client counts from the first that it gets: members join amid it.
    let mut number = 0;
    let mut first: [Option<usize>; CLIENTS] = [None; CLIENTS];
    let mut next: [usize; CLIENTS] = [0; CLIENTS];
    let members = || {
        servers()
            .map(|shard| shard.desk.members.borrow().len())
            .sum::<usize>()
    };
    while number < EVENTS || members() < CLIENTS {
        let packet = Packet::event("/", "news").value(&number.into()).build();
        servers().for_each(|shard| shard.desk.publish("/", &packet));
        number += 1;
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    for (index, client) in clients.iter().enumerate() {
        while next[index] < number {
            let value = client.next(signalbox_testkit::DEADLINE).await;
            if value["event"] != "message" {
                assert!(
                    value["event"] == "connect" || value["event"] == "upgrade",
                    "{value}"
                );
                continue;
            }
            let got = usize::try_from(value["args"][0].as_u64().unwrap()).unwrap();
            if first[index].is_none() {
                first[index] = Some(got);
                next[index] = got;
            }
            assert_eq!(got, next[index], "client {index}");
            next[index] += 1;
        }
    }
    assert_eq!(members(), CLIENTS);
    assert_eq!(proxy.upgrades(), CLIENTS);
}
