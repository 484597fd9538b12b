//! Filters on an event's data: clauses that must all hold, each satisfied by
//! any of its values.

use std::borrow::Cow;

use serde_json::{Number, Value};
use signalbox_protocol::event::{Event, Priority};

/// How a clause compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Compare {
    /// The field is one of the values.
    Equal,
    /// The field is one of the values, whatever the case of ASCII letters.
    EqualIgnoringCase,
    /// The field is a list with one of the values in it.
    Contains,
}

/// A JSON value that filters compare with. Numbers that are equal are one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Scalar {
    /// `null`, and a field that is not there.
    Null,
    /// `true` or `false`.
    Flag(bool),
    /// A whole number, however it is written.
    Integer(i128),
    /// Any other number, by its bits.
    Fraction(u64),
    /// A string.
    Text(String),
}

/// What a clause looks at.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Look {
    /// The event's name.
    Name,
    /// How urgent it is.
    Priority,
    /// A top-level field of its data.
    Field(Cow<'static, str>),
}

/// One condition on one field, or on the event's name or priority.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Clause {
    look: Look,
    compare: Compare,
    /// Sorted and without repeats, so that equal clauses are equal values.
    values: Vec<Scalar>,
}

/// Conditions that must all hold.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Filter {
    clauses: Vec<Clause>,
}

/// The largest number up to which every whole one is exact as a float.
const EXACT: f64 = 9_007_199_254_740_992.0;

impl Scalar {
    /// The value, unless it is a list or an object.
    pub(crate) fn of(value: &Value) -> Option<Self> {
        match value {
            Value::Null => Some(Self::Null),
            Value::Bool(flag) => Some(Self::Flag(*flag)),
            Value::Number(number) => Self::number(number),
            Value::String(text) => Some(Self::Text(text.clone())),
            Value::Array(_) | Value::Object(_) => None,
        }
    }

    fn number(number: &Number) -> Option<Self> {
        if let Some(whole) = number.as_i64() {
            return Some(Self::Integer(whole.into()));
        }
        if let Some(whole) = number.as_u64() {
            return Some(Self::Integer(whole.into()));
        }
        let float = number.as_f64()?;
        Some(if float.fract() == 0.0 && float.abs() <= EXACT {
            Self::Integer(float as i128)
        } else {
            Self::Fraction(float.to_bits())
        })
    }

    /// Whether a value is this one.
    fn is(&self, value: &Value) -> bool {
        match (self, value) {
            (Self::Text(text), Value::String(other)) => text == other,
            (Self::Flag(flag), Value::Bool(other)) => flag == other,
            (Self::Null, Value::Null) => true,
            (Self::Integer(_) | Self::Fraction(_), Value::Number(number)) => {
                Self::number(number).as_ref() == Some(self)
            }
            _ => false,
        }
    }
}

impl Clause {
    /// A field that compares with one of these texts.
    pub(crate) fn new(field: &'static str, compare: Compare, mut values: Vec<String>) -> Self {
        if compare == Compare::EqualIgnoringCase {
            values
                .iter_mut()
                .for_each(|value| value.make_ascii_lowercase());
        }
        let values = values.into_iter().map(Scalar::Text).collect();
        Self::of(Look::Field(Cow::Borrowed(field)), compare, values)
    }

    /// A field that is one of these values.
    pub(crate) fn on_value(field: String, values: Vec<Scalar>) -> Self {
        Self::of(Look::Field(Cow::Owned(field)), Compare::Equal, values)
    }

    /// An event of one of these names.
    pub(crate) fn on_name(names: Vec<String>) -> Self {
        let values = names.into_iter().map(Scalar::Text).collect();
        Self::of(Look::Name, Compare::Equal, values)
    }

    /// An event of at least this priority.
    pub(crate) fn on_priority(least: Priority) -> Self {
        let all = [Priority::Low, Priority::Medium, Priority::High];
        let accepted = all.into_iter().filter(|priority| *priority >= least);
        let values = accepted.map(|priority| Scalar::Text(priority.as_str().to_owned()));
        Self::of(Look::Priority, Compare::Equal, values.collect())
    }

    fn of(look: Look, compare: Compare, mut values: Vec<Scalar>) -> Self {
        values.sort_unstable();
        values.dedup();
        Self {
            look,
            compare,
            values,
        }
    }

    pub(super) const fn look(&self) -> &Look {
        &self.look
    }

    pub(super) const fn compare(&self) -> Compare {
        self.compare
    }

    pub(super) fn values(&self) -> &[Scalar] {
        &self.values
    }

    /// Whether every event for which it holds has one of its values: `null`
    /// also matches a field that is not there.
    pub(super) fn is_findable(&self) -> bool {
        !self.values.contains(&Scalar::Null)
    }

    fn holds(&self, event: &Event) -> bool {
        let listed = |text: &str| self.values.iter().any(|value| value.is_text(text));
        let field = match &self.look {
            Look::Name => return listed(event.kind.name),
            Look::Priority => return listed(event.priority.as_str()),
            Look::Field(field) => event.data.get(field.as_ref()).unwrap_or(&Value::Null),
        };
        match (self.compare, field) {
            (Compare::Equal, value) => self.values.iter().any(|listed| listed.is(value)),
            (Compare::EqualIgnoringCase, Value::String(text)) => {
                self.values.iter().any(|value| match value {
                    Scalar::Text(value) => value.eq_ignore_ascii_case(text),
                    _ => false,
                })
            }
            (Compare::Contains, Value::Array(items)) => {
                items.iter().filter_map(Value::as_str).any(listed)
            }
            _ => false,
        }
    }
}

impl Scalar {
    fn is_text(&self, text: &str) -> bool {
        matches!(self, Self::Text(value) if value == text)
    }
}

impl Filter {
    /// The filter with these clauses; `None` without any.
    pub(crate) fn new(mut clauses: Vec<Clause>) -> Option<Self> {
        clauses.sort_unstable();
        clauses.dedup();
        (!clauses.is_empty()).then_some(Self { clauses })
    }

    pub(super) fn clauses(&self) -> &[Clause] {
        &self.clauses
    }

    /// Whether an event passes.
    pub(crate) fn passes(&self, event: &Event) -> bool {
        self.clauses.iter().all(|clause| clause.holds(event))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use signalbox_protocol::catalogue;
    use signalbox_protocol::domain::Domain;
    use signalbox_protocol::timestamp::Timestamp;

    use super::*;

    fn filter(clauses: &[(&'static str, Compare, &[&str])]) -> Filter {
        let clauses = clauses
            .iter()
            .map(|(field, compare, values)| {
                Clause::new(
                    field,
                    *compare,
                    values.iter().map(ToString::to_string).collect(),
                )
            })
            .collect();
        Filter::new(clauses).unwrap()
    }

    fn passes(filter: &Filter, data: Value) -> bool {
        filter.passes(&event("node_joined", data))
    }

    fn event(name: &str, data: Value) -> Event {
        Event {
            kind: catalogue::find(Domain::Network, name).unwrap(),
            id: "e".into(),
            source: "s".into(),
            time: Timestamp::from_unix_millis(0).unwrap(),
            priority: Priority::Low,
            data: data.as_object().unwrap().clone(),
        }
    }

    #[test]
    fn values_are_alternatives_and_clauses_add_up() {
        let both = filter(&[
            (
                "severity",
                Compare::EqualIgnoringCase,
                &["HIGH", "critical"],
            ),
            ("resources", Compare::Contains, &["vpc-1", "vpc-2"]),
        ]);
        assert!(passes(
            &both,
            json!({"severity": "Critical", "resources": ["x", "vpc-2"]})
        ));
        assert!(!passes(
            &both,
            json!({"severity": "LOW", "resources": ["vpc-2"]})
        ));
        assert!(!passes(
            &both,
            json!({"severity": "HIGH", "resources": ["x"]})
        ));
        assert!(!passes(&both, json!({"severity": "HIGH"})));
        let exact = filter(&[("kind", Compare::Equal, &["a"])]);
        assert!(passes(&exact, json!({"kind": "a"})) && !passes(&exact, json!({"kind": "A"})));
    }

    #[test]
    fn filters_that_mean_the_same_are_equal() {
        let one = filter(&[
            ("a", Compare::Equal, &["1", "2", "1"]),
            ("b", Compare::EqualIgnoringCase, &["X"]),
        ]);
        let other = filter(&[
            ("b", Compare::EqualIgnoringCase, &["x"]),
            ("a", Compare::Equal, &["2", "1"]),
        ]);
        assert_eq!(one, other);
        assert_eq!(Filter::new(Vec::new()), None);
    }

    #[test]
    fn any_scalar_is_compared_by_value() {
        let values = |values: Value| {
            let values = values.as_array().unwrap().iter().filter_map(Scalar::of);
            Filter::new(vec![Clause::on_value("f".into(), values.collect())]).unwrap()
        };
        for (listed, good, bad) in [
            (json!([1]), json!({"f": 1.0}), json!({"f": "1"})),
            (json!([0.5]), json!({"f": 0.5}), json!({"f": 0})),
            (json!([true]), json!({"f": true}), json!({"f": 1})),
            (json!(["a", 7]), json!({"f": 7}), json!({"f": "A"})),
            (json!([null]), json!({}), json!({"f": false})),
            (json!([u64::MAX]), json!({"f": u64::MAX}), json!({"f": -1})),
        ] {
            assert!(passes(&values(listed.clone()), good), "{listed}");
            assert!(!passes(&values(listed.clone()), bad), "{listed}");
        }
    }

    #[test]
    fn priorities_count_from_the_least() {
        let event = |priority| Event {
            priority,
            ..event("node_joined", json!({}))
        };
        let passes = |least, priority| {
            let filter = Filter::new(vec![Clause::on_priority(least)]).unwrap();
            filter.passes(&event(priority))
        };
        assert!(passes(Priority::Medium, Priority::High));
        assert!(passes(Priority::Medium, Priority::Medium));
        assert!(!passes(Priority::Medium, Priority::Low));
        assert!(passes(Priority::Low, Priority::Low));
        assert!(!passes(Priority::High, Priority::Medium));
    }

    #[test]
    fn names_are_told_apart() {
        let joined = Filter::new(vec![Clause::on_name(vec!["node_joined".into()])]).unwrap();
        assert!(joined.passes(&event("node_joined", json!({}))));
        assert!(!joined.passes(&event("node_left", json!({}))));
    }
}
