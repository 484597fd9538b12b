//! The dashboards of one shard, and what was told of late. What is told is
//! written once and kept for a while: a dashboard is but a place in it, and one
//! that takes nothing holds up nobody.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use signalbox_protocol::ErrorCode;
use signalbox_protocol::cursor::{Epoch, FleetCursor};
use signalbox_transport::{CloseCode, Frame, Outbound, READER_TOO_SLOW};
use slab::Slab;
use tokio::sync::Notify;

use super::frames::{last, moved};
use super::pack::Packing;
use crate::session::RETRY_AFTER;

/// Scenes that wait for a shard; when full, the watcher waits.
pub(crate) const SCENES_CAPACITY: usize = 64;
/// What is kept of what was told, in bytes; a dashboard that lies further
/// behind is sent away, and one that returns reads what is older from the bus.
const RING_BYTES: usize = 8 * 1024 * 1024;
/// Frames that are sent to a dashboard before the next look at its queue.
const STRIDE: usize = 64;
/// Bytes that are sent to a dashboard before the next look at its queue.
const STRIDE_BYTES: usize = 256 * 1024;

/// What a shard is told.
#[derive(Clone, Debug)]
pub(crate) enum Scene {
    /// The watcher begins, at this position of the logs.
    Start {
        /// The life of the stream of logs.
        epoch: Epoch,
        /// Everything up to here is not told.
        position: u64,
    },
    /// What the logs have behind the last position.
    Logs(Arc<[Line]>),
    /// What else dashboards are told.
    Aside {
        /// The frame.
        frame: Frame,
        /// The position that it says. Who is not there yet is told its own, or
        /// would miss what lies between when it returns.
        seq: FleetCursor,
    },
    /// What overtakes output, and says no position.
    Urgent(Frame),
    /// A dashboard may come in.
    Welcome {
        /// Which.
        member: usize,
        /// The connection that it was, lest another has its place.
        serial: u64,
        /// What it hears first.
        greeting: Arc<[Frame]>,
        /// Where it stands until it gets what it lacks.
        seq: FleetCursor,
        /// What it lacks.
        lacking: Lacking,
    },
}

/// A record of a log, as it is told.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// Its sequence in the stream.
    pub(super) sequence: u64,
    /// What is told of it.
    pub(super) frames: Vec<Frame>,
}

/// What a dashboard lacks at first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lacking {
    /// What these commands wrote up to a position.
    Backlog {
        /// The commands that run.
        commands: Vec<String>,
        /// The position.
        until: u64,
    },
    /// Everything behind a record, of which so many frames are known.
    Missed {
        /// Its sequence.
        after: u64,
        /// Frames of it; 0 = all.
        part: u32,
    },
}

/// One dashboard.
struct Member {
    outbound: Outbound,
    serial: u64,
    packing: Packing,
    /// Told to the session when it may come in.
    lacking: Option<Lacking>,
    welcomed: bool,
    /// Everything up to this was told; `None` = it is being told what lies
    /// before.
    reached: Option<u64>,
    /// The position of the last frame that it was sent.
    seq: Option<FleetCursor>,
    /// Wakes its session.
    news: Rc<Notify>,
}

/// See the module.
pub(crate) struct Stage {
    members: RefCell<Slab<Member>>,
    ring: RefCell<VecDeque<Line>>,
    ring_bytes: Cell<usize>,
    /// Everything behind this is in the ring.
    floor: Cell<u64>,
    position: Cell<u64>,
    epoch: Cell<Option<Epoch>>,
    serial: Cell<u64>,
}

/// How far a dashboard got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Everything was sent.
    Level,
    /// More is there, once its queue is empty.
    More,
    /// A record that is to be sent frame by frame; when that is done, the
    /// dashboard is to be [settled](Stage::settle) behind it.
    Large {
        /// Its sequence.
        sequence: u64,
        /// Its frames.
        frames: Vec<Frame>,
    },
}

impl Default for Stage {
    fn default() -> Self {
        Self {
            members: RefCell::default(),
            ring: RefCell::default(),
            ring_bytes: Cell::new(0),
            floor: Cell::new(u64::MAX),
            position: Cell::new(0),
            epoch: Cell::new(None),
            serial: Cell::new(0),
        }
    }
}

impl Stage {
    /// Lets a dashboard wait to come in; gives its place and serial, and what
    /// wakes its session.
    pub(super) fn enter(&self, outbound: Outbound, packing: Packing) -> (usize, u64, Rc<Notify>) {
        let serial = self.serial.get() + 1;
        self.serial.set(serial);
        let news = Rc::new(Notify::new());
        let place = self.members.borrow_mut().insert(Member {
            outbound,
            serial,
            packing,
            lacking: None,
            welcomed: false,
            reached: None,
            seq: None,
            news: Rc::clone(&news),
        });
        (place, serial, news)
    }

    /// Takes a dashboard off.
    pub(super) fn leave(&self, place: usize) {
        self.members.borrow_mut().remove(place);
    }

    /// What a dashboard lacks, once it was let in.
    pub(super) fn take_lacking(&self, place: usize) -> Option<Lacking> {
        self.members.borrow_mut()[place].lacking.take()
    }

    /// Says that a dashboard has got everything up to a position; false where
    /// what follows is not kept.
    pub(super) fn settle(&self, place: usize, position: u64) -> bool {
        let is_kept = position >= self.floor.get();
        if is_kept {
            self.members.borrow_mut()[place].reach(position);
        }
        is_kept
    }

    /// Says that a dashboard was sent a frame that says this position.
    pub(super) fn pass(&self, place: usize, seq: FleetCursor) {
        self.members.borrow_mut()[place].seq = Some(seq);
    }

    /// Everything behind this is kept.
    pub(super) fn floor(&self) -> u64 {
        self.floor.get()
    }

    /// The life of the stream of logs.
    pub(super) fn epoch(&self) -> Option<Epoch> {
        self.epoch.get()
    }

    /// Sends a dashboard what is kept behind what it has.
    pub(super) fn advance(&self, place: usize) -> Step {
        let mut members = self.members.borrow_mut();
        let member = &mut members[place];
        let Some(reached) = member.reached else {
            return Step::Level;
        };
        if reached >= self.position.get() {
            return Step::Level;
        }
        let ring = self.ring.borrow();
        let begin = ring.partition_point(|line| line.sequence <= reached);
        if let Some(line) = ring.get(begin).filter(|line| weight(line) > STRIDE_BYTES) {
            // Nothing else may be sent before its end.
            member.reached = None;
            return Step::Large {
                sequence: line.sequence,
                frames: line.frames.clone(),
            };
        }
        let (mut frames, mut bytes) = (0, 0);
        let lines = ring.range(begin..).take_while(|line| {
            let is_first = frames == 0;
            frames += line.frames.len();
            bytes += weight(line);
            is_first || (frames <= STRIDE && bytes <= STRIDE_BYTES)
        });
        let lines: Vec<&Line> = lines.collect();
        let last = lines.last().map(|line| line.sequence);
        let frames = lines.iter().flat_map(|line| line.frames.iter());
        if member.packing.is_plain() {
            let _sent = member.outbound.send(frames);
        } else {
            let _sent = member.outbound.send(member.packing.pack(frames).iter());
        }
        let is_level = begin + lines.len() == ring.len();
        let reached = if is_level {
            self.position.get()
        } else {
            last.unwrap_or(reached)
        };
        member.reach(reached);
        if is_level { Step::Level } else { Step::More }
    }

    /// Takes in what the watcher tells.
    pub(super) fn play(&self, scene: Scene) {
        match scene {
            Scene::Start { epoch, position } => self.start(epoch, position),
            Scene::Logs(lines) => self.tell(&lines),
            Scene::Aside { frame, seq } => {
                for (_, member) in self.members.borrow().iter() {
                    if member.welcomed {
                        let _sent = match member.seq {
                            Some(own) if own != seq => {
                                member.outbound.send_frame(&moved(&frame, seq, own))
                            }
                            _ => member.outbound.send_frame(&frame),
                        };
                    }
                }
            }
            Scene::Urgent(frame) => {
                for (_, member) in self.members.borrow().iter() {
                    if member.welcomed {
                        let _sent = member.outbound.send_urgent(&frame);
                    }
                }
            }
            Scene::Welcome {
                member,
                serial,
                greeting,
                seq,
                lacking,
            } => {
                let mut members = self.members.borrow_mut();
                let found = members.get_mut(member);
                if let Some(member) = found.filter(|member| member.serial == serial) {
                    let _sent = member.outbound.send(greeting.iter());
                    member.welcomed = true;
                    member.seq = Some(seq);
                    member.lacking = Some(lacking);
                    member.news.notify_one();
                }
            }
        }
    }

    fn start(&self, epoch: Epoch, position: u64) {
        self.ring.borrow_mut().clear();
        self.ring_bytes.set(0);
        self.floor.set(position);
        self.position.set(position);
        let before = self.epoch.replace(Some(epoch));
        if before.is_some_and(|before| before != epoch) {
            // Positions in the former stream mean nothing any more.
            for (_, member) in self.members.borrow().iter() {
                if member.welcomed {
                    let message = "the logs were made anew, return";
                    send_away(&member.outbound, message);
                }
            }
        }
    }

    fn tell(&self, lines: &[Line]) {
        let before = self.position.get();
        // More at once could overflow the queue of one who reads well.
        let is_small = lines.iter().map(weight).sum::<usize>() <= STRIDE_BYTES;
        {
            let mut ring = self.ring.borrow_mut();
            let mut bytes = self.ring_bytes.get();
            for line in lines {
                bytes += weight(line);
                ring.push_back(line.clone());
                self.position.set(line.sequence);
            }
            while bytes > RING_BYTES && ring.len() > 1 {
                if let Some(line) = ring.pop_front() {
                    bytes -= weight(&line);
                    self.floor.set(line.sequence);
                }
            }
            self.ring_bytes.set(bytes);
        }
        let mut members = self.members.borrow_mut();
        let now = self.position.get();
        // Packed once for all who understand the same.
        let mut packed: Vec<(Packing, Vec<Frame>)> = Vec::new();
        for (_, member) in members.iter_mut() {
            let Some(reached) = member.reached else {
                continue;
            };
            if is_small && reached == before && member.outbound.queued_bytes() == 0 {
                let frames = lines.iter().flat_map(|line| line.frames.iter());
                let packing = member.packing;
                if packing.is_plain() {
                    let _sent = member.outbound.send(frames);
                } else {
                    if !packed.iter().any(|(known, _)| *known == packing) {
                        packed.push((packing, packing.pack(frames)));
                    }
                    for (_, frames) in packed.iter().filter(|(known, _)| *known == packing) {
                        let _sent = member.outbound.send(frames.iter());
                    }
                }
                member.reach(now);
            } else if reached < self.floor.get() {
                send_away(&member.outbound, READER_TOO_SLOW);
                member.reached = None;
            } else {
                member.news.notify_one();
            }
        }
    }
}

impl Member {
    /// It was told everything up to a position.
    fn reach(&mut self, position: u64) {
        self.reached = Some(position);
        if let Some(seq) = &mut self.seq {
            (seq.logs, seq.part) = (position, 0);
        }
    }
}

/// Closes the connection of a dashboard that may return.
pub(super) fn send_away(outbound: &Outbound, message: &str) {
    let farewell = last(ErrorCode::ConnectionFailed, message, Some(RETRY_AFTER));
    outbound.close_with(farewell, CloseCode::TRY_AGAIN_LATER, message);
}

fn weight(line: &Line) -> usize {
    size_of::<Line>() + line.frames.iter().map(Frame::len).sum::<usize>()
}
