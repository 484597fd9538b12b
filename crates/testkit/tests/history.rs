//! History of rooms against a real server: one slot on any channel, and pages
//! that are smaller than a message.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use signalbox_bus::history::{self, PageLimits};
use signalbox_bus::server::User;
use signalbox_bus::stream::{self, StreamSettings, TOPICS};
use signalbox_bus::{Bus, BusOptions, subject};
use signalbox_protocol::catalogue::{Audience, Channel, Topic};
use signalbox_testkit::{DEADLINE, NatsServer};

async fn bus(server: &NatsServer, user: User) -> Bus {
    let options = BusOptions {
        url: server.url(user),
        wait: DEADLINE,
    };
    Bus::connect(&options, "test").await.unwrap()
}

/// A server with these topics on TOPICS, each message of so many bytes.
async fn server(topics: &[Topic], bytes: usize) -> NatsServer {
    let server = NatsServer::start().await;
    let admin = bus(&server, User::Admin).await;
    stream::init(&admin, &StreamSettings::default())
        .await
        .unwrap();
    for topic in topics {
        let stored = admin
            .jetstream()
            .publish(subject::topic(topic), vec![b'x'; bytes].into());
        stored.await.unwrap().await.unwrap();
    }
    server
}

fn topic(channel: Channel, object: Option<&str>, audience: Audience) -> Topic {
    Topic {
        channel,
        object: object.map(str::to_owned),
        audience,
    }
}

#[tokio::test]
async fn a_room_is_read_across_channels() {
    use Audience::{Everyone, Nobody};
    use Channel::{InvestigationProgress, SystemMetrics, ThreatAlerts};
    let ada = || Audience::User("ada@x".to_owned());
    let server = server(
        &[
            topic(ThreatAlerts, Some("a.b"), Nobody),
            topic(InvestigationProgress, Some("a.b"), ada()),
            topic(SystemMetrics, None, Everyone),
            topic(SystemMetrics, Some("a"), ada()),
            topic(ThreatAlerts, None, Nobody),
        ],
        10,
    )
    .await;
    let bus = bus(&server, User::Gateway).await;
    for (wildcard, expected) in [
        (subject::topics_to(None, Some("a.b"), None), vec![1, 2]),
        (subject::topics_to(None, None, Some(&ada())), vec![2, 4]),
        (subject::topics_to(None, None, Some(&Everyone)), vec![3]),
        (subject::topics_to(None, Some("none"), None), vec![]),
        (
            subject::topics_to(Some(ThreatAlerts), None, None),
            vec![1, 5],
        ),
        (subject::topics_to(None, None, None), vec![1, 2, 3, 4, 5]),
    ] {
        let limits = PageLimits::messages(100);
        let page = history::page_within(&bus, TOPICS, &wildcard, 1, limits)
            .await
            .unwrap();
        let found = page.messages.iter().map(|message| message.sequence);
        assert_eq!(found.collect::<Vec<_>>(), expected, "{wildcard}");
        assert!(page.is_last);
        let first = history::first_at_leader(&bus, TOPICS, &wildcard, 1).await;
        assert_eq!(first.unwrap(), expected.first().copied(), "{wildcard}");
    }
}

#[tokio::test]
async fn a_page_has_a_message_however_small_it_is() {
    let topics = vec![topic(Channel::ThreatAlerts, Some("a"), Audience::Nobody); 5];
    let server = server(&topics, 100 * 1024).await;
    let bus = bus(&server, User::Gateway).await;
    let wildcard = subject::topics_to(None, Some("a"), None);
    let limits = PageLimits {
        messages: 100,
        bytes: 1_024,
    };
    let (mut found, mut from) = (Vec::new(), 1);
    loop {
        let page = history::page_within(&bus, TOPICS, &wildcard, from, limits)
            .await
            .unwrap();
        assert!(page.is_last || !page.messages.is_empty());
        found.extend(page.messages.iter().map(|message| message.sequence));
        if page.is_last {
            break;
        }
        from = found.last().unwrap() + 1;
    }
    assert_eq!(found, [1, 2, 3, 4, 5]);
}
