//! Server-sent events out of bytes that may be cut anywhere. Lines are taken
//! apart as bytes, so a character that is split over chunks is whole again
//! before it becomes text. Knows no HTTP and no provider.

use super::failure::{Failure, FailureKind};

/// The longest line, in bytes. A longer one ends the stream: [`FailureKind::TooLarge`].
pub const MAX_LINE_BYTES: usize = 1024 * 1024;
/// The most data of one event, in bytes. More ends the stream likewise.
pub const MAX_EVENT_BYTES: usize = 2 * 1024 * 1024;

/// An event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SseEvent {
    /// Its name; empty when it has none.
    pub name: String,
    /// Its data, lines joined.
    pub data: String,
}

/// Takes a stream apart.
#[derive(Debug)]
pub struct SseParser {
    most_line: usize,
    most_event: usize,
    line: Vec<u8>,
    /// The last byte was a carriage return, whose line feed may follow.
    after_return: bool,
    /// A line has been seen, so that no byte order mark follows.
    begun: bool,
    name: String,
    data: String,
    has_data: bool,
}

impl Default for SseParser {
    fn default() -> Self {
        Self::bounded(MAX_LINE_BYTES, MAX_EVENT_BYTES)
    }
}

impl SseParser {
    /// A parser with bounds of its own, in bytes: of a line and of an event's data.
    #[must_use]
    pub fn bounded(line: usize, event: usize) -> Self {
        Self {
            most_line: line,
            most_event: event,
            line: Vec::new(),
            after_return: false,
            begun: false,
            name: String::new(),
            data: String::new(),
            has_data: false,
        }
    }

    /// Takes the next bytes and appends the events that are complete.
    ///
    /// # Errors
    /// The stream is not text, or larger than is taken.
    pub fn feed(&mut self, bytes: &[u8], events: &mut Vec<SseEvent>) -> Result<(), Failure> {
        let mut rest = bytes;
        if self.after_return && !rest.is_empty() {
            self.after_return = false;
            rest = rest.strip_prefix(b"\n").unwrap_or(rest);
        }
        while let Some(end) = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            self.grow(&rest[..end])?;
            let returned = rest[end] == b'\r';
            rest = &rest[end + 1..];
            if returned {
                match rest.first() {
                    Some(b'\n') => rest = &rest[1..],
                    Some(_) => {}
                    None => self.after_return = true,
                }
            }
            self.end_line(events)?;
        }
        self.grow(rest)
    }

    fn grow(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let most = self.most_line;
        if self.line.len() + bytes.len() > most {
            return Err(Failure::new(
                FailureKind::TooLarge,
                format!("a line is longer than {most} bytes"),
            ));
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn end_line(&mut self, events: &mut Vec<SseEvent>) -> Result<(), Failure> {
        let line = std::mem::take(&mut self.line);
        let text = std::str::from_utf8(&line)
            .map_err(|_| Failure::new(FailureKind::Garbled, "a line is not UTF-8"))?;
        let text = if self.begun {
            text
        } else {
            self.begun = true;
            text.strip_prefix('\u{feff}').unwrap_or(text)
        };
        if text.is_empty() {
            self.end_event(events);
        } else {
            let (field, value) = text.split_once(':').unwrap_or((text, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => value.clone_into(&mut self.name),
                "data" => self.add_data(value)?,
                // Comments, ids and the wait before a reconnect mean nothing here.
                _ => {}
            }
        }
        self.line = line;
        self.line.clear();
        Ok(())
    }

    fn add_data(&mut self, value: &str) -> Result<(), Failure> {
        let most = self.most_event;
        if self.data.len() + value.len() > most {
            return Err(Failure::new(
                FailureKind::TooLarge,
                format!("an event is larger than {most} bytes"),
            ));
        }
        if self.has_data {
            self.data.push('\n');
        }
        self.has_data = true;
        self.data.push_str(value);
        Ok(())
    }

    fn end_event(&mut self, events: &mut Vec<SseEvent>) {
        let name = std::mem::take(&mut self.name);
        if std::mem::take(&mut self.has_data) {
            let data = std::mem::take(&mut self.data);
            events.push(SseEvent { name, data });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(chunks: &[&[u8]]) -> Result<Vec<SseEvent>, Failure> {
        let mut parser = SseParser::default();
        let mut events = Vec::new();
        for chunk in chunks {
            parser.feed(chunk, &mut events)?;
        }
        Ok(events)
    }

    fn event(name: &str, data: &str) -> SseEvent {
        SseEvent {
            name: name.to_owned(),
            data: data.to_owned(),
        }
    }

    #[test]
    fn a_cut_at_any_byte_changes_nothing() {
        let text = "\u{feff}event: a\r\ndata: grüße 🛰️\r\n\r\n: ping\n\ndata:{\"x\":\rdata: 1}\r\rid: 7\ndata\n\n";
        let whole = vec![
            event("a", "grüße 🛰️"),
            event("", "{\"x\":\n1}"),
            event("", ""),
        ];
        let bytes = text.as_bytes();
        assert_eq!(parse(&[bytes]).unwrap(), whole);
        for first in 0..bytes.len() {
            for second in first..bytes.len() {
                let chunks = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                assert_eq!(parse(&chunks).unwrap(), whole, "{first} {second}");
            }
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(parse(&single).unwrap(), whole);
    }

    #[test]
    fn an_event_without_its_empty_line_is_none() {
        assert_eq!(parse(&[b"data: 1\n"]).unwrap(), []);
        assert_eq!(parse(&[b"event: x\n\n"]).unwrap(), []);
    }

    #[test]
    fn lines_and_events_are_bounded() {
        let line = vec![b'x'; MAX_LINE_BYTES + 1];
        assert_eq!(parse(&[&line]).unwrap_err().kind, FailureKind::TooLarge);
        let half = [b"data: ", vec![b'x'; MAX_LINE_BYTES - 10].as_slice(), b"\n"].concat();
        let failure = parse(&[&half, &half, &half]).unwrap_err();
        assert_eq!(failure.kind, FailureKind::TooLarge);
    }

    #[test]
    fn bytes_that_are_no_text_are_refused() {
        let failure = parse(&[b"data: \xff\n\n"]).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Garbled);
    }
}
