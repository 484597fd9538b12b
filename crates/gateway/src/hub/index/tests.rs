//! An event finds exactly the subscriptions whose filters it passes, and
//! evaluates few others.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::hub::event::HubEvent;
use crate::hub::tests::{Client, TestHub, alerts, event, follow, hub, publish};
use crate::hub::{Clause, Compare, Filter, Scalar, Selection};

fn texts(values: &[&str]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

fn filter(clauses: Vec<Clause>) -> Selection {
    alerts(Filter::new(clauses))
}

fn alert(sequence: u64, data: &Value) -> Arc<HubEvent> {
    event(sequence, "threat_alert", data.clone())
}

/// How many filters an event costs.
fn evaluations(hub: &mut TestHub, data: &Value) -> u64 {
    let before = hub.evaluations();
    let sequence = hub.cursor().sequence + 1;
    publish(hub, &[alert(sequence, data)]);
    hub.evaluations() - before
}

#[test]
fn equal_filters_cost_one_evaluation_however_many_use_them() {
    let mut hub = hub();
    let clients: Vec<Client> = (0..1_000).map(|_| Client::default()).collect();
    for (index, client) in clients.iter().enumerate() {
        let kind = format!("type-{}", index % 50);
        let clauses = vec![
            Clause::new("severity", Compare::EqualIgnoringCase, texts(&["high"])),
            Clause::new("threat_type", Compare::Equal, vec![kind]),
        ];
        follow(&mut hub, client, filter(clauses));
    }
    let data = json!({"severity": "HIGH", "threat_type": "type-7"});
    assert!(evaluations(&mut hub, &data) <= 50);
    let reached = clients.iter().filter(|client| client.received() == [1]);
    assert_eq!(reached.count(), 20);
}

#[test]
fn subscriptions_to_a_resource_each_cost_nothing_to_others() {
    let mut hub = hub();
    let clients: Vec<Client> = (0..5_000).map(|_| Client::default()).collect();
    for (index, client) in clients.iter().enumerate() {
        // What all have in common must not be what they are found by.
        let clauses = vec![
            Clause::on_name(texts(&["threat_alert"])),
            Clause::new(
                "affected_resources",
                Compare::Contains,
                vec![format!("r-{index}")],
            ),
            Clause::new("severity", Compare::EqualIgnoringCase, texts(&["HIGH"])),
        ];
        follow(&mut hub, client, filter(clauses));
    }
    let data = |resource: &str| json!({"severity": "HIGH", "affected_resources": [resource]});
    let cost = evaluations(&mut hub, &data("r-4711"));
    assert!(cost <= 3, "{cost}");
    assert!(evaluations(&mut hub, &data("r-none")) <= 2);
    assert_eq!(clients[4_711].received(), [1]);
    let reached = clients
        .iter()
        .filter(|client| !client.received().is_empty());
    assert_eq!(reached.count(), 1);
}

#[test]
fn nothing_is_left_of_groups_that_ended() {
    let mut hub = hub();
    let members: Vec<_> = [
        Clause::new("severity", Compare::EqualIgnoringCase, texts(&["HIGH"])),
        Clause::new("affected_resources", Compare::Contains, texts(&["a", "b"])),
        Clause::on_value("n".into(), vec![Scalar::Integer(1), Scalar::Flag(true)]),
        Clause::on_value("n".into(), vec![Scalar::Null]),
        Clause::on_name(texts(&["threat_alert"])),
    ]
    .into_iter()
    .map(|clause| follow(&mut hub, &Client::default(), filter(vec![clause])).0)
    .collect();
    let data = json!({"severity": "high", "affected_resources": ["a", "b", "a"], "n": 1});
    assert_eq!(evaluations(&mut hub, &data), 5);
    assert_eq!(hub.reached.len(), 5);
    members.into_iter().for_each(|member| hub.leave(member));
    assert_eq!(evaluations(&mut hub, &data), 0);
    assert!(hub.groups.is_unlisted());
}

/// Values that differ, look alike, or are equal in another form.
fn value() -> impl Strategy<Value = Value> {
    prop::sample::select(vec![
        json!(null),
        json!(true),
        json!(1),
        json!(1.0),
        json!(0.5),
        json!(-3),
        json!("1"),
        json!("a"),
        json!("A"),
        json!("b"),
        json!("true"),
        json!(["a"]),
        json!(["a", "b", "a"]),
        json!([1, "b"]),
        json!([]),
        json!({"a": "a"}),
    ])
}

fn clause() -> impl Strategy<Value = Clause> {
    let field = prop::sample::select(vec!["f", "g", "h"]);
    let text = prop::sample::select(vec!["a", "A", "b", "1"]);
    let values = prop::collection::vec(value(), 1..4);
    prop_oneof![
        (field.clone(), prop::collection::vec(text, 1..3), 0..3_u8).prop_map(
            |(field, values, how)| {
                let compare = match how {
                    0 => Compare::Equal,
                    1 => Compare::EqualIgnoringCase,
                    _ => Compare::Contains,
                };
                Clause::new(field, compare, texts(&values))
            }
        ),
        (field, values).prop_map(|(field, values)| {
            Clause::on_value(field.into(), values.iter().filter_map(Scalar::of).collect())
        }),
        any::<bool>().prop_map(|here| {
            Clause::on_name(texts(&[if here { "threat_alert" } else { "nope" }]))
        }),
    ]
}

proptest! {
    /// Looking up finds what asking every filter finds, while filters come
    /// and go.
    #[test]
    fn looking_up_finds_what_asking_everyone_finds(
        filters in prop::collection::vec(prop::collection::vec(clause(), 0..3), 1..20),
        leaving in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
        events in prop::collection::vec(
            prop::collection::btree_map(prop::sample::select(vec!["f", "g", "h", "i"]), value(), 0..4),
            1..10,
        ),
    ) {
        let mut hub = hub();
        let mut present: Vec<_> = filters
            .into_iter()
            .map(|clauses| {
                let client = Client::default();
                let asked = Filter::new(clauses);
                let (member, _) = follow(&mut hub, &client, alerts(asked.clone()));
                (client, asked, member)
            })
            .collect();
        for index in leaving {
            if !present.is_empty() {
                let (.., member) = present.swap_remove(index.index(present.len()));
                hub.leave(member);
            }
        }
        let events: Vec<_> = (1..)
            .zip(events)
            .map(|(sequence, data)| alert(sequence, &json!(data)))
            .collect();
        publish(&mut hub, &events);
        for (client, asked, _) in present {
            let expected: Vec<u64> = events
                .iter()
                .filter(|event| asked.as_ref().is_none_or(|filter| filter.passes(&event.event)))
                .map(|event| event.sequence)
                .collect();
            prop_assert_eq!(client.received(), expected, "{:?}", asked);
        }
    }
}
