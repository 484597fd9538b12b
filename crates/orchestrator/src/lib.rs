//! The orchestrator: holds people's chats with agents, has providers write the
//! answers, and keeps each chat as a log that outlives any process.
//!
//! | direction | subject |
//! |---|---|
//! | in | `svc.orchestrator.<shard>.chat`: start, message, cancel, join |
//! | out | `log.chat.<user>.<session>`: the chat's log, which the server repeats on `live.log.chat.<user>.<session>` |
//! | both | `$KV.chats.<shard>.<user>.<session>`: that an answer is being written |
//! | both | `$KV.leases.orchestrator.…`: who holds a shard, and which orchestrators live |
//!
//! The messages are those of `proto/signalbox/v1/chat.proto`; what sessions are
//! called and which shard a user is in is in [`signalbox_protocol::chat`].
//!
//! # Who says what, and when
//!
//! **A user starts a chat.** The gateway checks the permission and the limits,
//! draws a nonce, and sends `StartChat` to the shard of the user; without an
//! answer, or on `UNAVAILABLE`, it sends the same again until its patience ends,
//! because nobody serves a shard while it changes hands. The answer `ChatStarted`
//! comes after the log's first record, `ChatOpened`, is stored.
//!
//! **A message.** The gateway sends `ChatMessage`, with the client's message id or
//! one of its own, until it is answered. The answer `ChatAccepted` comes after
//! `ChatAsked` is stored. Everything later is in the log, and gateways show what
//! is in the log and nothing else: `ChatChunk`s, then exactly one of
//! `ChatAnswered`, `ChatFailed` and `ChatStopped`. A session answers one message
//! at a time; another one is refused with `AGENT_BUSY` and nothing is queued. A
//! repeated message id is the same message and gets the same answer number.
//!
//! **Numbers.** The answers of a session are numbered from 1, and the chunks of
//! each answer from 1. Whoever shows an answer shows both numbers, and a client
//! that comes back names both; without an answer's number the last answer is
//! meant. What is retried before anything was visible keeps the answer's number.
//!
//! **Joining.** `JoinChat` says where in CHAT the answer begins. The gateway
//! follows the user's logs **first**, then asks, then reads the log from there to
//! the tip that it was told, and goes on live: records carry numbers, so that
//! nothing is lost or doubled where the two meet.
//!
//! **Cancelling.** `CancelChat` is answered when `ChatStopped` is stored. Nothing
//! else ends an answer: not a closed connection, nor a gateway's end.
//!
//! # Take-over
//!
//! A shard's next holder finds what was being written in the bucket `chats`,
//! settles the call that was under way, as an estimate, and notes `ChatTaken`.
//! Where no chunk was stored, the provider is asked again; where some were, a
//! provider that writes the same for the same request goes on behind them, and any
//! other answer ends as `ChatFailed` with AGENT_UNAVAILABLE, keeping what there
//! is. That happens a few times per answer at most, within the answer's budgets
//! and its total time, which count from `ChatAsked`.
//!
//! # Invariants
//!
//! - One orchestrator at a time holds a shard, by a lease. Beyond the lease each
//!   log is fenced by its last sequence: one that was stopped for longer can
//!   append nothing any more, whatever it believes.
//! - Nothing is shown or answered before it is stored.
//! - The chunks of an answer, joined, are `full_response` or `partial_response`.
//! - An answer has one end; each `ChatCallStarted` has one `ChatCallSettled`, before
//!   that end; the end's usage is their sum.
//! - That an answer is being written is in `chats` before `ChatAsked` is in the
//!   log, until its end is.
//!
//! # Modules
//!
//! | module | holds |
//! |---|---|
//! | `config`, `error`, `metrics` | as in all services |
//! | `shard` | a shard while this orchestrator holds it: requests in, recovery |
//! | `session` | one chat: what its log says, and what may be done with it |
//! | `record` | records and what they make of a session's state |
//! | `chat_log` | a session's log on the bus: append, load, walk back |
//! | `turn` | one answer from message to end: calls, clocks, budgets |
//! | `coalesce` | tokens become chunks |
//! | `clock`, `budget`, `usage` | what the turn enforces |
//! | `history` | what of a session a provider is given |
//! | `open_turn` | the bucket of answers that are being written |
//! | [`provider`] | the trait of providers, and those that there are |
//! | [`agents`] | `agents.toml` |
//! | [`analysis`] | the final structured result and its schema |
