//! Rooms: what reaches which, and what an event costs when there are many.

use std::sync::Arc;
use std::time::Instant;

use serde_json::json;
use signalbox_protocol::catalogue::{Audience, Channel, Topic};

use crate::hub::event::HubEvent;
use crate::hub::tests::{ALL, Client, TestHub, catch_up, event, follow, hub, publish};
use crate::hub::{Channels, Selection};

/// Stands for the channels of projects.
pub(in crate::hub) const OF_PROJECTS: Channels =
    Channels::of(&[Channel::ThreatAlerts, Channel::InvestigationProgress]);
/// Stands for the channel of agents.
pub(in crate::hub) const OF_AGENTS: Channels = Channels::of(&[Channel::SystemMetrics]);
/// All channels of the dialect.
pub(in crate::hub) const OF_ROOMS: Channels = Channels::of(&[
    Channel::ThreatAlerts,
    Channel::InvestigationProgress,
    Channel::SystemMetrics,
]);

/// An event that is addressed like this.
pub(in crate::hub) fn addressed(
    sequence: u64,
    channel: Channel,
    object: Option<&str>,
    audience: Audience,
) -> Arc<HubEvent> {
    let data = json!({"incident_id": "t", "threat_type": "x", "severity": "LOW"});
    let mut event = event(sequence, "threat_alert", data);
    Arc::get_mut(&mut event).unwrap().topic = Topic {
        channel,
        object: object.map(str::to_owned),
        audience,
    };
    event
}

pub(in crate::hub) fn project(id: &str) -> Selection {
    Selection {
        object: Some(id.to_owned()),
        ..Selection::of(OF_PROJECTS)
    }
}

fn agent(id: &str) -> Selection {
    Selection {
        object: Some(id.to_owned()),
        ..Selection::of(OF_AGENTS)
    }
}

pub(in crate::hub) fn user(id: &str) -> Selection {
    Selection {
        audience: Some(Audience::User(id.to_owned())),
        ..Selection::of(OF_ROOMS)
    }
}

pub(in crate::hub) fn everyone() -> Selection {
    Selection {
        audience: Some(Audience::Everyone),
        ..Selection::of(OF_ROOMS)
    }
}

fn to(user: &str) -> Audience {
    Audience::User(user.to_owned())
}

/// One event of each kind of address.
fn one_of_each() -> Vec<Arc<HubEvent>> {
    use Audience::{Everyone, Nobody};
    use Channel::{InvestigationProgress, ResponseActions, SystemMetrics, ThreatAlerts};
    vec![
        addressed(1, ThreatAlerts, Some("7"), Nobody),
        addressed(2, InvestigationProgress, Some("7"), to("ada")),
        // The same id, but of an agent.
        addressed(3, SystemMetrics, Some("7"), Everyone),
        addressed(4, ThreatAlerts, Some("8"), to("ada")),
        addressed(5, ThreatAlerts, None, Everyone),
        addressed(6, ThreatAlerts, None, to("bob")),
        // On a channel that has no rooms.
        addressed(7, ResponseActions, Some("7"), to("ada")),
        addressed(8, ResponseActions, None, Everyone),
        addressed(9, InvestigationProgress, None, Nobody),
    ]
}

#[test]
fn a_room_gets_what_is_addressed_to_it() {
    let mut hub = hub();
    let rooms = [
        (project("7"), vec![1, 2]),
        (agent("7"), vec![3]),
        (project("8"), vec![4]),
        (user("ada"), vec![2, 4]),
        (user("bob"), vec![6]),
        (everyone(), vec![3, 5]),
        (Selection::of(OF_PROJECTS), vec![1, 2, 4, 5, 6, 9]),
        (
            Selection {
                audience: Some(to("ada")),
                ..project("7")
            },
            vec![2],
        ),
        (
            Selection {
                audience: Some(Audience::Nobody),
                ..Selection::of(OF_ROOMS)
            },
            vec![1, 9],
        ),
        (Selection::of(Channels::default()), vec![]),
    ];
    let clients: Vec<Client> = rooms.iter().map(|_| Client::default()).collect();
    let members: Vec<_> = rooms
        .iter()
        .zip(&clients)
        .map(|((room, _), client)| follow(&mut hub, client, room.clone()).0)
        .collect();
    publish(&mut hub, &one_of_each());
    for ((room, expected), client) in rooms.iter().zip(&clients) {
        assert_eq!(client.received(), *expected, "{room:?}");
        // What is replayed is what came live.
        let late = Client::default();
        let member = hub.join(late.clone());
        let id = hub.subscribe(member, room.clone(), &ALL, Some(0));
        catch_up(&mut hub, id);
        assert_eq!(late.received(), *expected, "{room:?}");
        hub.leave(member);
    }
    members.into_iter().for_each(|member| hub.leave(member));
    assert!(hub.groups.is_unlisted() && hub.groups.len() == 0);
}

#[test]
fn an_event_for_several_rooms_of_a_connection_comes_once() {
    let (mut hub, client) = (hub(), Client::default());
    let member = hub.join(client.clone());
    for room in [project("7"), user("ada"), everyone(), agent("7")] {
        let id = hub.subscribe(member, room, &ALL, None);
        catch_up(&mut hub, id);
    }
    publish(&mut hub, &one_of_each());
    assert_eq!(client.received(), [1, 2, 3, 4, 5]);
}

/// A hub in which so many clients are in their own room, in two of a hundred
/// or so projects, and in the room of everyone.
fn crowd(count: usize) -> (TestHub, Vec<Client>) {
    let mut hub = hub();
    let clients: Vec<Client> = (0..count).map(|_| Client::default()).collect();
    for (index, client) in clients.iter().enumerate() {
        let member = hub.join(client.clone());
        let rooms = [
            user(&format!("user-{index}")),
            project(&format!("project-{}", index % 101)),
            project(&format!("project-{}", index % 103)),
            agent(&format!("agent-{}", index % 107)),
            everyone(),
        ];
        for room in rooms {
            let id = hub.subscribe(member, room, &ALL, None);
            catch_up(&mut hub, id);
        }
    }
    (hub, clients)
}

#[test]
fn an_event_costs_the_rooms_that_it_is_for() {
    let (mut hub, clients) = crowd(10_000);
    let one = addressed(1, Channel::ThreatAlerts, None, to("user-4711"));
    publish(&mut hub, &[one]);
    assert_eq!(hub.reached.len(), 1);
    assert_eq!(clients[4_711].received(), [1]);
    let project = Some("project-102");
    let two = addressed(2, Channel::ThreatAlerts, project, to("user-4711"));
    publish(&mut hub, &[two]);
    assert_eq!(hub.reached.len(), 2);
    publish(
        &mut hub,
        &[addressed(3, Channel::ThreatAlerts, None, to("nobody"))],
    );
    assert_eq!(hub.reached.len(), 0);
    let reached = clients
        .iter()
        .filter(|client| !client.received().is_empty());
    // Those of the project, and one.
    assert_eq!(reached.count(), 10_000_usize.div_ceil(103) - 1 + 1);
    assert_eq!(hub.evaluations(), 0);
}

/// Prints what an event costs beside ever more rooms that it is not for:
/// `cargo test --release --workspace -- --ignored --nocapture cost_of_an_event`.
#[test]
#[ignore = "a measurement"]
fn cost_of_an_event() {
    const EVENTS: u64 = 20_000;
    for count in [100, 1_000, 10_000, 100_000] {
        let (mut hub, _clients) = crowd(count);
        let events: Vec<_> = (1..=EVENTS)
            .map(|sequence| {
                let user = format!("user-{}", sequence % count as u64);
                addressed(sequence, Channel::ThreatAlerts, None, to(&user))
            })
            .collect();
        let began = Instant::now();
        for batch in events.chunks(256) {
            publish(&mut hub, batch);
        }
        let each = began.elapsed().as_nanos() / u128::from(EVENTS);
        eprintln!("{count:>7} clients, {} rooms: {each} ns", hub.groups.len());
    }
}
