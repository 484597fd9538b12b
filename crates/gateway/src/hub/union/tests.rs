//! What arrives when subscriptions of one connection select different parts
//! of the same events (T5 at the level of the hub).

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::json;
use signalbox_protocol::cursor::{Cursor, Epoch};
use signalbox_transport::Frame;

use crate::hub::event::HubEvent;
use crate::hub::tests::{Client, alerts, catch_up, event, publish};
use crate::hub::{Encode, Hub, Progress, RingLimits, SubscriptionId};

/// Writes `sequence:letters`: those letters that the event has and it selects.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Letters(String);

thread_local! {
    static ENCODED: Cell<usize> = const { Cell::new(0) };
}

impl Encode for Letters {
    fn encode(&self, event: &HubEvent, _: Cursor) -> Option<Frame> {
        ENCODED.set(ENCODED.get() + 1);
        let has = event.event.data["severity"].as_str().unwrap();
        let selected: String = has
            .chars()
            .filter(|letter| self.0.contains(*letter))
            .collect();
        (!selected.is_empty()).then(|| Frame::text(&format!("{}:{selected}", event.sequence)))
    }

    fn union(&self, other: &Self) -> Self {
        let all: BTreeSet<char> = self.0.chars().chain(other.0.chars()).collect();
        Self(all.into_iter().collect())
    }
}

type LetterHub = Hub<Letters, Client>;

fn hub() -> LetterHub {
    Hub::new(Epoch::from_unix_micros(1), 0, RingLimits::default())
}

fn letters(sequence: u64, letters: &str) -> Arc<HubEvent> {
    let data = json!({"incident_id": "t", "threat_type": "x", "severity": letters});
    event(sequence, "threat_alert", data)
}

fn select(letters: &str) -> Letters {
    Letters(letters.to_owned())
}

fn frames(client: &Client) -> Vec<String> {
    client.frames.borrow().clone()
}

/// A connection with a live subscription for each selection.
fn connect(hub: &mut LetterHub, selections: &[&str]) -> Client {
    let client = Client::default();
    let member = hub.join(client.clone());
    for letters in selections {
        let id = hub.subscribe(member, alerts(None), &select(letters), None);
        catch_up(hub, id);
    }
    client
}

#[test]
fn one_delivery_has_what_all_subscriptions_select() {
    let mut hub = hub();
    let both = connect(&mut hub, &["a", "b"]);
    let one = connect(&mut hub, &["b"]);
    let same = connect(&mut hub, &["c", "c"]);
    publish(
        &mut hub,
        &[
            letters(1, "abc"),
            letters(2, "b"),
            letters(3, "cd"),
            letters(4, "e"),
        ],
    );
    assert_eq!(frames(&both), ["1:ab", "2:b"]);
    assert_eq!(frames(&one), ["1:b", "2:b"]);
    assert_eq!(frames(&same), ["1:c", "3:c"]);
}

#[test]
fn equal_unions_are_encoded_once() {
    let mut hub = hub();
    let clients: Vec<Client> = (0..300)
        .map(|index| match index % 3 {
            0 => connect(&mut hub, &["a", "b"]),
            1 => connect(&mut hub, &["b", "a"]),
            // Another way to the same letters.
            _ => connect(&mut hub, &["ab", "b"]),
        })
        .collect();
    let before = ENCODED.get();
    publish(&mut hub, &[letters(1, "abc")]);
    // "a", "b" and "ab", which is also the union.
    assert_eq!(ENCODED.get() - before, 3);
    assert!(clients.iter().all(|client| frames(client) == ["1:ab"]));
    let narrow = connect(&mut hub, &["c", "d"]);
    let before = ENCODED.get();
    publish(&mut hub, &[letters(2, "abcd")]);
    assert_eq!(ENCODED.get() - before, 6);
    assert_eq!(frames(&narrow), ["2:cd"]);
}

#[test]
fn a_subscription_that_ends_takes_its_part_with_it() {
    let mut hub = hub();
    let client = Client::default();
    let member = hub.join(client.clone());
    let first = hub.subscribe(member, alerts(None), &select("a"), None);
    let second = hub.subscribe(member, alerts(None), &select("b"), None);
    catch_up(&mut hub, first);
    catch_up(&mut hub, second);
    publish(&mut hub, &[letters(1, "ab")]);
    hub.unsubscribe(first);
    publish(&mut hub, &[letters(2, "ab")]);
    assert_eq!(frames(&client), ["1:ab", "2:b"]);
}

#[test]
fn subscriptions_that_return_together_are_replayed_as_one() {
    let mut hub = hub();
    publish(
        &mut hub,
        &[letters(1, "ab"), letters(2, "a"), letters(3, "b")],
    );
    let client = Client::default();
    let member = hub.join(client.clone());
    let ids =
        ["a", "b"].map(|letters| hub.subscribe(member, alerts(None), &select(letters), Some(0)));
    for id in ids {
        catch_up(&mut hub, id);
    }
    publish(&mut hub, &[letters(4, "ab")]);
    assert_eq!(frames(&client), ["1:ab", "2:a", "3:b", "4:ab"]);
}

#[test]
fn one_that_returns_after_another_was_replayed_loses_nothing() {
    let mut hub = hub();
    publish(&mut hub, &[letters(1, "ab"), letters(2, "a")]);
    let client = Client::default();
    let member = hub.join(client.clone());
    let first = hub.subscribe(member, alerts(None), &select("a"), Some(0));
    catch_up(&mut hub, first);
    let second = hub.subscribe(member, alerts(None), &select("b"), Some(0));
    // Live events in the meantime are for both, and do not come again.
    publish(&mut hub, &[letters(3, "ab")]);
    catch_up(&mut hub, second);
    let third = hub.subscribe(member, alerts(None), &select("ab"), Some(0));
    catch_up(&mut hub, third);
    assert_eq!(frames(&client), ["1:a", "2:a", "3:ab", "1:ab"]);
}

#[test]
fn a_replacement_brings_what_its_predecessor_left_out() {
    let mut hub = hub();
    let client = Client::default();
    let member = hub.join(client.clone());
    let first = hub.subscribe(member, alerts(None), &select("a"), None);
    let other = hub.subscribe(member, alerts(None), &select("d"), None);
    catch_up(&mut hub, first);
    catch_up(&mut hub, other);
    publish(&mut hub, &[letters(1, "abd"), letters(2, "a")]);
    let second = hub
        .replace(first, alerts(None), &select("b"), Some(0))
        .unwrap();
    // What was replaced takes no part in what is new.
    publish(&mut hub, &[letters(3, "abd")]);
    catch_up(&mut hub, second);
    publish(&mut hub, &[letters(4, "abd")]);
    let expected = ["1:ad", "2:a", "3:bd", "1:abd", "4:bd"];
    assert_eq!(frames(&client), expected);
}

#[test]
fn a_member_may_not_mix_without_end() {
    let mut hub = hub();
    let member = hub.join(Client::default());
    for _ in 0..super::MAX_MIXED {
        assert!(!hub.is_crowded(member, alerts(None).channels, &select("a")));
        hub.subscribe(member, alerts(None), &select("a"), None);
    }
    assert!(!hub.is_crowded(member, alerts(None).channels, &select("a")));
    assert!(hub.is_crowded(member, alerts(None).channels, &select("b")));
}

proptest! {
    /// Whatever the interleaving, each subscription gets every letter that it
    /// selects of each event behind its start; nothing comes again that has
    /// not more in it; and whoever begins before the events gets each once.
    #[test]
    fn every_interleaving_delivers_all_that_is_selected(
        early in prop::collection::vec(1_u8..8, 0..3),
        steps in prop::collection::vec((0_u8..6, 0_u8..8, 0_u64..20), 1..60),
    ) {
        let subset = |bits: u8| -> String {
            "abc".chars().enumerate().filter(|(bit, _)| bits & (1 << bit) != 0).map(|(_, letter)| letter).collect()
        };
        let mut hub = hub();
        let client = Client::default();
        let member = hub.join(client.clone());
        let mut active: Vec<(SubscriptionId, u8, u64)> = Vec::new();
        for bits in &early {
            let id = hub.subscribe(member, alerts(None), &select(&subset(*bits)), Some(0));
            active.push((id, *bits, 0));
        }
        let mut events = Vec::new();
        let mut late = false;
        for (action, bits, number) in steps {
            match action {
                0..=2 => {
                    let sequence = events.len() as u64 + 1;
                    events.push(bits);
                    publish(&mut hub, &[letters(sequence, &format!("{}.", subset(bits)))]);
                }
                3 if bits > 0 => {
                    let start = number.min(events.len() as u64);
                    let id = hub.subscribe(member, alerts(None), &select(&subset(bits)), Some(start));
                    active.push((id, bits, start));
                    late |= start < events.len() as u64;
                }
                4 | 5 if !active.is_empty() => {
                    let index = number as usize % active.len();
                    hub.catch_up(active[index].0);
                }
                _ => {}
            }
        }
        for (id, ..) in &active {
            while hub.catch_up(*id) != Progress::Live {}
        }
        let mut got = vec![Vec::<String>::new(); events.len()];
        for frame in frames(&client) {
            let (sequence, letters) = frame.split_once(':').unwrap();
            got[sequence.parse::<usize>().unwrap() - 1].push(letters.to_owned());
        }
        for (index, has) in events.iter().enumerate() {
            let wanted = active.iter().filter(|(.., start)| (*start as usize) <= index).fold(0, |all, (_, bits, _)| all | bits);
            let wanted = subset(wanted & has);
            prop_assert_eq!(got[index].last().cloned().unwrap_or_default(), wanted, "{} {:?}", index + 1, got);
            prop_assert!(got[index].windows(2).all(|pair| pair[0].len() < pair[1].len()), "{:?}", got);
            prop_assert!(late || got[index].len() <= 1, "{:?}", got);
        }
    }
}
