//! Errors as gRPC clients see them: a status with the details of google.rpc.

use std::collections::HashMap;
use std::time::Duration;

use signalbox_protocol::frame::fields::Complaint;
use signalbox_protocol::{ErrorCode, wire};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// Whose error codes these are.
const DOMAIN: &str = "signalbox";
/// How much later the same call may succeed.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// In the details: how many events of a batch are stored.
const ACKNOWLEDGED: &str = "acknowledged";

/// A complaint about a call.
pub(super) fn of(complaint: &Complaint) -> Status {
    build(complaint, HashMap::new())
}

/// A complaint about an event of a batch behind so many that are stored.
pub(super) fn after(complaint: &Complaint, acknowledged: usize) -> Status {
    let metadata = [(ACKNOWLEDGED.to_owned(), acknowledged.to_string())];
    build(complaint, metadata.into())
}

/// A refusal of the caller's own credential.
pub(super) fn of_refusal(refusal: &wire::Refusal) -> Status {
    let code = ErrorCode::parse(&refusal.code).unwrap_or(ErrorCode::Internal);
    of(&Complaint::plain(code, refusal.message.as_str()))
}

fn build(complaint: &Complaint, metadata: HashMap<String, String>) -> Status {
    let code = complaint.code;
    let mut details = ErrorDetails::with_error_info(code.as_str(), DOMAIN, metadata);
    if let Some(field) = &complaint.field {
        details.add_bad_request_violation(field, &complaint.message);
    }
    if matches!(code, ErrorCode::Unavailable | ErrorCode::RateLimit) {
        details.set_retry_info(Some(RETRY_DELAY));
    }
    let code = Code::from_i32(code.grpc_code());
    Status::with_error_details(code, &complaint.message, details)
}
