//! A TOML document of which every mistake is found, each with its line: values
//! are taken one by one, and what nobody takes is a mistake, too.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Something wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The line, from 1.
    pub line: usize,
    /// The field with its tables, such as `agents.helper.model`; empty where the
    /// file is no TOML.
    pub field: String,
    /// What was expected.
    pub message: String,
    /// How bad it is.
    pub severity: Severity,
}

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The file cannot be used.
    Error,
    /// It can, but something will not work as things are here and now.
    Warning,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: ", self.line)?;
        if self.severity == Severity::Warning {
            f.write_str("warning: ")?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

/// Problems on their way to whoever asked.
#[derive(Debug)]
pub(super) struct Problems {
    line_starts: Vec<usize>,
    found: Vec<Problem>,
}

/// A value with its place in the text.
pub(super) type Placed<T> = (T, Range<usize>);

impl Problems {
    /// For a text.
    pub(super) fn new(text: &str) -> Self {
        let starts = text.match_indices('\n').map(|(at, _)| at + 1);
        Self {
            line_starts: std::iter::once(0).chain(starts).collect(),
            found: Vec::new(),
        }
    }

    /// Adds an error.
    pub(super) fn error(&mut self, at: &Range<usize>, field: &str, message: impl Into<String>) {
        self.add(at, field, message.into(), Severity::Error);
    }

    /// Adds a warning.
    pub(super) fn warn(&mut self, at: &Range<usize>, field: &str, message: impl Into<String>) {
        self.add(at, field, message.into(), Severity::Warning);
    }

    fn add(&mut self, at: &Range<usize>, field: &str, message: String, severity: Severity) {
        let line = self.line_starts.partition_point(|start| *start <= at.start);
        self.found.push(Problem {
            line: line.max(1),
            field: field.to_owned(),
            message,
            severity,
        });
    }

    /// Whether any of them is an error.
    pub(super) fn has_errors(&self) -> bool {
        let mut found = self.found.iter();
        found.any(|problem| problem.severity == Severity::Error)
    }

    /// All of them, in the order of the file.
    pub(super) fn into_sorted(mut self) -> Vec<Problem> {
        self.found.sort_by_key(|problem| problem.line);
        self.found
    }
}

/// A value that is given either way.
#[derive(Debug)]
pub(super) enum FlagOrTable<'t> {
    /// Yes or no.
    Flag(bool),
    /// Yes, with more to say.
    Table(Section<'t>),
}

/// A table of which values are taken.
#[derive(Debug)]
pub(super) struct Section<'t> {
    /// Its name with those around it, such as `agents.helper`; empty for the file.
    pub(super) path: String,
    /// Where it begins.
    pub(super) place: Range<usize>,
    values: BTreeMap<&'t str, (Range<usize>, &'t Spanned<DeValue<'t>>)>,
    /// What was asked for, to name it where something else is found.
    known: Vec<&'static str>,
}

impl<'t> Section<'t> {
    /// A whole document.
    pub(super) fn of(table: &'t DeTable<'t>) -> Self {
        Self::new(String::new(), 0..0, table)
    }

    fn new(path: String, place: Range<usize>, table: &'t DeTable<'t>) -> Self {
        let values = table
            .iter()
            .map(|(key, value)| (key.get_ref().as_ref(), (key.span(), value)))
            .collect();
        Self {
            path,
            place,
            values,
            known: Vec::new(),
        }
    }

    /// The full name of a field.
    pub(super) fn field(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    fn take(&mut self, key: &'static str) -> Option<&'t Spanned<DeValue<'t>>> {
        self.known.push(key);
        self.values.remove(key).map(|(_, value)| value)
    }

    fn take_as<T>(
        &mut self,
        key: &'static str,
        problems: &mut Problems,
        expected: impl Into<String>,
        read: impl FnOnce(&'t DeValue<'t>) -> Option<T>,
    ) -> Option<Placed<T>> {
        let value = self.take(key)?;
        let read = read(value.get_ref());
        if read.is_none() {
            let message = format!(
                "expected {}, got {}",
                expected.into(),
                described(value.get_ref())
            );
            problems.error(&value.span(), &self.field(key), message);
        }
        read.map(|read| (read, value.span()))
    }

    /// A string.
    pub(super) fn text(
        &mut self,
        key: &'static str,
        problems: &mut Problems,
    ) -> Option<Placed<&'t str>> {
        self.take_as(key, problems, "a string", DeValue::as_str)
    }

    /// A string that is not blank and not longer than so many bytes.
    pub(super) fn bounded_text(
        &mut self,
        key: &'static str,
        most: usize,
        problems: &mut Problems,
    ) -> Option<Placed<&'t str>> {
        let expected = format!("a string of 1 to {most} bytes");
        self.take_as(key, problems, expected, |value| {
            let text = value.as_str()?;
            (!text.trim().is_empty() && text.len() <= most).then_some(text)
        })
    }

    /// One of some words.
    pub(super) fn word<T: Copy>(
        &mut self,
        key: &'static str,
        words: &[(&str, T)],
        problems: &mut Problems,
    ) -> Option<Placed<T>> {
        let names: Vec<String> = words.iter().map(|(name, _)| format!("{name:?}")).collect();
        let expected = names.join(" or ");
        self.take_as(key, problems, expected, |value| {
            let text = value.as_str()?;
            let found = words.iter().find(|(name, _)| *name == text);
            found.map(|(_, word)| *word)
        })
    }

    /// A boolean.
    pub(super) fn flag(&mut self, key: &'static str, problems: &mut Problems) -> Option<bool> {
        let found = self.take_as(key, problems, "true or false", DeValue::as_bool);
        found.map(|(flag, _)| flag)
    }

    /// A boolean or a table.
    pub(super) fn flag_or_table(
        &mut self,
        key: &'static str,
        problems: &mut Problems,
    ) -> Option<FlagOrTable<'t>> {
        let path = self.field(key);
        let (value, place) = self.take_as(key, problems, "true, false or a table", |value| {
            matches!(value, DeValue::Boolean(_) | DeValue::Table(_)).then_some(value)
        })?;
        Some(match value.as_table() {
            Some(table) => FlagOrTable::Table(Self::new(path, place, table)),
            None => FlagOrTable::Flag(value.as_bool() == Some(true)),
        })
    }

    /// A whole number in a range.
    pub(super) fn count(
        &mut self,
        key: &'static str,
        range: Range<u64>,
        problems: &mut Problems,
    ) -> Option<Placed<u64>> {
        let expected = format!("a whole number from {} to {}", range.start, range.end - 1);
        self.take_as(key, problems, expected, |value| {
            let integer = value.as_integer()?;
            let number = u64::from_str_radix(integer.as_str(), integer.radix()).ok()?;
            range.contains(&number).then_some(number)
        })
    }

    /// A number of at least zero, or more than it.
    pub(super) fn amount(
        &mut self,
        key: &'static str,
        most: f64,
        zero: bool,
        problems: &mut Problems,
    ) -> Option<Placed<f64>> {
        let least = if zero { "from 0" } else { "above 0" };
        let expected = format!("a number {least} up to {most}");
        self.take_as(key, problems, expected, |value| {
            let number = number(value)?;
            let low = if zero { number >= 0.0 } else { number > 0.0 };
            (low && number <= most).then_some(number)
        })
    }

    /// A duration in seconds, above zero.
    pub(super) fn seconds(
        &mut self,
        key: &'static str,
        most: Duration,
        problems: &mut Problems,
    ) -> Option<Placed<Duration>> {
        let most = most.as_secs_f64();
        let expected = format!("seconds, a number above 0 up to {most}");
        self.take_as(key, problems, expected, |value| {
            let number = number(value)?;
            (number > 0.0 && number <= most).then(|| Duration::from_secs_f64(number))
        })
    }

    /// A list of strings that are not blank.
    pub(super) fn texts(
        &mut self,
        key: &'static str,
        most: usize,
        problems: &mut Problems,
    ) -> Option<Vec<Placed<&'t str>>> {
        let expected = format!("a list of at most {most} strings");
        let (items, _) = self.take_as(key, problems, expected, |value| {
            let items = value.as_array()?;
            (items.len() <= most).then_some(items)
        })?;
        let mut texts = Vec::new();
        for (number, item) in items.iter().enumerate() {
            match item
                .get_ref()
                .as_str()
                .filter(|text| !text.trim().is_empty())
            {
                Some(text) => texts.push((text, item.span())),
                None => {
                    let field = format!("{}[{number}]", self.field(key));
                    let message = format!("expected a string, got {}", described(item.get_ref()));
                    problems.error(&item.span(), &field, message);
                }
            }
        }
        Some(texts)
    }

    /// A table, empty if there is none.
    pub(super) fn section(&mut self, key: &'static str, problems: &mut Problems) -> Section<'t> {
        let found = self.take_as(key, problems, "a table", DeValue::as_table);
        let path = self.field(key);
        match found {
            Some((table, place)) => Self::new(path, place, table),
            None => Section {
                path,
                place: self.place.clone(),
                values: BTreeMap::new(),
                known: Vec::new(),
            },
        }
    }

    /// The tables in this one, each with its name and the place of that. All of
    /// its values must be tables.
    pub(super) fn sections(self, problems: &mut Problems) -> Vec<(Placed<&'t str>, Section<'t>)> {
        let mut sections = Vec::new();
        for (name, (place, value)) in &self.values {
            let path = self.field(name);
            match value.get_ref().as_table() {
                Some(table) => {
                    let section = Self::new(path, place.clone(), table);
                    sections.push(((*name, place.clone()), section));
                }
                None => {
                    let message = format!(
                        "expected a table such as [{path}], got {}",
                        described(value.get_ref())
                    );
                    problems.error(&value.span(), &path, message);
                }
            }
        }
        sections
    }

    /// Where a value is that nobody has taken.
    pub(super) fn place_of(&self, key: &str) -> Option<Range<usize>> {
        self.values.get(key).map(|(place, _)| place.clone())
    }

    /// Drops a value of which enough was said.
    pub(super) fn forget(&mut self, key: &str) {
        self.values.remove(key);
    }

    /// Says of everything that was not taken that nobody knows it.
    pub(super) fn finish(self, problems: &mut Problems) {
        for (key, (place, _)) in &self.values {
            let mut known = self.known.clone();
            known.sort_unstable();
            let message = format!("there is no such field; expected {}", known.join(", "));
            problems.error(place, &self.field(key), message);
        }
    }
}

fn number(value: &DeValue<'_>) -> Option<f64> {
    let number: f64 = match value {
        DeValue::Float(float) => float.as_str().parse().ok()?,
        DeValue::Integer(integer) => {
            let number = i64::from_str_radix(integer.as_str(), integer.radix()).ok()?;
            number as f64
        }
        _ => return None,
    };
    number.is_finite().then_some(number)
}

/// A value as it is shown where another was expected. Text is not: it may be a
/// key that is in the wrong place.
fn described(value: &DeValue<'_>) -> String {
    match value {
        DeValue::Integer(integer) => integer.as_str().to_owned(),
        DeValue::Float(float) => float.as_str().to_owned(),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::String(text) if text.trim().is_empty() => "an empty string".to_owned(),
        DeValue::String(_) => "another string".to_owned(),
        DeValue::Array(items) => format!("a list of {}", items.len()),
        DeValue::Table(_) => "a table".to_owned(),
        DeValue::Datetime(_) => "a date".to_owned(),
    }
}
