//! A chat as its owner knows it, and how that is read from its log.

use std::collections::VecDeque;

use serde_json::Value;
use signalbox_bus::{Bus, BusError};
use signalbox_protocol::wire::{AgentInfo, ChatOpened, ChatUsage, chat_record::Record};

use crate::answer::Answer;
use crate::chat_log::{ChatLog, Stored};
use crate::conversation::{self, Conversation};
use crate::usage;

/// Ids of messages that are known.
const KNOWN_IDS: usize = 32;

/// A chat, between two records of its log.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    /// As it was begun.
    pub(crate) opened: ChatOpened,
    /// Where that lies in CHAT.
    pub(crate) opened_sequence: u64,
    /// The context of the whole chat.
    pub(crate) context: Option<Value>,
    /// What was said, without the last answer while that is being written.
    pub(crate) conversation: Conversation,
    /// The last answer.
    pub(crate) last: Option<Answer>,
    /// The ids of messages before the last, the latest first.
    earlier_ids: VecDeque<String>,
    /// What all answers that have ended have cost, and how long they took.
    pub(crate) spent: ChatUsage,
    pub(crate) spent_ms: u64,
}

impl Session {
    /// A chat in which nothing was asked yet.
    pub(crate) fn new(opened: ChatOpened, sequence: u64) -> Self {
        Self {
            context: conversation::parse(&opened.context),
            opened,
            opened_sequence: sequence,
            conversation: Conversation::default(),
            last: None,
            earlier_ids: VecDeque::new(),
            spent: ChatUsage::default(),
            spent_ms: 0,
        }
    }

    /// Who answers.
    pub(crate) fn agent(&self) -> AgentInfo {
        self.opened.agent.clone().unwrap_or_default()
    }

    /// The number of the last answer; 0 when there is none.
    pub(crate) fn last_number(&self) -> u32 {
        self.last.as_ref().map_or(0, |last| last.number)
    }

    /// The number of the answer to a message that is known already.
    pub(crate) fn answer_to(&self, message_id: &str) -> Option<u32> {
        let last = self.last.as_ref()?;
        if last.asked.message_id == message_id {
            return Some(last.number);
        }
        let back = self.earlier_ids.iter().position(|id| id == message_id)?;
        u32::try_from(back + 1)
            .ok()
            .and_then(|back| last.number.checked_sub(back))
    }

    /// The ids of the messages before a next one.
    pub(crate) fn known_ids(&self) -> Vec<String> {
        let last = self.last.as_ref().map(|last| &last.asked.message_id);
        let ids = last.into_iter().chain(&self.earlier_ids);
        ids.take(KNOWN_IDS - 1).cloned().collect()
    }

    /// Begins an answer.
    pub(crate) fn begin(&mut self, answer: Answer) {
        self.earlier_ids = answer.asked.earlier_ids.iter().cloned().collect();
        self.last = Some(answer);
    }

    /// Takes note of the last answer's end.
    pub(crate) fn finish(&mut self, answer: Answer) {
        usage::add(&mut self.spent, &answer.usage);
        let took = answer.end.as_ref().map_or(0, |end| end.took_ms);
        self.spent_ms = self.spent_ms.saturating_add(took);
        self.conversation.push(&answer.asked, &answer.text);
        self.last = Some(answer.without_rounds());
    }
}

/// Reads a session back as its owner `owner`; `None` where its log is empty or
/// its beginning is kept no more.
pub(crate) async fn load(
    bus: Bus,
    user_id: &str,
    session_id: &str,
    owner: u64,
) -> Result<(ChatLog, Option<Session>), BusError> {
    let (log, last) = ChatLog::open(bus, user_id, session_id, owner).await?;
    let session = match last {
        Some(last) => read(&log, last).await?,
        None => None,
    };
    Ok((log, session))
}

async fn read(log: &ChatLog, last: Stored) -> Result<Option<Session>, BusError> {
    if let Some(Record::Opened(opened)) = last.record.record {
        return Ok(Some(Session::new(opened, last.sequence)));
    }
    let asked_at = match last.record.record {
        Some(Record::Asked(_)) => last.sequence,
        _ => last.record.asked_sequence,
    };
    let Some(answer) = read_answer(log, asked_at).await? else {
        return Ok(None);
    };
    let opened_at = answer.asked.opened_sequence;
    let opened = log.record_at(opened_at).await?;
    let Some(Record::Opened(opened)) = opened.and_then(|opened| opened.record.record) else {
        return Ok(None);
    };
    let mut session = Session::new(opened, opened_at);
    session.spent = answer.asked.spent.unwrap_or_default();
    session.spent_ms = answer.asked.spent_ms;
    read_earlier(log, &answer, &mut session.conversation).await?;
    let is_running = answer.is_running();
    session.begin(answer.clone());
    if !is_running {
        session.finish(answer);
    }
    Ok(Some(session))
}

/// The log's last answer.
async fn read_answer(log: &ChatLog, asked_at: u64) -> Result<Option<Answer>, BusError> {
    let records = log.records_from(asked_at).await?;
    let Some((first, rest)) = records.split_first() else {
        return Ok(None);
    };
    let begun = Answer::begin(&first.record, first.number, first.sequence);
    let Some(mut answer) = begun.filter(|_| first.sequence == asked_at) else {
        return Ok(None);
    };
    for record in rest {
        if answer.note(&record.record, record.sequence).is_break() {
            break;
        }
    }
    Ok(Some(answer))
}

/// What was said before an answer, as far as it fits and is kept.
async fn read_earlier(
    log: &ChatLog,
    answer: &Answer,
    conversation: &mut Conversation,
) -> Result<(), BusError> {
    let mut later = answer.asked.clone();
    while later.previous_asked_sequence > 0 && later.previous_end_sequence > 0 {
        let end = log.record_at(later.previous_end_sequence).await?;
        let asked = log.record_at(later.previous_asked_sequence).await?;
        let (Some(end), Some(asked)) = (end, asked) else {
            return Ok(());
        };
        let text = match end.record.record {
            Some(Record::Answered(end)) => end.full_response,
            Some(Record::Failed(end)) => end.partial_response,
            Some(Record::Stopped(end)) => end.partial_response,
            _ => return Ok(()),
        };
        let Some(Record::Asked(asked)) = asked.record.record else {
            return Ok(());
        };
        if !conversation.push_earlier(&asked, &text) {
            return Ok(());
        }
        later = asked;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use signalbox_protocol::wire::ChatAsked;

    use super::*;

    fn ask(session: &mut Session, message_id: &str) {
        let answer = Answer {
            number: session.last_number() + 1,
            asked: ChatAsked {
                message_id: message_id.to_owned(),
                earlier_ids: session.known_ids(),
                ..ChatAsked::default()
            },
            ..Answer::default()
        };
        session.begin(answer.clone());
        session.finish(answer);
    }

    #[test]
    fn a_repeated_message_has_the_answer_that_it_had() {
        let mut session = Session::new(ChatOpened::default(), 1);
        assert_eq!(session.answer_to("m1"), None);
        for number in 1..=40 {
            ask(&mut session, &format!("m{number}"));
        }
        assert_eq!(session.answer_to("m40"), Some(40));
        assert_eq!(session.answer_to("m39"), Some(39));
        assert_eq!(session.answer_to("m9"), Some(9));
        assert_eq!(session.answer_to("m8"), None);
        assert_eq!(session.known_ids().len(), KNOWN_IDS - 1);
    }
}
