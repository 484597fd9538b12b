//! Whatever a server sends, a stream ends in an orderly way: no panic, nothing
//! behind the end, no call that was not complete.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::collect::Collected;
use super::exchange::Decoder;
use super::sse::{SseEvent, SseParser};
use super::{Piece, Request, StopReason, anthropic, openai};

/// Fragments of which streams are made that are nearly right.
const FRAGMENTS: &[&str] = &[
    "data: ",
    "event: message_delta\n",
    "\n\n",
    "[DONE]",
    r#"{"type":"message_start","message":{"usage":{"input_tokens":3}}}"#,
    r#"{"type":"content_block_start","index":0,"content_block":{"type":"tool_use","id":"a","name":"b"}}"#,
    r#"{"type":"content_block_delta","index":0,"delta":{"type":"input_json_delta","partial_json":"{}"}}"#,
    r#"{"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"ü"}}"#,
    r#"{"type":"message_delta","delta":{"stop_reason":"tool_use"}}"#,
    r#"{"type":"message_delta","delta":{"stop_reason":"max_tokens"}}"#,
    r#"{"type":"message_stop"}"#,
    r#"{"type":"error","error":{}}"#,
    r#"{"choices":[{"delta":{"content":"x","tool_calls":[{"function":{"arguments":"{}"}}]}}]}"#,
    r#"{"choices":[{"delta":{"tool_calls":[{"index":9,"id":"q","function":{"name":"n"}}]},"finish_reason":"tool_calls"}]}"#,
    r#"{"choices":[{"finish_reason":"length"}],"usage":{}}"#,
    r#"{"error":"x"}"#,
    "null",
    "[[[[",
];

fn stream() -> impl Strategy<Value = Vec<u8>> {
    let known = prop::sample::select(FRAGMENTS).prop_map(|text| text.as_bytes().to_vec());
    let line =
        prop::sample::select(FRAGMENTS).prop_map(|text| format!("data: {text}\n\n").into_bytes());
    let garbage = prop::collection::vec(any::<u8>(), 0..20);
    let fragment = prop_oneof![6 => line, 2 => known, 1 => garbage];
    prop::collection::vec(fragment, 0..20).prop_map(|parts| parts.concat())
}

fn run(mut decoder: impl Decoder, bytes: &[u8]) -> VecDeque<Piece> {
    let mut parser = SseParser::default();
    let mut events: Vec<SseEvent> = Vec::new();
    let mut pieces = VecDeque::new();
    let fed = parser.feed(bytes, &mut events);
    for event in &events {
        if decoder.event(event, &mut pieces).is_err() {
            return pieces;
        }
        if matches!(pieces.back(), Some(Piece::End(_))) {
            return pieces;
        }
    }
    if fed.is_ok() {
        decoder.closed(&mut pieces).ok();
    }
    pieces
}

proptest! {
    #[test]
    fn any_stream_ends_in_order(bytes in stream()) {
        let collected = || Collected::new(&Request::default());
        let anthropic = run(anthropic::Messages::new(collected(), None), &bytes);
        let openai = run(openai::Completion::new(collected(), None), &bytes);
        for pieces in [anthropic, openai] {
            let ends = pieces.iter().filter(|piece| matches!(piece, Piece::End(_))).count();
            prop_assert!(ends <= 1);
            if let Some(Piece::End(end)) = pieces.back() {
                let meant = end.stop == StopReason::ToolUse;
                prop_assert!(meant || end.calls.iter().all(|call| call.arguments.is_err()));
            } else {
                prop_assert_eq!(ends, 0);
            }
        }
    }
}
