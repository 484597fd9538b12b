//! Filters on an event's data: clauses that must all hold, each satisfied by
//! any of its values.

use serde_json::{Map, Value};

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

/// One condition on one field.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Clause {
    field: &'static str,
    compare: Compare,
    /// Sorted and without repeats, so that equal clauses are equal values.
    values: Vec<String>,
}

/// Conditions that must all hold.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Filter {
    clauses: Vec<Clause>,
}

impl Clause {
    pub(crate) fn new(field: &'static str, compare: Compare, mut values: Vec<String>) -> Self {
        if compare == Compare::EqualIgnoringCase {
            values
                .iter_mut()
                .for_each(|value| value.make_ascii_lowercase());
        }
        values.sort_unstable();
        values.dedup();
        Self {
            field,
            compare,
            values,
        }
    }

    fn holds(&self, data: &Map<String, Value>) -> bool {
        let listed = |text: &str| self.values.iter().any(|value| value == text);
        match (self.compare, data.get(self.field)) {
            (Compare::Equal, Some(Value::String(text))) => listed(text),
            (Compare::EqualIgnoringCase, Some(Value::String(text))) => self
                .values
                .iter()
                .any(|value| value.eq_ignore_ascii_case(text)),
            (Compare::Contains, Some(Value::Array(items))) => {
                items.iter().filter_map(Value::as_str).any(listed)
            }
            _ => false,
        }
    }
}

impl Filter {
    /// The filter with these clauses; `None` without any.
    pub(crate) fn new(mut clauses: Vec<Clause>) -> Option<Self> {
        clauses.sort_unstable();
        clauses.dedup();
        (!clauses.is_empty()).then_some(Self { clauses })
    }

    /// Whether an event's data passes.
    pub(crate) fn passes(&self, data: &Map<String, Value>) -> bool {
        self.clauses.iter().all(|clause| clause.holds(data))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

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
        filter.passes(data.as_object().unwrap())
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
}
