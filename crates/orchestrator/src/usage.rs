//! What calls have cost: what is settled for each, and the sums.

use signalbox_protocol::wire::{ChatCallStarted, ChatUsage};

use crate::agents::Price;
use crate::provider::{Failure, FailureKind, Request, Usage, tokens_of};

/// How a call ended, as far as its cost goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending<'a> {
    /// With its end; the provider may have said what it cost.
    Complete(Option<Usage>),
    /// The provider has failed.
    Failed(&'a Failure),
    /// It was given up here.
    GivenUp,
}

/// What a call has used: what the provider says, or the least that it may be.
///
/// A provider that failed before it began has used nothing. One that was cut off
/// or given up has read the request and written what was seen of the answer, and
/// perhaps more, which it alone knows: that is an estimate.
pub(crate) fn of_call(
    request: &Request,
    reported: Option<Usage>,
    written_bytes: usize,
    ending: Ending<'_>,
) -> Usage {
    if let Ending::Complete(usage) = ending {
        return usage
            .or(reported)
            .unwrap_or_else(|| Usage::estimate(request, written_bytes));
    }
    if let Ending::Failed(failure) = ending
        && reported.is_none()
        && written_bytes == 0
        && has_not_begun(failure.kind)
    {
        return Usage::default();
    }
    let estimate = Usage::estimate(request, written_bytes);
    let Some(reported) = reported else {
        return estimate;
    };
    Usage {
        output: reported.output.max(estimate.output),
        estimated: true,
        ..reported
    }
}

/// Whether such a failure comes in the place of an answer.
const fn has_not_begun(kind: FailureKind) -> bool {
    match kind {
        FailureKind::Unreachable
        | FailureKind::RateLimited
        | FailureKind::Overloaded
        | FailureKind::ServerError
        | FailureKind::Auth
        | FailureKind::BadRequest
        | FailureKind::ContextExceeded => true,
        FailureKind::Cut | FailureKind::Silent | FailureKind::Garbled | FailureKind::TooLarge => {
            false
        }
    }
}

/// The estimate for a call whose orchestrator is gone.
pub(crate) fn of_lost_call(started: &ChatCallStarted, shown_bytes: usize) -> Usage {
    Usage {
        input: started.input_tokens,
        output: tokens_of(shown_bytes),
        estimated: true,
        ..Usage::default()
    }
}

/// What goes into the log for one call.
pub(crate) fn settled(usage: &Usage, price: &Price) -> ChatUsage {
    ChatUsage {
        input_tokens: usage
            .input
            .saturating_add(usage.cache_read)
            .saturating_add(usage.cache_write),
        output_tokens: usage.output,
        cached_input_tokens: usage.cache_read,
        cache_write_tokens: usage.cache_write,
        cost_micros: price.of(usage),
        is_estimated: usage.estimated,
        calls: 1,
    }
}

/// Adds `more` to a sum.
pub(crate) fn add(sum: &mut ChatUsage, more: &ChatUsage) {
    sum.input_tokens = sum.input_tokens.saturating_add(more.input_tokens);
    sum.output_tokens = sum.output_tokens.saturating_add(more.output_tokens);
    sum.cached_input_tokens = sum
        .cached_input_tokens
        .saturating_add(more.cached_input_tokens);
    sum.cache_write_tokens = sum
        .cache_write_tokens
        .saturating_add(more.cache_write_tokens);
    sum.cost_micros = sum.cost_micros.saturating_add(more.cost_micros);
    sum.is_estimated |= more.is_estimated;
    sum.calls = sum.calls.saturating_add(more.calls);
}

/// All tokens of a sum.
pub(crate) const fn tokens(sum: &ChatUsage) -> u64 {
    sum.input_tokens.saturating_add(sum.output_tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORTED: Usage = Usage {
        input: 10,
        output: 2,
        cache_read: 3,
        cache_write: 4,
        estimated: false,
    };

    #[test]
    fn a_complete_call_costs_what_the_provider_says() {
        let request = Request::default();
        let told = of_call(&request, None, 400, Ending::Complete(Some(REPORTED)));
        assert_eq!(told, REPORTED);
        let silent = of_call(&request, None, 400, Ending::Complete(None));
        assert_eq!((silent.output, silent.estimated), (100, true));
    }

    #[test]
    fn a_call_that_was_given_up_is_an_estimate_of_what_was_seen() {
        let request = Request::default();
        let usage = of_call(&request, Some(REPORTED), 400, Ending::GivenUp);
        assert_eq!(
            (usage.input, usage.output, usage.estimated),
            (10, 100, true)
        );
        let cut = Failure::new(FailureKind::Cut, "");
        assert!(of_call(&request, None, 0, Ending::Failed(&cut)).estimated);
    }

    #[test]
    fn a_call_that_has_not_begun_costs_nothing() {
        let failure = Failure::new(FailureKind::RateLimited, "");
        let usage = of_call(&Request::default(), None, 0, Ending::Failed(&failure));
        assert_eq!(usage, Usage::default());
    }

    #[test]
    fn sums_keep_that_a_part_is_an_estimate() {
        let price = Price {
            input: 1_000_000,
            output: 2_000_000,
            ..Price::default()
        };
        let mut sum = settled(&REPORTED, &price);
        assert_eq!((sum.input_tokens, sum.cost_micros), (17, 14));
        let guess = Usage {
            estimated: true,
            ..REPORTED
        };
        add(&mut sum, &settled(&guess, &price));
        assert!(sum.is_estimated);
        assert_eq!((sum.calls, tokens(&sum), sum.cost_micros), (2, 38, 28));
    }
}
