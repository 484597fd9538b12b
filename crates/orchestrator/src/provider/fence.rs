//! Cuts the analysis out of a text that has it in a fenced block. White space
//! and what might become a fence are held back until it is decided, so that no
//! reader ever sees the beginning of the block.

/// How the line that opens the block begins.
pub(super) const OPENING: &str = "```analysis";
/// The line that closes it.
const CLOSING: &str = "```";

/// A text on its way to a reader.
#[derive(Debug)]
pub(super) struct Fence {
    /// White space, and behind it the beginning of a fence.
    held: String,
    /// Nothing but blanks and a part of a fence is on the line so far.
    line_start: bool,
    /// How much of the opening is there.
    matched: usize,
    /// Whether anything was let through.
    shown: bool,
    /// The open block: its lines, and the line that is not complete.
    block: Option<(String, String)>,
    found: Option<String>,
}

impl Default for Fence {
    fn default() -> Self {
        Self {
            held: String::new(),
            line_start: true,
            matched: 0,
            shown: false,
            block: None,
            found: None,
        }
    }
}

impl Fence {
    /// Takes the next part and returns what a reader may see.
    pub(super) fn feed(&mut self, text: &str) -> String {
        let mut visible = String::new();
        for char in text.chars() {
            if self.block.is_some() {
                self.take_hidden(char);
            } else {
                self.take(char, &mut visible);
            }
        }
        visible
    }

    /// The rest that a reader may see, and the content of the last block. A
    /// block that the end cut off counts as it is.
    pub(super) fn finish(mut self) -> (String, Option<String>) {
        if let Some((lines, line)) = self.block {
            let line = if line.trim() == CLOSING { "" } else { &line };
            return (String::new(), Some(content(&(lines + line))));
        }
        if self.found.is_some() {
            self.held.truncate(self.held.trim_end().len());
        }
        (self.held, self.found)
    }

    fn take(&mut self, char: char, visible: &mut String) {
        let opening = OPENING.as_bytes();
        if self.line_start && u32::from(opening[self.matched]) == u32::from(char) {
            self.held.push(char);
            self.matched += 1;
            if self.matched == opening.len() {
                self.held.clear();
                self.matched = 0;
                self.block = Some((String::new(), String::new()));
            }
            return;
        }
        if self.matched > 0 || !char.is_whitespace() {
            visible.push_str(&self.held);
            self.held.clear();
            self.matched = 0;
            self.line_start = false;
        }
        if char.is_whitespace() {
            self.held.push(char);
            self.line_start |= char == '\n';
        } else {
            visible.push(char);
            self.shown = true;
        }
    }

    fn take_hidden(&mut self, char: char) {
        let Some((lines, line)) = &mut self.block else {
            return;
        };
        line.push(char);
        if char != '\n' {
            return;
        }
        if line.trim() == CLOSING {
            self.found = Some(content(lines));
            self.block = None;
            self.line_start = true;
            if self.shown {
                self.held.push('\n');
            }
        } else {
            lines.push_str(line);
            line.clear();
        }
    }
}

/// A block without the rest of its opening line.
fn content(block: &str) -> String {
    let rest = block.split_once('\n').map_or(block, |(first, rest)| {
        // Some write the object behind the fence, on the same line.
        if first.contains('{') { block } else { rest }
    });
    rest.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(parts: &[&str]) -> (String, Option<String>) {
        let mut fence = Fence::default();
        let mut visible = String::new();
        for part in parts {
            let seen = fence.feed(part);
            visible.push_str(&seen);
        }
        let (rest, found) = fence.finish();
        (visible + &rest, found)
    }

    #[test]
    fn the_block_is_cut_out_wherever_the_text_is_split() {
        let text = "A `word`.\n\n  ``x\n```rust\nlet a;\n```\n ü\n\n```analysis\n{\"a\": \"```\"}\n```\n b\n";
        let whole = cut(&[text]);
        assert_eq!(whole.0, "A `word`.\n\n  ``x\n```rust\nlet a;\n```\n ü\n b");
        assert_eq!(whole.1.as_deref(), Some("{\"a\": \"```\"}"));
        let places: Vec<usize> = (0..=text.len())
            .filter(|at| text.is_char_boundary(*at))
            .collect();
        for first in &places {
            for second in places.iter().filter(|second| *second >= first) {
                let parts = [&text[..*first], &text[*first..*second], &text[*second..]];
                assert_eq!(cut(&parts), whole, "{first} {second}");
            }
        }
    }

    #[test]
    fn what_is_no_block_stays_as_it_is() {
        for text in [
            "",
            " ",
            "a \n",
            "```",
            "```analysi",
            "x ```analysis",
            "\n\n```json\n{}\n```\n",
        ] {
            assert_eq!(cut(&[text]), (text.to_owned(), None));
        }
    }

    #[test]
    fn a_block_may_lack_its_end_and_text_may_follow() {
        assert_eq!(
            cut(&["```analysis\n{\"a\":"]),
            (String::new(), Some("{\"a\":".to_owned()))
        );
        assert_eq!(
            cut(&["a\n```analysis {}\n```"]),
            ("a".to_owned(), Some("{}".to_owned()))
        );
        let (visible, found) = cut(&["a\n```analysis\n1\n```\n\nb\n```analysis\n2\n```\n \n"]);
        assert_eq!((visible.as_str(), found.as_deref()), ("a\n\nb", Some("2")));
    }

    #[test]
    fn nothing_of_a_fence_is_shown_early() {
        let mut fence = Fence::default();
        let seen: String = "done.\n```analysis\n{"
            .chars()
            .map(|char| fence.feed(&char.to_string()))
            .collect();
        assert_eq!(seen, "done.");
    }
}
