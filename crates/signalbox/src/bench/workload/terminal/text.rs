//! What a session writes: lines that say whose and which they are, so that its
//! bytes follow from their offset; and the account of what came of them.

use crate::bench::account::Tally;

/// Digits of a session's number.
const SESSION_DIGITS: usize = 6;
/// Digits of a line's number.
const LINE_DIGITS: usize = 12;
/// The fewest bytes of a line: both numbers, a space, and its end.
pub(super) const LEAST_LINE_BYTES: usize = SESSION_DIGITS + LINE_DIGITS + 2;

/// The lines of one session.
#[derive(Clone, Debug)]
pub(super) struct Text {
    line: Vec<u8>,
    /// The number of the line that is in `line`.
    number: u64,
}

impl Text {
    pub(super) fn new(session: usize, line_bytes: usize) -> Self {
        let mut line = format!("{session:0SESSION_DIGITS$} {:0LINE_DIGITS$}", 0).into_bytes();
        while line.len() + 1 < line_bytes {
            line.push(b'a' + (line.len() % 26) as u8);
        }
        line.push(b'\n');
        Self { line, number: 0 }
    }

    /// Bytes of a line.
    pub(super) fn line_bytes(&self) -> u64 {
        self.line.len() as u64
    }

    /// The line of this number.
    pub(super) fn line(&mut self, number: u64) -> &[u8] {
        if self.number != number {
            self.number = number;
            let end = SESSION_DIGITS + 1 + LINE_DIGITS;
            let mut rest = number;
            for digit in self.line[SESSION_DIGITS + 1..end].iter_mut().rev() {
                *digit = b'0' + (rest % 10) as u8;
                rest /= 10;
            }
        }
        &self.line
    }

    /// Appends lines as they stand in a JSON string.
    pub(super) fn write_json(&mut self, first: u64, lines: u64, out: &mut String) {
        for number in first..first + lines {
            let line = self.line(number);
            let text = std::str::from_utf8(&line[..line.len() - 1]).unwrap_or_default();
            out.push_str(text);
            out.push_str("\\n");
        }
    }

    /// Whether these are the bytes at this offset.
    fn has_at(&mut self, offset: u64, mut bytes: &[u8]) -> bool {
        let length = self.line_bytes();
        let mut number = offset / length;
        let mut begin = (offset % length) as usize;
        while !bytes.is_empty() {
            let line = &self.line(number)[begin..];
            let part = line.len().min(bytes.len());
            if line[..part] != bytes[..part] {
                return false;
            }
            bytes = &bytes[part..];
            begin = 0;
            number += 1;
        }
        true
    }
}

/// What one dashboard got of one session, in bytes.
#[derive(Debug)]
pub(super) struct Account {
    text: Text,
    /// Everything before it has come, or is in `missing`.
    next: u64,
    missing: Vec<(u64, u64)>,
    tally: Tally,
}

impl Account {
    pub(super) fn new(text: Text) -> Self {
        Self {
            text,
            next: 0,
            missing: Vec::new(),
            tally: Tally::default(),
        }
    }

    /// Enters what came at an offset.
    pub(super) fn note(&mut self, offset: u64, bytes: &[u8]) {
        if !self.text.has_at(offset, bytes) {
            self.tally.unknown += bytes.len() as u64;
            return;
        }
        let end = offset + bytes.len() as u64;
        if offset > self.next {
            self.missing.push((self.next, offset));
        }
        if end > self.next {
            self.tally.received += end - self.next.max(offset);
        }
        let late = offset..end.min(self.next);
        if late.start < late.end {
            let found = self.fill(late.start, late.end);
            self.tally.received += found;
            self.tally.reordered += found;
            self.tally.doubled += late.end - late.start - found;
        }
        self.next = self.next.max(end);
    }

    /// Takes off what was missing; gives how much that was.
    fn fill(&mut self, from: u64, to: u64) -> u64 {
        let mut found = 0;
        let missing = std::mem::take(&mut self.missing);
        for (begin, end) in missing {
            let (left, right) = (begin.max(from), end.min(to));
            if left >= right {
                self.missing.push((begin, end));
                continue;
            }
            found += right - left;
            let rest = [(begin, left), (right, end)];
            self.missing
                .extend(rest.into_iter().filter(|(begin, end)| begin < end));
        }
        found
    }

    /// Everything before it has come.
    pub(super) fn whole(&self) -> u64 {
        let first = self.missing.iter().map(|(begin, _)| *begin).min();
        first.unwrap_or(self.next)
    }

    /// The sums, given how many bytes were written.
    pub(super) fn audit(&self, written: u64) -> Tally {
        let missing: u64 = self.missing.iter().map(|(begin, end)| end - begin).sum();
        Tally {
            due: written,
            lost: missing + written.saturating_sub(self.next),
            ..self.tally
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: usize = 24;

    fn whole(session: usize, lines: u64) -> Vec<u8> {
        let mut text = Text::new(session, BYTES);
        (0..lines)
            .flat_map(|line| text.line(line).to_vec())
            .collect()
    }

    /// The audit of an account that got these pieces of ten lines.
    fn audit(pieces: &[(usize, usize)]) -> Tally {
        let bytes = whole(7, 10);
        let mut account = Account::new(Text::new(7, BYTES));
        for (from, to) in pieces {
            account.note(*from as u64, &bytes[*from..*to]);
        }
        account.audit(bytes.len() as u64)
    }

    #[test]
    fn lines_say_whose_and_which_they_are() {
        let text = String::from_utf8(whole(42, 2)).unwrap();
        assert_eq!(text, "000042 000000000000tuvw\n000042 000000000001tuvw\n");
        let mut json = String::new();
        Text::new(42, BYTES).write_json(0, 2, &mut json);
        assert_eq!(json.replace("\\n", "\n"), text);
    }

    #[test]
    fn pieces_of_any_size_are_exact() {
        for size in [1, 5, 24, 25, 100, 240] {
            let pieces: Vec<(usize, usize)> = (0..240)
                .step_by(size)
                .map(|at| (at, (at + size).min(240)))
                .collect();
            let tally = audit(&pieces);
            assert!(tally.is_clean(), "{size}");
            assert_eq!((tally.due, tally.received), (240, 240), "{size}");
        }
    }

    #[test]
    fn each_fault_is_counted() {
        assert_eq!(audit(&[(0, 100), (110, 240)]).lost, 10);
        assert_eq!(audit(&[(0, 100)]).lost, 140);
        let doubled = audit(&[(0, 100), (90, 240), (0, 5)]);
        assert_eq!(
            (doubled.doubled, doubled.lost, doubled.received),
            (15, 0, 240)
        );
        let late = audit(&[(0, 50), (100, 240), (40, 110)]);
        assert_eq!((late.reordered, late.doubled, late.lost), (50, 20, 0));
        assert_eq!(late.received, 240);
        let mut account = Account::new(Text::new(7, BYTES));
        account.note(0, &whole(8, 1));
        let forged = account.audit(24);
        assert_eq!((forged.unknown, forged.lost), (24, 24));
    }

    #[test]
    fn what_is_whole_ends_at_the_first_gap() {
        let bytes = whole(7, 10);
        let mut account = Account::new(Text::new(7, BYTES));
        account.note(0, &bytes[..24]);
        account.note(48, &bytes[48..72]);
        assert_eq!(account.whole(), 24);
        account.note(24, &bytes[24..48]);
        assert_eq!(account.whole(), 72);
    }
}
