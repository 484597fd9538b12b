//! Who is in an investigation, as everyone was told: people who come are
//! announced at once, those who go once they have been gone for the grace.

use std::collections::BTreeMap;

use signalbox_bus::investigation::{self, Kept};
use signalbox_bus::key::InvestigationPart;
use signalbox_protocol::investigation::{MAX_MEMBERS, Member, MemberRecord, Standing};
use time::OffsetDateTime;
use tokio::time::Instant;
use tracing::{info, warn};

use super::announcement::Open;
use super::keeper::{Keeper, Step};
use super::settlement::Matter;
use super::{RETURN, announcement};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct People {
    /// Those who have a record, by id.
    known: BTreeMap<String, Person>,
    /// When the first of those who seem gone counts as gone.
    due: Option<Instant>,
    /// Whether somebody is there for whom there is no room, and it was said.
    is_crowded: bool,
}

#[derive(Debug)]
struct Person {
    record: MemberRecord,
    revision: u64,
    /// Since when nobody declares them.
    absent_since: Option<Instant>,
}

impl People {
    pub(super) fn take_up(&mut self, members: Vec<Kept<MemberRecord>>) {
        self.known = members
            .into_iter()
            .map(|kept| {
                let person = Person {
                    revision: kept.revision,
                    absent_since: None,
                    record: kept.record,
                };
                (person.record.user.id.clone(), person)
            })
            .collect();
    }

    /// What is not complete.
    pub(super) fn open(&self) -> impl Iterator<Item = Open> {
        let records = self.known.values().map(|person| &person.record);
        let open = records.filter(|record| record.standing.is_open());
        open.map(|record| Open {
            event_id: record.event_id.clone(),
            matter: Matter::Member(record.user.id.clone()),
            at: record.at,
            event: announcement::of_member(record),
        })
    }

    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }

    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty() && !self.is_crowded
    }
}

impl Keeper {
    /// Announces who has come and who has gone.
    pub(super) async fn look_around(&mut self) -> Step {
        let certain_since = self.shared.attendance.certain_since();
        let mut present = self.shared.attendance.present(&self.id);
        let (now, grace) = (Instant::now(), self.shared.options.grace);
        let (mut gone, mut due) = (Vec::new(), None);
        for (user_id, person) in &mut self.people.known {
            if present.remove(user_id).is_some() {
                person.absent_since = None;
                continue;
            }
            let since = *person.absent_since.get_or_insert(now);
            // Others are still being told that they came or went; what is not
            // certain is looked at again when it is.
            let (Standing::Joined, Some(certain)) = (person.record.standing, certain_since) else {
                continue;
            };
            let until = since.max(certain + RETURN) + grace;
            if until <= now {
                gone.push(user_id.clone());
            } else {
                due = Some(due.map_or(until, |due: Instant| due.min(until)));
            }
        }
        self.people.due = due;
        for user_id in gone {
            self.announce_leaving(&user_id).await?;
        }
        let is_crowded = self.people.known.len() + present.len() > MAX_MEMBERS;
        if is_crowded && !self.people.is_crowded {
            warn!(investigation = %self.id, "more people than there may be");
        }
        self.people.is_crowded = is_crowded;
        let room = MAX_MEMBERS.saturating_sub(self.people.known.len());
        for user in present.into_values().take(room) {
            self.announce_joining(user).await?;
        }
        Ok(())
    }

    async fn announce_joining(&mut self, user: Member) -> Step {
        let subject = self.subject(InvestigationPart::Member, &user.id);
        let revision = self.revision(&subject).await?;
        let record = MemberRecord {
            investigation_id: self.id.to_string(),
            user,
            standing: Standing::Joining,
            event_id: announcement::fresh_id(),
            at: OffsetDateTime::now_utc().into(),
        };
        self.announce(subject, record, revision).await
    }

    async fn announce_leaving(&mut self, user_id: &str) -> Step {
        let Some(person) = self.people.known.get(user_id) else {
            return Ok(());
        };
        let subject = self.subject(InvestigationPart::Member, user_id);
        let record = MemberRecord {
            standing: Standing::Leaving,
            event_id: announcement::fresh_id(),
            at: OffsetDateTime::now_utc().into(),
            ..person.record.clone()
        };
        let revision = person.revision;
        self.announce(subject, record, revision).await
    }

    async fn announce(&mut self, subject: String, record: MemberRecord, revision: u64) -> Step {
        self.still_holds()?;
        self.note_change().await?;
        let written = investigation::write(&self.shared.bus, subject, &record, revision).await;
        let revision = self.written(written)?;
        let event = announcement::of_member(&record);
        let matter = Matter::Member(record.user.id.clone());
        info!(
            investigation = %self.id,
            user = %record.user.id,
            event = record.standing.word(),
            "announced"
        );
        self.settlement
            .expect(record.event_id.clone(), matter, record.at);
        let person = Person {
            absent_since: None,
            revision,
            record,
        };
        self.people
            .known
            .insert(person.record.user.id.clone(), person);
        self.publish(&event).await
    }

    /// The event of somebody who came or went is stored.
    pub(super) async fn complete_member(&mut self, user_id: &str) -> Step {
        let Some(person) = self.people.known.get_mut(user_id) else {
            return Ok(());
        };
        let revision = person.revision;
        match person.record.standing {
            Standing::Joined => {}
            Standing::Joining => {
                person.record.standing = Standing::Joined;
                let record = person.record.clone();
                let subject = self.subject(InvestigationPart::Member, user_id);
                let bus = &self.shared.bus;
                let written = investigation::write(bus, subject, &record, revision).await;
                let revision = self.written(written)?;
                if let Some(person) = self.people.known.get_mut(user_id) {
                    person.revision = revision;
                }
            }
            Standing::Leaving => {
                let subject = self.subject(InvestigationPart::Member, user_id);
                let removed = investigation::remove(&self.shared.bus, subject, revision).await;
                self.written(removed)?;
                self.people.known.remove(user_id);
            }
        }
        Ok(())
    }
}
