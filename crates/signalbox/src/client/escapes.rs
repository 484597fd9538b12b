//! What commands write is hostile until shown otherwise: control sequences can
//! fill a clipboard, have the terminal type for its user, print, or hide what
//! happens. Three ways to show it, and what undoes what was let through.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use clap::ValueEnum;

/// Bytes of one control sequence; longer ones are left out.
const MAX_SEQUENCE_BYTES: usize = 256;
/// Bytes of a string such as a title that are left out before what follows
/// counts as text again, so that a lost end does not swallow all the rest.
const MAX_STRING_BYTES: usize = 1024 * 1024;
/// Modes of the terminal that are remembered; further ones are not switched.
const MAX_MODES: usize = 64;
/// Modes that are on by themselves: lines wrap, the cursor is seen.
const ON_BY_DEFAULT: [u32; 2] = [7, 25];
/// Modes in which a terminal talks: mouse, focus, colours, sizes.
const TALKATIVE: [u32; 12] = [
    9, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1015, 1016, 2031, 2048,
];

/// Which control characters of output reach standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Escapes {
    /// All bytes as they are
    All,
    /// What programs need to draw, nothing that makes the terminal answer, copy, print or change its title
    Safe,
    /// None: they are made visible
    None,
}

/// Where in a sequence the next byte stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Ground,
    /// Behind 0xC2, which may begin a control character of two bytes.
    Lead,
    Escape,
    Control,
    /// In a control sequence that is too long.
    Overlong,
    /// In a string; ends with a bell, too, where it is of the operating
    /// system's kind.
    Text {
        bell: bool,
        bytes: usize,
    },
    /// Behind an escape in a string.
    TextEscape,
}

/// Shows the output of one stream of one command.
#[derive(Debug)]
pub(crate) struct Filter {
    escapes: Escapes,
    /// Whether the terminal may answer, since the answers go to the command.
    answers: bool,
    state: State,
    sequence: Vec<u8>,
    /// Whether the last byte was a carriage return that was not shown yet.
    returned: bool,
}

/// The modes that were switched on a terminal.
#[derive(Debug, Default)]
pub(crate) struct Modes {
    touched: bool,
    switched: BTreeMap<u32, bool>,
}

impl Modes {
    /// Whether a switch may pass; remembers it if so.
    fn switch(&mut self, mode: u32, on: bool) -> bool {
        let known = self.switched.len() < MAX_MODES || self.switched.contains_key(&mode);
        if known {
            self.switched.insert(mode, on);
        }
        known
    }

    /// What puts the terminal in order; nothing where nothing was changed.
    pub(crate) fn restore(&self) -> String {
        let mut text = String::new();
        if !self.touched {
            return text;
        }
        for (mode, on) in &self.switched {
            let default = ON_BY_DEFAULT.contains(mode);
            if *on != default {
                let last = if default { 'h' } else { 'l' };
                write!(text, "\x1b[?{mode}{last}").ok();
            }
        }
        // Colours, inserting, character sets.
        text.push_str("\x1b[0m\x1b[4l\x1b(B\x0f");
        text
    }
}

impl Filter {
    pub(crate) const fn new(escapes: Escapes, answers: bool) -> Self {
        Self {
            escapes,
            answers,
            state: State::Ground,
            sequence: Vec::new(),
            returned: false,
        }
    }

    /// What of `bytes` is shown. A sequence that is not whole waits for its
    /// rest.
    pub(crate) fn pass(&mut self, bytes: &[u8], modes: &mut Modes) -> Vec<u8> {
        match self.escapes {
            Escapes::All => {
                // Read all the same, to know what has to be undone.
                self.sift(bytes, modes);
                bytes.to_vec()
            }
            Escapes::Safe => self.sift(bytes, modes),
            Escapes::None => self.visible(bytes),
        }
    }

    /// Lines and tabs stay, the ends of lines become one character, and other
    /// control characters are made visible.
    fn visible(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = String::with_capacity(bytes.len());
        for letter in String::from_utf8_lossy(bytes).chars() {
            if std::mem::take(&mut self.returned) && letter != '\n' {
                out.push_str("^M");
            }
            match letter {
                '\r' => self.returned = true,
                '\n' | '\t' => out.push(letter),
                _ => show(&mut out, letter),
            }
        }
        out.into_bytes()
    }

    fn sift(&mut self, bytes: &[u8], modes: &mut Modes) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len());
        for byte in bytes {
            self.take(*byte, modes, &mut out);
        }
        out
    }

    fn take(&mut self, byte: u8, modes: &mut Modes, out: &mut Vec<u8>) {
        match self.state {
            State::Ground => self.ground(byte, modes, out),
            State::Lead => {
                self.state = State::Ground;
                if !(0x80..=0x9f).contains(&byte) {
                    out.push(0xc2);
                    self.ground(byte, modes, out);
                }
            }
            State::Escape => self.escape(byte, modes, out),
            State::Control | State::Overlong => self.control(byte, modes, out),
            State::Text { bell, bytes } => {
                let is_end = matches!(byte, 0x18 | 0x1a)
                    || (bell && byte == 0x07)
                    || bytes >= MAX_STRING_BYTES;
                self.state = match byte {
                    0x1b => State::TextEscape,
                    _ if is_end => State::Ground,
                    _ => State::Text {
                        bell,
                        bytes: bytes + 1,
                    },
                };
            }
            State::TextEscape => {
                self.state = State::Ground;
                if byte != b'\\' {
                    // Another sequence begins.
                    self.begin();
                    self.escape(byte, modes, out);
                }
            }
        }
    }

    fn begin(&mut self) {
        self.state = State::Escape;
        self.sequence.clear();
        self.sequence.push(0x1b);
    }

    fn ground(&mut self, byte: u8, modes: &mut Modes, out: &mut Vec<u8>) {
        match byte {
            0x1b => self.begin(),
            0xc2 => self.state = State::Lead,
            0x0e | 0x0f => {
                modes.touched = true;
                out.push(byte);
            }
            0x07..=0x0d | 0x20..=0x7e | 0x80.. => out.push(byte),
            // An enquiry among them, which terminals answer.
            0x00..=0x1f | 0x7f => {}
        }
    }

    fn escape(&mut self, byte: u8, modes: &mut Modes, out: &mut Vec<u8>) {
        let is_first = self.sequence.len() == 1;
        match byte {
            b'[' if is_first => {
                self.sequence.push(byte);
                self.state = State::Control;
            }
            b']' | b'P' | b'X' | b'^' | b'_' | b'k' if is_first => {
                self.state = State::Text {
                    bell: byte == b']',
                    bytes: 0,
                };
            }
            0x20..=0x2f if self.sequence.len() < MAX_SEQUENCE_BYTES => self.sequence.push(byte),
            0x30..=0x7e => {
                self.state = State::Ground;
                self.sequence.push(byte);
                let draws = match self.sequence.get(1) {
                    // Character sets, and a test picture.
                    Some(b'(' | b')' | b'*' | b'+' | b'-' | b'.' | b'/' | b'#') => true,
                    Some(first) => is_first && b"78=>DEHMNOc".contains(first),
                    None => false,
                };
                if draws {
                    modes.touched = true;
                    out.extend_from_slice(&self.sequence);
                }
            }
            0x1b => self.begin(),
            _ => {
                self.state = State::Ground;
                self.ground(byte, modes, out);
            }
        }
    }

    fn control(&mut self, byte: u8, modes: &mut Modes, out: &mut Vec<u8>) {
        match byte {
            0x20..=0x3f => {
                if self.sequence.len() < MAX_SEQUENCE_BYTES {
                    self.sequence.push(byte);
                } else {
                    self.state = State::Overlong;
                }
            }
            0x40..=0x7e => {
                let is_whole = self.state == State::Control;
                self.state = State::Ground;
                self.sequence.push(byte);
                if is_whole && self.may_pass(modes) {
                    modes.touched = true;
                    out.extend_from_slice(&self.sequence);
                }
            }
            0x1b => self.begin(),
            _ => {
                self.state = State::Ground;
                self.ground(byte, modes, out);
            }
        }
    }

    /// Whether a whole control sequence may pass.
    fn may_pass(&self, modes: &mut Modes) -> bool {
        let Some((last, inner)) = self.sequence[2..].split_last() else {
            return false;
        };
        let begin = inner.iter().position(|byte| (0x20..=0x2f).contains(byte));
        let (parameters, between) = inner.split_at(begin.unwrap_or(inner.len()));
        match (parameters.first(), between, last) {
            // The shape of the cursor; a soft reset.
            (_, b" ", b'q') | (None, b"!", b'p') => true,
            (_, [_, ..], _) => false,
            (Some(b'?'), _, b'h' | b'l') => {
                let mut numbers = numbers(&parameters[1..]);
                numbers.all(|mode| {
                    let Some(mode) = mode else { return false };
                    let is_quiet = self.answers || !TALKATIVE.contains(&mode);
                    is_quiet && modes.switch(mode, *last == b'h')
                })
            }
            (Some(b'?'), _, b'J' | b'K' | b'r' | b's') => true,
            (Some(b'?' | b'>'), _, b'c' | b'n') => self.answers,
            (Some(b'<' | b'=' | b'>' | b'?'), ..) => false,
            (_, _, b'c' | b'n') => self.answers,
            (_, _, b'h' | b'l') => parameters == b"4",
            (_, _, last) => b"@ABCDEFGHIJKLMPSTXZ`abdefgmrsu".contains(last),
        }
    }
}

/// The numbers of a list, `None` for what is none.
fn numbers(list: &[u8]) -> impl Iterator<Item = Option<u32>> + '_ {
    let parts = list.split(|byte| *byte == b';');
    parts.map(|part| std::str::from_utf8(part).ok()?.parse().ok())
}

/// Appends a letter, made visible where it is none.
fn show(out: &mut String, letter: char) {
    match letter {
        '\0'..='\x1f' => {
            out.push('^');
            out.push(char::from(letter as u8 + b'@'));
        }
        '\x7f' => out.push_str("^?"),
        // Control characters of two bytes, and what turns the direction of text.
        '\u{80}'..='\u{9f}'
        | '\u{61c}'
        | '\u{200e}'..='\u{200f}'
        | '\u{202a}'..='\u{202e}'
        | '\u{2066}'..='\u{2069}' => {
            write!(out, "<{:x}>", u32::from(letter)).ok();
        }
        _ => out.push(letter),
    }
}

/// A text of somebody else's as part of one line.
pub(crate) fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    text.chars().for_each(|letter| show(&mut out, letter));
    out
}

#[cfg(test)]
mod tests;
