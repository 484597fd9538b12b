//! What of a chat a provider is given: the latest exchanges, whole ones, that fit
//! into a bound. An answer that broke off counts with what it had; one that had
//! nothing is left out with its question, since models take turns.

use std::collections::VecDeque;

use serde_json::Value;
use signalbox_protocol::wire::ChatAsked;

use crate::provider::Message;

/// Bytes of earlier exchanges that a provider is given.
pub(crate) const BYTES: usize = 96 * 1024;
/// Exchanges that it is given.
pub(crate) const EXCHANGES: usize = 40;

/// A question and what was answered.
#[derive(Clone, Debug, PartialEq)]
struct Exchange {
    question: String,
    context: String,
    answer: String,
}

impl Exchange {
    fn bytes(&self) -> usize {
        self.question.len() + self.context.len() + self.answer.len()
    }
}

/// The latest exchanges of a chat.
#[derive(Clone, Debug, Default)]
pub(crate) struct Conversation {
    exchanges: VecDeque<Exchange>,
    bytes: usize,
}

impl Conversation {
    /// Adds the exchange after all others, and forgets those that do not fit any
    /// more.
    pub(crate) fn push(&mut self, asked: &ChatAsked, answer: &str) {
        if let Some(exchange) = exchange(asked, answer) {
            self.bytes += exchange.bytes();
            self.exchanges.push_back(exchange);
        }
        while self.is_over() {
            let gone = self.exchanges.pop_front();
            self.bytes -= gone.map_or(0, |gone| gone.bytes());
        }
    }

    /// Adds the exchange before all others, where it fits; gives whether there may
    /// be room for more.
    pub(crate) fn push_earlier(&mut self, asked: &ChatAsked, answer: &str) -> bool {
        if let Some(exchange) = exchange(asked, answer) {
            self.bytes += exchange.bytes();
            self.exchanges.push_front(exchange);
        }
        if self.is_over() {
            let gone = self.exchanges.pop_front();
            self.bytes -= gone.map_or(0, |gone| gone.bytes());
            return false;
        }
        true
    }

    fn is_over(&self) -> bool {
        self.bytes > BYTES || self.exchanges.len() > EXCHANGES
    }

    /// The conversation with a new question behind it.
    pub(crate) fn messages(&self, asked: &ChatAsked) -> Vec<Message> {
        let mut messages = Vec::with_capacity(2 * self.exchanges.len() + 1);
        for exchange in &self.exchanges {
            messages.push(Message::User {
                text: exchange.question.clone(),
                context: parse(&exchange.context),
            });
            messages.push(Message::Agent {
                text: exchange.answer.clone(),
                calls: Vec::new(),
            });
        }
        messages.push(Message::User {
            text: asked.message.clone(),
            context: parse(&asked.context),
        });
        messages
    }
}

fn exchange(asked: &ChatAsked, answer: &str) -> Option<Exchange> {
    (!answer.is_empty()).then(|| Exchange {
        question: asked.message.clone(),
        context: asked.context.clone(),
        answer: answer.to_owned(),
    })
}

/// JSON that was checked when it came.
pub(crate) fn parse(json: &str) -> Option<Value> {
    serde_json::from_str(json).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(message: &str) -> ChatAsked {
        ChatAsked {
            message: message.to_owned(),
            ..ChatAsked::default()
        }
    }

    fn questions(conversation: &Conversation) -> Vec<String> {
        let messages = conversation.messages(&asked("last"));
        let texts = messages.into_iter().filter_map(|message| match message {
            Message::User { text, .. } => Some(text),
            _ => None,
        });
        texts.collect()
    }

    #[test]
    fn the_oldest_exchanges_go_first_and_as_a_whole() {
        let mut conversation = Conversation::default();
        let half = "x".repeat(BYTES / 2 - 10);
        for question in ["one", "two", "three"] {
            conversation.push(&asked(question), &half);
        }
        assert_eq!(questions(&conversation), ["two", "three", "last"]);
        assert!(!conversation.push_earlier(&asked("one"), &half));
        assert_eq!(questions(&conversation), ["two", "three", "last"]);
        for number in 0..EXCHANGES {
            conversation.push(&asked(&number.to_string()), "y");
        }
        assert_eq!(questions(&conversation).len(), EXCHANGES + 1);
    }

    #[test]
    fn a_question_without_an_answer_is_left_out() {
        let mut conversation = Conversation::default();
        conversation.push(&asked("one"), "");
        conversation.push(&asked("two"), "half of an ans");
        assert!(conversation.push_earlier(&asked("zero"), "0"));
        assert_eq!(questions(&conversation), ["zero", "two", "last"]);
    }

    #[test]
    fn read_forwards_or_backwards_it_is_the_same() {
        let answers: Vec<String> = (0..60).map(|n| "z".repeat(n * 100)).collect();
        let mut forwards = Conversation::default();
        for (n, answer) in answers.iter().enumerate() {
            forwards.push(&asked(&n.to_string()), answer);
        }
        let mut backwards = Conversation::default();
        for (n, answer) in answers.iter().enumerate().rev() {
            if !backwards.push_earlier(&asked(&n.to_string()), answer) {
                break;
            }
        }
        assert_eq!(forwards.exchanges, backwards.exchanges);
    }
}
