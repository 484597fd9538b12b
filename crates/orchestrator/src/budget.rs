//! What a chat may use up, held against what it has.

use std::time::Duration;

use signalbox_protocol::wire::ChatUsage;

use crate::agents::{Budget, Price};
use crate::provider::Usage;
use crate::usage;

/// Calls of tools in one answer where the budget does not say.
const TOOL_CALLS: u32 = 32;

/// The budget of an agent and what the chat has used of it before this turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Meter {
    pub(crate) budget: Budget,
    pub(crate) price: Price,
    /// By earlier answers.
    pub(crate) spent: ChatUsage,
    /// By earlier answers, in milliseconds.
    pub(crate) spent_ms: u64,
}

impl Meter {
    /// Why another call of so many input tokens is not to be made, if so. `settled`
    /// is what the turn's calls have cost until now.
    pub(crate) fn refuses(&self, settled: &ChatUsage, input_tokens: u64) -> Option<&'static str> {
        if self.budget.calls.is_some_and(|most| settled.calls >= most) {
            return Some("the answer has used up its requests to the model");
        }
        let call = Usage {
            input: input_tokens,
            ..Usage::default()
        };
        self.is_over(settled, &call)
    }

    /// Which budget is used up with a call that has used this much so far.
    pub(crate) fn is_over(&self, settled: &ChatUsage, call: &Usage) -> Option<&'static str> {
        let tokens = usage::tokens(&self.spent)
            .saturating_add(usage::tokens(settled))
            .saturating_add(call.total());
        if self.budget.tokens.is_some_and(|most| tokens > most) {
            return Some("the chat has used up its tokens");
        }
        let money = self
            .spent
            .cost_micros
            .saturating_add(settled.cost_micros)
            .saturating_add(self.price.of(call));
        if self.budget.money_micros.is_some_and(|most| money > most) {
            return Some("the chat has used up its money");
        }
        None
    }

    /// How many calls of tools an answer may have.
    pub(crate) fn tool_calls(&self) -> u32 {
        self.budget.tool_calls.unwrap_or(TOOL_CALLS)
    }

    /// How long the turn may take before the chat has used up its time.
    pub(crate) fn time_left(&self) -> Option<Duration> {
        let most = self.budget.wall_time?;
        Some(most.saturating_sub(Duration::from_millis(self.spent_ms)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meter(budget: Budget) -> Meter {
        Meter {
            budget,
            price: Price {
                output: 1_000_000,
                ..Price::default()
            },
            spent: ChatUsage {
                input_tokens: 60,
                output_tokens: 10,
                cost_micros: 10,
                calls: 3,
                ..ChatUsage::default()
            },
            spent_ms: 4_000,
        }
    }

    fn writing(output: u64) -> Usage {
        Usage {
            output,
            ..Usage::default()
        }
    }

    #[test]
    fn nothing_is_limited_without_a_budget() {
        let meter = meter(Budget::default());
        assert_eq!(meter.refuses(&ChatUsage::default(), u64::MAX), None);
        assert_eq!(meter.time_left(), None);
    }

    #[test]
    fn earlier_answers_count_but_for_calls() {
        let budget = Budget {
            tokens: Some(100),
            calls: Some(2),
            ..Budget::default()
        };
        let meter = meter(budget);
        let settled = ChatUsage {
            output_tokens: 10,
            calls: 1,
            ..ChatUsage::default()
        };
        assert_eq!(meter.refuses(&settled, 20), None);
        assert!(meter.refuses(&settled, 21).is_some());
        assert_eq!(meter.is_over(&settled, &writing(20)), None);
        assert!(meter.is_over(&settled, &writing(21)).is_some());
        let settled = ChatUsage {
            calls: 2,
            ..ChatUsage::default()
        };
        assert!(meter.refuses(&settled, 0).is_some());
    }

    #[test]
    fn money_and_time_run_out() {
        let budget = Budget {
            money_micros: Some(15),
            wall_time: Some(Duration::from_secs(5)),
            ..Budget::default()
        };
        let meter = meter(budget);
        assert_eq!(meter.is_over(&ChatUsage::default(), &writing(5)), None);
        assert!(meter.is_over(&ChatUsage::default(), &writing(6)).is_some());
        assert_eq!(meter.time_left(), Some(Duration::from_secs(1)));
    }
}
