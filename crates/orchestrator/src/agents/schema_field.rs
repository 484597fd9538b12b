//! A JSON schema in a table: in the file itself or in one beside it.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::document::{Problems, Section};
use crate::analysis::Schema;

/// The longest schema, in bytes.
const MAX_SCHEMA_BYTES: usize = 64 * 1024;

/// Takes the schema that the first field has, or the file that the second field
/// names.
pub(super) fn read(
    section: &mut Section<'_>,
    [inline_field, file_field]: [&'static str; 2],
    directory: &Path,
    problems: &mut Problems,
) -> Option<Arc<Schema>> {
    let inline = section.bounded_text(inline_field, MAX_SCHEMA_BYTES, problems);
    let file = section.bounded_text(file_field, 4096, problems);
    let (key, place, text) = match (inline, file) {
        (None, None) => return None,
        (Some((text, place)), None) => (inline_field, place, Ok(text.to_owned())),
        (None, Some((path, place))) => {
            let text = std::fs::read_to_string(directory.join(path))
                .map_err(|error| format!("{path}: {error}"));
            (file_field, place, text)
        }
        (Some(_), Some((_, place))) => {
            let message = format!("expected either {inline_field} or {file_field}, not both");
            problems.error(&place, &section.field(file_field), message);
            return None;
        }
    };
    let schema = text.and_then(|text| {
        let value: Value = serde_json::from_str(&text)
            .map_err(|error| format!("expected a JSON schema: {error}"))?;
        Schema::compile(value)
    });
    schema
        .map(Arc::new)
        .inspect_err(|message| problems.error(&place, &section.field(key), message))
        .ok()
}
