//! Makes what a tool gave harmless to show and to read: no terminal obeys it, no
//! reader is shown it in another order or with something hidden in it, and it is
//! not larger than it may be. What it says stays what it says: whether that is true
//! or meant well is not judged here.
//!
//! ```text
//! removed: escape sequences of terminals, whole where they have their end
//!          control characters but line feed and tab
//!          what turns the writing direction around, invisible characters
//! ```

use std::collections::HashMap;

use serde_json::{Map, Value};

/// What is stored and shown of what a tool gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contained {
    /// JSON: the value, or a string with the beginning of it.
    pub json: String,
    /// Whether it is the beginning alone.
    pub truncated: bool,
}

/// A value without what could do harm, in at most so many bytes of JSON, keys of
/// objects included. Two bytes are the least there can be.
#[must_use]
pub fn contain(value: &Value, most_bytes: usize) -> Contained {
    let value = clean_value(value);
    let json = value.to_string();
    if json.len() <= most_bytes {
        return Contained {
            json,
            truncated: false,
        };
    }
    let text = match value {
        Value::String(text) => text,
        _ => json,
    };
    let beginning = beginning(&text, most_bytes.saturating_sub(2));
    Contained {
        json: Value::from(beginning).to_string(),
        truncated: true,
    }
}

/// A sentence without what could do harm, in at most so many bytes.
#[must_use]
pub fn contain_text(text: &str, most_bytes: usize) -> String {
    let mut text = clean(text);
    text.truncate(text.floor_char_boundary(most_bytes));
    text
}

fn clean_value(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::String(clean(text)),
        Value::Array(items) => Value::Array(items.iter().map(clean_value).collect()),
        Value::Object(fields) => {
            let mut cleaned = Map::new();
            let mut numbers = HashMap::new();
            for (key, value) in fields {
                let key = apart(clean(key), &cleaned, &mut numbers);
                cleaned.insert(key, clean_value(value));
            }
            Value::Object(cleaned)
        }
        other => other.clone(),
    }
}

/// A key that no other is like: those that differ in what was removed alone get
/// numbers, of which the last one given to each is kept.
fn apart(key: String, taken: &Map<String, Value>, numbers: &mut HashMap<String, usize>) -> String {
    if !taken.contains_key(&key) {
        return key;
    }
    let number = numbers.entry(key.clone()).or_insert(1);
    loop {
        *number += 1;
        let numbered = format!("{key}_{number}");
        if !taken.contains_key(&numbered) {
            return numbered;
        }
    }
}

/// As much of a text as fits between the quotes of a JSON string of so many bytes.
fn beginning(text: &str, most_bytes: usize) -> &str {
    let mut room = most_bytes;
    for (at, char) in text.char_indices() {
        let bytes = match char {
            '"' | '\\' | '\n' | '\t' => 2,
            char => char.len_utf8(),
        };
        if bytes > room {
            return &text[..at];
        }
        room -= bytes;
    }
    text
}

/// A text without what could do harm.
fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut reader = Reader {
        rest: text,
        no_end_above: usize::MAX,
    };
    while let Some(char) = reader.next_if(|_| true) {
        match char {
            '\u{1b}' => reader.skip_escape(),
            '\u{9b}' => reader.skip_control(),
            '\u{90}' | '\u{98}' | '\u{9d}' | '\u{9e}' | '\u{9f}' => reader.skip_string(),
            char if is_harmful(char) => {}
            char => out.push(char),
        }
    }
    out
}

/// What is still to be read of a text, each character of it a bounded number of
/// times.
struct Reader<'a> {
    rest: &'a str,
    /// While more bytes than these are left, a control string has no end.
    no_end_above: usize,
}

impl Reader<'_> {
    fn next_if(&mut self, matches: impl Fn(char) -> bool) -> Option<char> {
        let char = self.rest.chars().next().filter(|char| matches(*char))?;
        self.rest = &self.rest[char.len_utf8()..];
        Some(char)
    }

    fn skip_all(&mut self, matches: impl Fn(char) -> bool) {
        self.rest = self.rest.trim_start_matches(matches);
    }

    /// Skips what belongs to an ESC.
    fn skip_escape(&mut self) {
        if self.next_if(|char| char == '[').is_some() {
            self.skip_control();
        } else if self
            .next_if(|char| matches!(char, ']' | 'P' | 'X' | '^' | '_'))
            .is_some()
        {
            self.skip_string();
        } else {
            self.skip_all(|char| matches!(char, ' '..='/'));
            self.next_if(|char| matches!(char, '0'..='~'));
        }
    }

    /// Skips parameters and the final character of a control sequence.
    fn skip_control(&mut self) {
        self.skip_all(|char| matches!(char, ' '..='?'));
        self.next_if(|char| matches!(char, '@'..='~'));
    }

    /// Skips a control string with its end. One that has none would take all that
    /// follows with it, which somebody may want to hide: that stays, as plain text.
    fn skip_string(&mut self) {
        if self.rest.len() > self.no_end_above {
            return;
        }
        // Terminals give a string up as well where another sequence begins or a line
        // ends.
        let at = self.rest.find(['\u{7}', '\u{9c}', '\u{1b}', '\n']);
        let stop = &self.rest[at.unwrap_or(self.rest.len())..];
        match ["\u{7}", "\u{9c}", "\u{1b}\\"]
            .iter()
            .find_map(|end| stop.strip_prefix(end))
        {
            Some(rest) => self.rest = rest,
            None => self.no_end_above = stop.len(),
        }
    }
}

/// Whether a character does something other than to be seen.
const fn is_harmful(char: char) -> bool {
    match char {
        '\n' | '\t' => false,
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' => true,
        // Directions: embeddings, overrides and isolates.
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
        // Invisible: soft and zero-width ones, tags, annotations, selectors.
        '\u{ad}'
        | '\u{180e}'
        | '\u{200b}'
        | '\u{2060}'..='\u{2064}'
        | '\u{206a}'..='\u{206f}'
        | '\u{feff}'
        | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e0fff}' => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// Sequences that terminals obey and readers are fooled by.
    const HOSTILE: [&str; 14] = [
        "\u{1b}[2J",
        "\u{1b}[38;5;196m",
        "\u{1b}]0;title\u{7}",
        "\u{1b}]52;c;cm0gLXJm\u{1b}\\",
        "\u{1b}]8;;http://example.test\u{1b}\\",
        "\u{1b}P$q\"p\u{1b}\\",
        "\u{1b}(0",
        "\u{1b}c",
        "\u{9b}31m",
        "\u{9d}0;title\u{9c}",
        "\r\0\u{8}\u{7f}\u{85}",
        "\u{202e}\u{2066}",
        "\u{e0001}\u{e0041}",
        "\u{200b}\u{feff}\u{2060}",
    ];

    fn is_clean(text: &str) -> bool {
        text.chars().all(|char| !is_harmful(char))
    }

    #[test]
    fn sequences_go_whole_and_words_stay() {
        for hostile in HOSTILE {
            let text = format!("before{hostile}after\n\tü – 漢字 👩‍💻");
            assert_eq!(clean(&text), "beforeafter\n\tü – 漢字 👩‍💻", "{hostile:?}");
        }
        // A string without its end hides nothing.
        assert_eq!(clean("a\u{1b}]0;title and more"), "a0;title and more");
        assert_eq!(clean("a\u{1b}]0;x\nb\u{7}c"), "a0;x\nbc");
        assert_eq!(clean("a\u{1b}]0;x\u{1b}[1mb"), "a0;xb");
        assert_eq!(clean("a\u{1b}[12"), "a");
    }

    #[test]
    fn values_are_clean_through_and_through() {
        let value = json!({
            "a": "b\u{0}",
            "a\u{1b}[1m": [{"k": "x\u{202e}y"}, 1.5, null, true],
        });
        let contained = contain(&value, 1_000);
        assert!(!contained.truncated);
        let value: Value = serde_json::from_str(&contained.json).unwrap();
        assert_eq!(
            value,
            json!({"a": "b", "a_2": [{"k": "xy"}, 1.5, null, true]})
        );
    }

    #[test]
    fn keys_that_look_alike_stay_apart() {
        let value = json!({"a": 1, "a\0": 2, "a\0\0": 3, "a_2": 4, "b\0": 5});
        let cleaned = clean_value(&value);
        let mut values: Vec<_> = cleaned.as_object().unwrap().values().collect();
        values.sort_by_key(|value| value.as_u64());
        assert_eq!(values, [1, 2, 3, 4, 5].map(Value::from).each_ref());
        assert_eq!(cleaned["a"], 1);
        assert_eq!(cleaned["b"], 5);
    }

    /// Whoever writes results must not have a say in how long they are looked at:
    /// with a look at all that is left for each character these would take hours.
    #[test]
    fn the_worst_results_are_soon_contained() {
        const BYTES: usize = 1 << 20;
        let strings = "\u{9d}".repeat(BYTES / 2);
        let escapes = "\u{1b}]".repeat(BYTES / 2);
        let keys = (0..BYTES / 16).map(|number| {
            let bits = (0..16).map(|bit| number >> bit & 1 == 1);
            let key: String = bits.map(|bit| if bit { '\0' } else { '\u{1}' }).collect();
            (key, Value::Null)
        });
        let keys = Value::Object(keys.collect());
        let (done, waiting) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for value in [json!([strings, escapes]), keys] {
                done.send(contain(&value, 1_000).json.len()).unwrap();
            }
        });
        for _ in 0..2 {
            let bytes = waiting.recv_timeout(Duration::from_secs(60)).unwrap();
            assert!(bytes <= 1_000);
        }
    }

    #[test]
    fn what_is_too_large_is_its_beginning() {
        let contained = contain(&json!("äöü\"xyz"), 10);
        assert_eq!(contained.json, "\"äöü\\\"\"");
        assert!(contained.truncated);
        let contained = contain(&json!({"key": "x".repeat(100)}), 16);
        assert_eq!(contained.json, r#""{\"key\":\"xxx""#);
        assert_eq!(contain(&json!([1]), 2).json, r#""""#);
        assert_eq!(contain_text("äöü", 3), "ä");
    }

    proptest! {
        /// Wherever a sequence is put, however a text is cut: nothing of it stays that
        /// acts, the limit holds, and what is left is a beginning of the clean text.
        #[test]
        fn no_split_lets_anything_through(
            words in "[a-z äöü漢\n\"\\\\]{0,40}",
            which in 0..HOSTILE.len(),
            at in 0_usize..40,
            cut in 0_usize..40,
            most in 2_usize..80,
        ) {
            let sequence = HOSTILE[which];
            let at = words.floor_char_boundary(at.min(words.len()));
            // A sequence that is itself cut anywhere, its rest somewhere else.
            let cut = sequence.floor_char_boundary(cut.min(sequence.len()));
            let (head, tail) = sequence.split_at(cut);
            let (before, behind) = words.split_at(at);
            let text = format!("{head}{before}{sequence}{behind}{tail}");
            let cleaned = clean(&text);
            prop_assert!(is_clean(&cleaned), "{cleaned:?}");
            prop_assert_eq!(clean(&cleaned), cleaned.clone());
            prop_assert!(cleaned.starts_with(&contain_text(&text, most)));
            let contained = contain(&Value::from(text), most);
            prop_assert!(contained.json.len() <= most);
            let part: String = serde_json::from_str(&contained.json).unwrap();
            prop_assert!(cleaned.starts_with(&part));
            prop_assert_eq!(contained.truncated, part != cleaned);
        }

        /// Whole and in two halves it is the same, but where the cut goes through a
        /// sequence; then the halves are clean all the same.
        #[test]
        fn any_value_is_contained(text in "\\PC{0,60}|[\\x00-\\x9f]{0,60}", most in 2_usize..90) {
            let value = json!({text.clone(): [text.clone()], "k": text});
            let contained = contain(&value, most);
            prop_assert!(contained.json.len() <= most);
            prop_assert!(is_clean(&contained.json));
            serde_json::from_str::<Value>(&contained.json).unwrap();
        }
    }
}
