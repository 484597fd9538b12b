//! The last part of what a command writes to one stream, in bounded memory. Pure.

/// How far into the last part a line is looked for to begin with, in bytes.
const LINE_SEARCH: usize = 1_024;

/// The last part of a stream.
#[derive(Clone, Debug)]
pub(super) struct Tail {
    most: usize,
    /// At most twice as many as are kept.
    bytes: Vec<u8>,
    /// The offset behind the last byte.
    end: u64,
    /// Whether bytes between others are missing.
    is_broken: bool,
}

/// Text that was made of a tail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Excerpt {
    pub(super) text: String,
    /// Whether something lies before it.
    pub(super) is_cut: bool,
}

impl Tail {
    /// Keeps so many bytes.
    pub(super) const fn new(most: usize) -> Self {
        Self {
            most,
            bytes: Vec::new(),
            end: 0,
            is_broken: false,
        }
    }

    /// Takes in what was written at an offset.
    pub(super) fn push(&mut self, offset: u64, data: &[u8]) {
        self.is_broken |= offset != self.end;
        self.end = offset + data.len() as u64;
        let kept = &data[data.len().saturating_sub(self.most)..];
        self.bytes.extend_from_slice(kept);
        if self.bytes.len() > 2 * self.most {
            self.bytes.drain(..self.bytes.len() - self.most);
        }
    }

    /// The offset behind the last byte.
    pub(super) const fn end(&self) -> u64 {
        self.end
    }

    /// Whether bytes between others are missing.
    pub(super) const fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// The last part as text that takes at most so many bytes in JSON, quotes not
    /// counted. It begins with a whole character, and where it can with a line.
    pub(super) fn excerpt(&self, json_bytes: usize) -> Excerpt {
        let kept = &self.bytes[self.bytes.len().saturating_sub(self.most)..];
        let mut is_cut = (kept.len() as u64) < self.end;
        // The rest of a character that was cut is no wrong byte of the command's.
        let broken = if is_cut {
            let rest = kept
                .iter()
                .take(3)
                .take_while(|byte| is_continuation(**byte));
            rest.count()
        } else {
            0
        };
        let whole = String::from_utf8_lossy(&kept[broken..]);
        let mut text = last(&whole, json_bytes);
        is_cut |= text.len() < whole.len();
        let searched = &text.as_bytes()[..text.len().min(LINE_SEARCH)];
        if is_cut
            && let Some(line) = searched.iter().position(|byte| *byte == b'\n')
            && line + 1 < text.len()
        {
            text = &text[line + 1..];
        }
        Excerpt {
            text: text.to_owned(),
            is_cut,
        }
    }

    /// What the whole of it would take in JSON.
    pub(super) fn json_bytes(&self) -> usize {
        let kept = &self.bytes[self.bytes.len().saturating_sub(self.most)..];
        String::from_utf8_lossy(kept).chars().map(json_len).sum()
    }
}

const fn is_continuation(byte: u8) -> bool {
    byte & 0b1100_0000 == 0b1000_0000
}

/// The longest end of a text that takes at most so many bytes in JSON.
fn last(text: &str, json_bytes: usize) -> &str {
    let mut left = json_bytes;
    for (at, character) in text.char_indices().rev() {
        match left.checked_sub(json_len(character)) {
            Some(less) => left = less,
            None => return &text[at + character.len_utf8()..],
        }
    }
    text
}

/// How long a character is in a JSON string.
const fn json_len(character: char) -> usize {
    match character {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        '\0'..='\u{1f}' => 6,
        other => other.len_utf8(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tail(most: usize, pieces: &[&[u8]]) -> Tail {
        let mut tail = Tail::new(most);
        for piece in pieces {
            tail.push(tail.end(), piece);
        }
        tail
    }

    #[test]
    fn what_is_short_is_whole() {
        let tail = tail(100, &[b"one\n", b"two\n"]);
        let excerpt = tail.excerpt(100);
        assert_eq!(
            (excerpt.text.as_str(), excerpt.is_cut),
            ("one\ntwo\n", false)
        );
        assert_eq!((tail.end(), tail.is_broken()), (8, false));
        assert_eq!(tail.json_bytes(), 10);
    }

    #[test]
    fn what_is_long_begins_with_a_line() {
        let tail = tail(7, &[b"first\n", b"second\nx\n"]);
        let excerpt = tail.excerpt(100);
        assert_eq!((excerpt.text.as_str(), excerpt.is_cut), ("x\n", true));
        assert_eq!(tail.end(), 15);
    }

    #[test]
    fn a_character_is_not_cut_and_wrong_bytes_are_told() {
        let one = "aää".as_bytes();
        assert_eq!(tail(3, &[one]).excerpt(100).text, "ä");
        assert_eq!(tail(9, &[&one[..2], &one[2..]]).excerpt(100).text, "aää");
        assert_eq!(tail(9, &[b"a\xffb"]).excerpt(100).text, "a\u{fffd}b");
        assert_eq!(tail(9, &["ä".as_bytes()]).excerpt(1).text, "");
        assert_eq!(tail(9, &[b"a\x1bb"]).excerpt(7).text, "\u{1b}b");
        assert_eq!(tail(9, &[b"a\x1bb"]).excerpt(6).text, "b");
    }

    #[test]
    fn a_gap_is_known() {
        let mut tail = tail(9, &[b"ab"]);
        tail.push(5, b"f");
        assert!(tail.is_broken());
        let excerpt = tail.excerpt(100);
        assert_eq!((excerpt.text.as_str(), excerpt.is_cut), ("abf", true));
        assert_eq!(tail.end(), 6);
    }

    proptest! {
        /// Whatever is written in whatever pieces, it is an end of that, and fits.
        #[test]
        fn an_excerpt_is_the_end_of_what_was_written(
            pieces in proptest::collection::vec("[a-zäß\n\"\u{1}]{0,20}", 0..20),
            most in 1_usize..60,
            json_bytes in 0_usize..80,
        ) {
            let whole = pieces.concat();
            let pieces: Vec<&[u8]> = pieces.iter().map(|piece| piece.as_bytes()).collect();
            let tail = tail(most, &pieces);
            prop_assert!(tail.bytes.len() <= 2 * most);
            let excerpt = tail.excerpt(json_bytes);
            prop_assert!(whole.ends_with(&excerpt.text));
            prop_assert_eq!(excerpt.is_cut, excerpt.text.len() < whole.len());
            let json = serde_json::to_string(&excerpt.text).unwrap();
            prop_assert!(json.len() <= json_bytes + 2);
        }
    }
}
