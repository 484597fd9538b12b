//! From an event to the groups of its channel that it can reach.
//!
//! A group is listed once: under its object, else under its audience, else
//! under the values of one clause of its filter, else among those that every
//! event reaches. An event looks up its own object, audience, name and fields.
//! What it finds still has to be addressed, and to pass the filter.

use std::borrow::Cow;
use std::collections::HashMap;

use serde_json::Value;
use signalbox_protocol::catalogue::Audience;

use super::event::HubEvent;
use super::filter::{Clause, Compare, Filter, Look, Scalar};
use super::selection::Address;

#[cfg(test)]
mod tests;

/// The groups of one set of channels with something live in them.
#[derive(Default)]
pub(super) struct Index {
    /// Those that want every object and audience and have no clause to be
    /// found by.
    all: Vec<usize>,
    /// Those that want one object, by its id.
    by_object: HashMap<String, Vec<usize>>,
    /// Those that want what is addressed to one user, by the user's id.
    by_user: HashMap<String, Vec<usize>>,
    /// Those that want what is addressed to everyone.
    for_everyone: Vec<usize>,
    /// Those that want events of some names.
    by_name: Table,
    /// Those that want events of some priorities.
    by_priority: Table,
    /// Those that want some values of a field.
    by_field: HashMap<Cow<'static, str>, Field>,
}

/// Where a group is listed.
#[derive(Debug)]
pub(super) enum Place {
    /// Among those that every event reaches.
    All,
    /// Under an object.
    Object(String),
    /// Under a user.
    User(String),
    /// Among those for everyone.
    Everyone,
    /// Under the values of a clause.
    Clause(Clause),
}

/// Groups by what they want of one field.
#[derive(Default)]
struct Field {
    equal: Table,
    /// By text in lower case.
    folded: Table,
    contained: Table,
}

/// Groups by a value that they want.
#[derive(Default)]
struct Table {
    /// Apart from the others so that they are found without a copy.
    texts: HashMap<String, Vec<usize>>,
    others: HashMap<Scalar, Vec<usize>>,
}

impl Index {
    /// Lists a group; returns where, for [`Index::remove`].
    pub(super) fn insert(
        &mut self,
        id: usize,
        address: &Address,
        filter: Option<&Filter>,
    ) -> Place {
        if let Some(object) = &address.object {
            self.by_object.entry(object.clone()).or_default().push(id);
            return Place::Object(object.clone());
        }
        match &address.audience {
            Some(Audience::User(user)) => {
                self.by_user.entry(user.clone()).or_default().push(id);
                return Place::User(user.clone());
            }
            Some(Audience::Everyone) => {
                self.for_everyone.push(id);
                return Place::Everyone;
            }
            Some(Audience::Nobody) | None => {}
        }
        // Under what few others are listed: of "severity HIGH" and "resource
        // 17" the second is found by fewer events.
        let clause = filter
            .iter()
            .flat_map(|filter| filter.clauses())
            .filter(|clause| clause.is_findable())
            .min_by_key(|clause| (self.company(clause), clause.values().len()));
        let Some(clause) = clause.cloned() else {
            self.all.push(id);
            return Place::All;
        };
        let table = self.table_mut(&clause);
        clause
            .values()
            .iter()
            .for_each(|value| table.insert(value, id));
        Place::Clause(clause)
    }

    /// Takes a group off the list.
    pub(super) fn remove(&mut self, id: usize, place: &Place) {
        match place {
            Place::All => self.all.retain(|other| *other != id),
            Place::Object(object) => remove_from(&mut self.by_object, object, id),
            Place::User(user) => remove_from(&mut self.by_user, user, id),
            Place::Everyone => self.for_everyone.retain(|other| *other != id),
            Place::Clause(clause) => {
                let table = self.table_mut(clause);
                clause
                    .values()
                    .iter()
                    .for_each(|value| table.remove(value, id));
                if let Look::Field(name) = clause.look()
                    && self.by_field.get(name).is_some_and(Field::is_empty)
                {
                    self.by_field.remove(name);
                }
            }
        }
    }

    /// Adds the groups that an event can reach, each once.
    pub(super) fn reached_by(&self, event: &HubEvent, reached: &mut Vec<usize>) {
        reached.extend_from_slice(&self.all);
        if let Some(object) = &event.topic.object
            && let Some(ids) = self.by_object.get(object)
        {
            reached.extend_from_slice(ids);
        }
        match &event.topic.audience {
            Audience::User(user) => {
                reached.extend_from_slice(self.by_user.get(user).map_or(&[], Vec::as_slice));
            }
            Audience::Everyone => reached.extend_from_slice(&self.for_everyone),
            Audience::Nobody => {}
        }
        reached.extend_from_slice(self.by_name.with_text(event.event.kind.name));
        reached.extend_from_slice(self.by_priority.with_text(event.event.priority.as_str()));
        let data = &event.event.data;
        // Clients choose the names of the one, producers those of the other.
        if self.by_field.len() <= data.len() {
            for (name, field) in &self.by_field {
                if let Some(value) = data.get(name.as_ref()) {
                    field.reached_by(value, reached);
                }
            }
        } else {
            for (name, value) in data {
                if let Some(field) = self.by_field.get(name.as_str()) {
                    field.reached_by(value, reached);
                }
            }
        }
    }

    /// Whether no group is listed.
    pub(super) fn is_empty(&self) -> bool {
        let addressed = [&self.by_object, &self.by_user];
        self.all.is_empty()
            && self.for_everyone.is_empty()
            && addressed.iter().all(|lists| lists.is_empty())
            && self.by_name.is_empty()
            && self.by_priority.is_empty()
            && self.by_field.is_empty()
    }

    /// How many groups are listed under a clause's values.
    fn company(&self, clause: &Clause) -> usize {
        self.table(clause).map_or(0, |table| {
            let listed = |value| table.with(value).len();
            clause.values().iter().map(listed).sum()
        })
    }

    fn table(&self, clause: &Clause) -> Option<&Table> {
        match clause.look() {
            Look::Name => Some(&self.by_name),
            Look::Priority => Some(&self.by_priority),
            Look::Field(name) => {
                let field = self.by_field.get(name)?;
                Some(match clause.compare() {
                    Compare::Equal => &field.equal,
                    Compare::EqualIgnoringCase => &field.folded,
                    Compare::Contains => &field.contained,
                })
            }
        }
    }

    fn table_mut(&mut self, clause: &Clause) -> &mut Table {
        match clause.look() {
            Look::Name => &mut self.by_name,
            Look::Priority => &mut self.by_priority,
            Look::Field(name) => {
                let field = self.by_field.entry(name.clone()).or_default();
                match clause.compare() {
                    Compare::Equal => &mut field.equal,
                    Compare::EqualIgnoringCase => &mut field.folded,
                    Compare::Contains => &mut field.contained,
                }
            }
        }
    }
}

impl Field {
    fn reached_by(&self, value: &Value, reached: &mut Vec<usize>) {
        match value {
            Value::Array(items) => self.contained.reached_by_items(items, reached),
            Value::Object(_) => {}
            Value::String(text) => {
                reached.extend_from_slice(self.equal.with_text(text));
                if !self.folded.texts.is_empty() {
                    let folded = text.to_ascii_lowercase();
                    reached.extend_from_slice(self.folded.with_text(&folded));
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {
                if let Some(scalar) = Scalar::of(value) {
                    reached.extend_from_slice(self.equal.with(&scalar));
                }
            }
        }
    }

    fn is_empty(&self) -> bool {
        [&self.equal, &self.folded, &self.contained]
            .iter()
            .all(|table| table.is_empty())
    }
}

impl Table {
    fn is_empty(&self) -> bool {
        self.texts.is_empty() && self.others.is_empty()
    }

    fn insert(&mut self, value: &Scalar, id: usize) {
        match value {
            Scalar::Text(text) => self.texts.entry(text.clone()).or_default().push(id),
            other => self.others.entry(other.clone()).or_default().push(id),
        }
    }

    fn remove(&mut self, value: &Scalar, id: usize) {
        match value {
            Scalar::Text(text) => remove_from(&mut self.texts, text, id),
            other => remove_from(&mut self.others, other, id),
        }
    }

    fn with(&self, value: &Scalar) -> &[usize] {
        match value {
            Scalar::Text(text) => self.with_text(text),
            other => self.others.get(other).map_or(&[], Vec::as_slice),
        }
    }

    fn with_text(&self, text: &str) -> &[usize] {
        self.texts.get(text).map_or(&[], Vec::as_slice)
    }

    fn reached_by_items(&self, items: &[Value], reached: &mut Vec<usize>) {
        if self.texts.is_empty() {
            return;
        }
        let mut texts: Vec<&str> = items.iter().filter_map(Value::as_str).collect();
        texts.sort_unstable();
        texts.dedup();
        let mut found = Vec::new();
        for text in texts {
            found.extend_from_slice(self.with_text(text));
        }
        // A group may want several of the items.
        found.sort_unstable();
        found.dedup();
        reached.append(&mut found);
    }
}

fn remove_from<K: std::hash::Hash + Eq>(lists: &mut HashMap<K, Vec<usize>>, key: &K, id: usize) {
    if let Some(ids) = lists.get_mut(key) {
        ids.retain(|other| *other != id);
        if ids.is_empty() {
            lists.remove(key);
        }
    }
}
